"""docs/results/serve.md of what serve.py has found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

CLIENTS = ("1", "8", "32")
OURS, LLAMA = "malmoi int8", "llama.cpp Q8_0"
BUSY = 0.3  # cores that others used, before a round, from which on nothing is judged
GOALS = {"8": 4.0, "32": 3.5}


def page(found: dict[str, Any]) -> str:
    machine = found.get("machine", {})
    lines = [
        "# The server under load",
        "",
        f"Written by `benchmarks/serve.py`: {machine.get('processor')}, {machine.get('cores')} cores; "
        "the clients run on the same cores. GPT-2 124M with random weights, the same for all. Everything over HTTP on "
        "127.0.0.1.",
        "",
    ]
    for part, write in (("load", _load), ("overload", _overload), ("disconnects", _disconnects), ("fuzz", _fuzz)):
        if part in found:
            section = write(found[part])
            lines += [*section[:2], f"Threads of each server: {found[part]['threads']}.", "", *section[2:]]
    return "\n".join(lines).rstrip() + "\n"


def _load(part: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for row in part["rounds"] for name in row if name != "others"))
    busy = max(row["others"] for row in part["rounds"]) > BUSY
    lines = [
        "## Streaming clients",
        "",
        f"Each client asks {part['each']} questions of 32 words, one after another, and gets {part['tokens']} tokens, "
        f"sampled at temperature 1. {len(part['rounds'])} rounds, the servers in turns; transformers in one "
        "round only. Rates are medians over the rounds, times over all requests; ratios are taken within a round: "
        "median, and in brackets the least and the most.",
        "",
        "| clients | server | tokens/s | first token p50 | p99 | whole answer p50 | p99 | ours is faster by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for clients in CLIENTS:
        for name in names:
            runs = [row[name][clients] for row in part["rounds"] if clients in row.get(name, {})]
            if not runs:
                lines.append(f"| {clients} | {name} | not asked | | | | | |")
                continue
            good = [run for run in runs if "error" not in run]
            if not good:
                lines.append(f"| {clients} | {name} | {runs[-1]['error']} | | | | | |")
                continue
            first = [value for run in good for value in run["first"]]
            whole = [value for run in good for value in run["latency"]]
            ratios = [] if name == OURS else _ratios(part["rounds"], name, clients)
            lines.append(
                f"| {clients} | {name} | {statistics.median(run['rate'] for run in good):.0f} | {_ms(first, 0.5)} | "
                f"{_ms(first, 0.99)} | {_ms(whole, 0.5)} | {_ms(whole, 0.99)} | {_spread(ratios)} |"
            )
    if busy:
        lines += [
            "",
            "**The machine was not free**: before the rounds other programs used this many cores: "
            f"{min(row['others'] for row in part['rounds']):g} to {max(row['others'] for row in part['rounds']):g}. "
            "Threads that wait for each other in a loop, as llama.cpp's do, suffer more from that than ours, so that "
            "these ratios say nothing about the goals. They have to be measured again on a free machine.",
        ]
    lines += ["", "| clients | goal beside llama.cpp's server | found | met |", "|---|---|---|---|"]
    for clients, goal in GOALS.items():
        ratios = _ratios(part["rounds"], LLAMA, clients)
        met = "not judged" if busy else "yes" if ratios and statistics.median(ratios) >= goal else "no"
        lines.append(f"| {clients} | {goal:g} × | {_spread(ratios) or 'not measured'} | {met} |")
    for name, why in part.get("unavailable", {}).items():
        lines += ["", f"{name} could not be had: {why.strip().splitlines()[-1] if why.strip() else 'no reason given'}"]
    return [*lines, ""]


def _ratios(rounds: Sequence[dict[str, Any]], name: str, clients: str) -> list[float]:
    return [
        row[OURS][clients]["rate"] / row[name][clients]["rate"]
        for row in rounds
        if "rate" in row.get(OURS, {}).get(clients, {}) and "rate" in row.get(name, {}).get(clients, {})
    ]


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) ×" if ratios else ""


def _again(after: float | bool) -> str:
    """How soon somebody who keeps asking is answered after the flood; an older run asked only once."""
    if isinstance(after, bool):
        return "at once" if after else "refused in the moment in which the flood ended, and not asked again"
    return f"after {after:.1f} s" if after >= 0 else "NO, not within a minute"


def _ms(values: Sequence[float], share: float) -> str:
    ordered = sorted(values)
    return f"{1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.0f} ms" if ordered else ""


def _overload(part: dict[str, Any]) -> list[str]:
    statuses = ", ".join(f"{code}: {count:,}" for code, count in sorted(part["statuses"].items()))
    memory = part["memory"]
    return [
        "## 100 times too much",
        "",
        f"The server writes {part['capacity']:.0f} tokens/s for 64 clients (256 tokens an answer). For "
        f"{part['minutes']:g} minutes {part['offered']:.0f} requests a second were offered, 100 times what that allows "
        "(never more than 900 open at once; what is refused is not tried again).",
        "",
        "| | |",
        "|---|---|",
        f"| requests answered or refused | {part['sent']:,} |",
        f"| by status | {statuses} |",
        f"| goodput | {part['goodput']:.0f} tokens/s, {part['goodput'] / part['capacity']:.0%} of the capacity |",
        f"| refused within (p50, p99) | {_ms(part['refused_in'], 0.5)}, {_ms(part['refused_in'], 0.99)} |",
        f"| memory before, most, at the end | {memory[0]:.0f}, {max(memory):.0f}, {memory[-1]:.0f} MB |",
        f"| answers again | {_again(part['answered_after'])} |",
        "",
    ]


def _disconnects(part: dict[str, Any]) -> list[str]:
    memory, left = part["memory"], part["left"]
    return [
        "## Clients that leave",
        "",
        f"{part['count']:,} clients, 32 at a time, left at random moments: before the request was whole, before the "
        f"first token, or within the answer. It took {part['seconds']:.0f} s.",
        "",
        "| | |",
        "|---|---|",
        f"| requests running, waiting afterwards | {left['running']}, {left['waiting']} |",
        f"| blocks of the cache that are free | {left['blocks_free']} of {left['blocks']} |",
        f"| memory before, after each tenth | {', '.join(f'{size:.0f}' for size in memory)} MB |",
        f"| answers afterwards | {'yes' if part['answered_after'] else 'NO'} |",
        "",
    ]


def _fuzz(part: dict[str, Any]) -> list[str]:
    statuses = ", ".join(f"{_named(code)}: {count:,}" for code, count in part["statuses"].items())
    faults = [f"- `{fault}`" for fault in part["faults"]]
    return [
        "## Odd requests",
        "",
        f"{part['count']:,} requests, most of them wrong: fields changed, JSON of any shape, bytes flipped, odd "
        f"headers. It took {part['seconds']:.0f} s.",
        "",
        "| | |",
        "|---|---|",
        f"| by status | {statuses} |",
        f"| 5xx or no answer | {len(part['faults'])} |",
        f"| memory before, after each piece | {', '.join(f'{size:.0f}' for size in part['memory'])} MB |",
        f"| lives and is ready afterwards | {'yes' if part['alive'] else 'NO'} |",
        "",
        *faults,
    ]


def _named(code: str) -> str:
    return {"-1": "connection closed", "-2": "no answer"}.get(code, code)
