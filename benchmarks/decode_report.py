"""A page from the measurements (docs/results/decode.json); `decode.py` writes it after each of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OURS = "malmoi"
COMMAND = "malmoi generate, int8 folder"

Turns = dict[str, dict[str, Any]]  # round -> what was measured, or {"error": why not}
Part = dict[str, Turns]  # by contestant

# Ours, the peers of whom the best counts, the part, the figure, whether more is better, and how many times as good
# ours is meant to be.
GOALS: tuple[tuple[str, str, tuple[str, ...], str, str, bool, float], ...] = (
    ("one sequence, 8 bits", "malmoi int8", ("llama.cpp Q8_0",), "batch1", "rate", True, 2.0),
    ("one sequence, 4 bits", "malmoi int4, head int8", ("llama.cpp Q4_0",), "batch1", "rate", True, 1.7),
    ("one sequence, 16 bits", "malmoi bfloat16", ("llama.cpp F16",), "batch1", "rate", True, 1.4),
    ("sixteen sequences", "malmoi int8", (), "batch16", "rate", True, 2.0),
    ("reading a prompt of 512", "malmoi int8", (), "prefill", "rate", True, 1.5),
)
FIRST_GOAL, COLD_GOAL, READ_GOAL, QUALITY_GOAL = 0.010, 0.5, 0.85, 0.005
SAME_WIDTH = (  # ours, and the peers that keep their weights in as many bits
    ("malmoi float32", ("transformers float32", "OpenVINO float32, told to keep it")),
    ("malmoi bfloat16", ("transformers bfloat16", "llama.cpp F16")),
    ("malmoi int8", ("llama.cpp Q8_0", "CTranslate2 int8", "OpenVINO int8")),
    ("malmoi int4, head int8", ("llama.cpp Q4_0",)),
)


def write(found: dict[str, Any], page: Path) -> None:
    facts = found.get("machine", {})
    pages = " Huge pages are given to " + {
        "[always]": "all memory.",
        "[madvise]": "programs that ask for them.",
        "[never]": "nobody.",
    }.get(next((word for word in facts.get("huge pages", "").split() if word.startswith("[")), ""), "some memory.")
    lines = [
        "# Decoding on a CPU, beside the peers",
        "",
        f"Written by `benchmarks/decode.py`: {facts.get('cpu')} ({facts.get('instructions')}), {facts.get('cores')} "
        f"cores, {facts.get('threads')} threads for each contestant, Python {facts.get('python')}.{pages} GPT-2 124M "
        "with random weights, the same for all, unless told otherwise. Each contestant is a process of its own; they "
        "take turns, a round after another, and a ratio is taken within a round: its median, and in brackets the least "
        "and the most. Nobody keeps prompts, nobody guesses tokens ahead.",
        "",
        "*Huge pages*, behind a peer's name: its memory comes in pages of 2 MB by a switch of the C library "
        "(`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`), which is faster and not what it does by itself; without those "
        "words it runs as it is installed. Malmoi asks for such pages itself. Threads of OpenMP keep to their cores.",
    ]
    lines += _goals(found)
    lines += _decoding(found, "batch1", "One sequence: 8 tokens read, then written one by one")
    lines += _decoding(found, "batch16", "Sixteen sequences at once")
    lines += _ranking(found, "prefill", "Reading a prompt of 512 tokens, another each time", "rate", "tokens/s", True)
    lines += _ranking(found, "first", "The first token after a prompt of 32, warm", "first", "ms", False)
    lines += _memory(found.get("memory", {})) + _cold(found.get("cold", {})) + _quality(found.get("quality", {}))
    for size in ("nano", "mini"):
        lines += _small(found.get(f"small {size}", {}), size)
    lines += _roofline(found) + _contestants(found.get("contestants", {}).get("gpt2", {}))
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- figures ----------------------------------------------------------------------------------------------------------


def _values(turns: Turns, key: str) -> dict[str, float]:
    return {turn: made[key] for turn, made in turns.items() if made.get(key) is not None}


def _median(turns: Turns, key: str) -> float | None:
    values = _values(turns, key).values()
    return statistics.median(values) if values else None


def _error(turns: Turns) -> str:
    return next((made["error"] for made in turns.values() if "error" in made), "not measured")


def _ratios(mine: Turns, theirs: Sequence[Turns], key: str, more: bool) -> list[float]:
    """How many times as good as the best of theirs, round by round."""
    best = max if more else min
    ratios = []
    for turn, value in _values(mine, key).items():
        others = [found[turn] for found in (_values(peer, key) for peer in theirs) if turn in found]
        if others:
            ratios.append(value / best(others) if more else best(others) / value)
    return ratios


def _spread(ratios: Sequence[float], form: str = "{:.2f}") -> str:
    if not ratios:
        return ""
    low, middle, high = (form.format(value) for value in (min(ratios), statistics.median(ratios), max(ratios)))
    return f"{middle} ({low}–{high})"


def _peers(part: Part) -> list[str]:
    return [name for name in part if not name.startswith((OURS, "machine"))]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    table = ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*table, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def _ordered(part: Part, key: str, more: bool) -> list[str]:
    """Contestants, the best first; those without a figure last."""
    middles = {name: _median(turns, key) for name, turns in part.items() if name != "machine"}

    def rank(name: str) -> tuple[bool, float]:
        middle = middles[name]
        return middle is None, 0.0 if middle is None else -middle if more else middle

    return sorted(middles, key=rank)


# --- sections ---------------------------------------------------------------------------------------------------------


def _goals(found: dict[str, Any]) -> list[str]:
    rows = []
    for told, mine, peers, name, key, more, goal in GOALS:
        part = found.get(name, {})
        for tuned in (False, True):
            names = [
                peer for peer in _peers(part) if ("huge pages" in peer) == tuned and peer.startswith(peers or ("",))
            ]
            ratios = _ratios(part.get(mine, {}), [part[peer] for peer in names], key, more)
            if ratios:
                best = _ordered({peer: part[peer] for peer in names}, key, more)[0]
                met = "yes" if statistics.median(ratios) >= goal else "no"
                rows.append((told, mine, best, f"{_spread(ratios)} ×", f"{goal:g} ×", met))
    part = found.get("batch1", {})
    if shares := _shares(found, part, "malmoi int8"):
        met = "yes" if statistics.median(shares) >= READ_GOAL else "no"
        told = "share of the memory's read speed"
        rows.append((told, "malmoi int8", "the machine", _spread(shares, "{:.0%}"), f"{READ_GOAL:.0%}", met))
    if middle := _median(found.get("first", {}).get("malmoi int8", {}), "first"):
        met = "yes" if middle <= FIRST_GOAL else "no"
        told = "first token after a prompt of 32"
        rows.append((told, "malmoi int8", "", f"{middle * 1e3:.1f} ms", f"{FIRST_GOAL * 1e3:g} ms", met))
    if middle := _median(found.get("cold", {}).get(COMMAND, {}), "spoken"):
        met = "yes" if middle <= COLD_GOAL else "no"
        rows.append(
            ("start of the command to the first token", COMMAND, "", f"{middle:.2f} s", f"{COLD_GOAL:g} s", met)
        )
    rows += _quality_goals(found.get("quality", {}))
    return ["", "## What was meant, and what is", *_table(("", "ours", "beside", "found", "goal", "met"), rows)]


def _quality_goals(part: Part) -> list[tuple[str, ...]]:
    rows = []
    for mine, peers in SAME_WIDTH:
        own = _median(part.get(mine, {}), "bits_per_byte")
        held = {peer: value for peer in peers if (value := _median(part.get(peer, {}), "bits_per_byte")) is not None}
        if own is not None and held:
            best = min(held, key=lambda peer: held[peer])
            excess = own / held[best] - 1
            met = "yes" if excess <= QUALITY_GOAL else "no"
            rows.append(("bits a byte, more than", mine, best, f"{excess:+.2%}", f"{QUALITY_GOAL:+.1%}", met))
    return rows


def _size(found: dict[str, Any], name: str, model: str = "gpt2") -> float | None:
    return found.get("contestants", {}).get(model, {}).get(name, {}).get("bytes")


def _shares(found: dict[str, Any], part: Part, name: str) -> list[float]:
    """Bytes of weights a second as a share of what the machine read in the same round, one sequence at a time."""
    size, read = _size(found, name), _values(part.get("machine", {}), "read")
    if size is None:
        return []
    rates = _values(part.get(name, {}), "rate")
    return [rate * size / read[turn] for turn, rate in rates.items() if turn in read]


def _decoding(found: dict[str, Any], name: str, title: str) -> list[str]:
    part = found.get(name, {})
    if not part:
        return []
    peers = [part[peer] for peer in _peers(part)]
    rows = []
    for contestant in _ordered(part, "rate", True):
        turns, size = part[contestant], _size(found, contestant)
        if (rate := _median(turns, "rate")) is None:
            rows.append((contestant, _error(turns), "", "", ""))
            continue
        rows.append(
            (
                contestant,
                f"{rate:,.1f}",
                f"{size / 1e6:,.1f} MB" if size else "",
                _spread(_shares(found, part, contestant), "{:.0%}") if name == "batch1" else "",
                _spread(_ratios(turns, peers, "rate", True)) if contestant.startswith(OURS) else "",
            )
        )
    read = _median(part.get("machine", {}), "read")
    told = f"The machine read {read / 1e9:,.1f} GB/s in the same rounds." if read else ""
    head = ("", "tokens/s", "weights read for a step", "share of read speed", "times the best peer")
    return ["", f"## {title}", "", told, *_table(head, rows)]


def _ranking(found: dict[str, Any], name: str, title: str, key: str, unit: str, more: bool) -> list[str]:
    part = found.get(name, {})
    if not part:
        return []
    peers = [part[peer] for peer in _peers(part)]
    rows = []
    for contestant in _ordered(part, key, more):
        turns = part[contestant]
        middle = _median(turns, key)
        shown = _error(turns) if middle is None else f"{middle:,.0f}" if unit != "ms" else f"{middle * 1e3:.1f}"
        ratios = _ratios(turns, peers, key, more) if contestant.startswith(OURS) else []
        rows.append((contestant, shown, _spread(ratios)))
    return ["", f"## {title}", *_table(("", unit, "times the best peer"), rows)]


def _memory(part: Part) -> list[str]:
    if not part:
        return []
    rows = []
    for contestant in _ordered(part, "peak", False):
        peak, cold = (_median(part[contestant], key) for key in ("peak", "cold"))
        if peak is None and cold is None:
            rows.append((contestant, _error(part[contestant]), ""))
        else:
            rows.append((contestant, f"{peak / 2**20:,.0f} MiB" if peak else "", f"{cold:.2f} s" if cold else ""))
    told = (
        "A fresh process opens the model, reads 32 tokens and writes 32: its highest memory, Python included, and the "
        "seconds from its start to its first token."
    )
    head = ("", "highest memory", "start to first token")
    return ["", "## Memory, and a cold start", "", told, *_table(head, rows)]


def _cold(part: Part) -> list[str]:
    if not part:
        return []
    rows = []
    for name, turns in part.items():
        cells = []
        for key in ("spoken", "seconds"):
            seconds = sorted(_values(turns, key).values())
            cells.append(f"{statistics.median(seconds):.2f} s ({seconds[0]:.2f}–{seconds[-1]:.2f})" if seconds else "")
        work = _median(turns, "cpu")
        rows.append((name, *cells, f"{work:.2f} s" if work else _error(turns)))
    told = (
        "The command that a person types, in a fresh process, its files in the system's cache and its modules in "
        "bytecode, as installing leaves them: from its start until it has said one token, and to its end. Nothing of "
        "it imports torch when the folder is quantised (a test sees to that)."
    )
    return ["", "## The command, cold", "", told, *_table(("", "to the token", "to the end", "of the CPUs"), rows)]


def _quality(part: Part) -> list[str]:
    if not part:
        return []
    base = _median(part.get("malmoi float32", {}), "bits_per_byte")
    rows = []
    for contestant in _ordered(part, "bits_per_byte", False):
        bits = _median(part[contestant], "bits_per_byte")
        if bits is None:
            rows.append((contestant, _error(part[contestant]), ""))
        else:
            rows.append((contestant, f"{bits:.4f}", f"{bits / base - 1:+.2%}" if base else ""))
    any_turn = next((made for turns in part.values() for made in turns.values() if "tokens" in made), None)
    counted = f"{any_turn['tokens']:,} tokens, {any_turn['bytes']:,} bytes" if any_turn else "nothing"
    told = (
        f"A small GPT-2 that Malmoi trained on children's books, and books that it has not seen ({counted}, in windows "
        "of 256 tokens). Every program reads the same token ids and gives its logits; every one but ours from its own "
        "conversion of the same folder. OpenVINO computes a float32 model in bfloat16 on a CPU that has it, unless it "
        "is told otherwise."
    )
    head = ("", "bits a byte", "beside malmoi float32")
    return ["", "## Quality: the same text, the same weights", "", told, *_table(head, rows)]


def _small(part: Part, size: str) -> list[str]:
    if not part:
        return []
    peers = [part[peer] for peer in _peers(part)]
    rows = []
    for contestant in _ordered(part, "rate", True):
        turns = part[contestant]
        rate, around = _median(turns, "rate"), _median(turns, "around")
        ratios = _ratios(turns, peers, "rate", True) if contestant.startswith(OURS) else []
        shown = _error(turns) if rate is None else f"{rate:,.0f}"
        rows.append((contestant, shown, f"{around * 1e6:.0f} µs" if around else "", _spread(ratios)))
    told = (
        "One sequence. Around the kernels: what a token costs in the engine besides the compiled step: choosing it, "
        "keeping books, Python."
    )
    head = ("", "tokens/s", "around the kernels, a token", "times the best peer")
    return ["", f"## The size `{size}`", "", told, *_table(head, rows)]


def _roofline(found: dict[str, Any]) -> list[str]:
    part = found.get("roofline", {})
    whole, head_work = (_median(part.get("gpt2", {}), key) for key in ("operations", "head"))
    limits = {key: _median(part.get("machine", {}), key) for key in ("read", "float32", "bfloat16", "int8")}
    read = limits["read"]
    if whole is None or head_work is None or read is None:
        return []
    # bfloat16 weights are multiplied in float32; int8 and int4 in whole numbers
    multiplied = {"float32": "float32", "bfloat16": "float32", "int8": "int8", "int4, head int8": "int8"}
    rows = []
    for kind, numbers in multiplied.items():
        name, high = f"{OURS} {kind}", limits[numbers]
        size = _size(found, name)
        if size is None or high is None:
            continue
        for told, where, tokens in (("1", "batch1", 1), ("16", "batch16", 16), ("512 (a prompt)", "prefill", 512)):
            rate = _median(found.get(where, {}).get(name, {}), "rate")
            if rate is None:
                continue
            work = whole - head_work * (1 - 1 / tokens) if where == "prefill" else whole  # one head for a prompt
            least = max(size / tokens / read, work / high)
            bound = "memory" if size / tokens / read > work / high else "multiplying"
            cells = (f"{size / tokens * rate / 1e9:,.1f} GB/s ({size / tokens * rate / read:.0%})",)
            cells += (f"{work * rate / 1e9:,.0f} G/s ({work * rate / high:.0%})",)
            rows.append((name, told, *cells, f"{1 / least:,.0f} ({bound})", f"{rate * least:.0%}"))
    shown = ", ".join(f"{high / 1e9:,.0f} G/s in {key}" for key, high in limits.items() if key != "read" and high)
    told = (
        f"What the machine can do at best (`benchmarks/decode_limits.cpp`, all threads): read {read / 1e9:,.1f} GB/s "
        f"from huge pages; multiply and add {shown}, in registers. A token takes {whole / 1e6:,.0f} million "
        "multiplications and additions in the matrices, and its share of the weights' bytes. The roof is the lower of "
        "the two limits. Weights that lie in the caches from one step to the next can pass the first."
    )
    head = ("", "tokens in a step", "weights read", "operations", "roof, tokens/s", "of the roof")
    return ["", "## The roofline", "", told, *_table(head, rows)]


def _contestants(facts: dict[str, dict[str, Any]]) -> list[str]:
    if not facts:
        return []
    rows = []
    for name, said in facts.items():
        others = {key: value for key, value in said.items() if key not in ("version", "bytes")}
        rows.append((name, str(said.get("version", "")), "; ".join(f"{key}: {value}" for key, value in others.items())))
    told = (
        "transformers: its own forward pass and cache in a plain loop, quicker than `generate`. CTranslate2: "
        "`generate_batch`, without the prompt in its result. OpenVINO GenAI: continuous batching over paged attention, "
        "step by step; plain OpenVINO: the same file with its cache as state. llama.cpp: compiled here from the "
        "sources in llama-cpp-python for this CPU's own instructions, called through its C interface; its files are "
        "those of `malmoi export`. All greedy."
    )
    return ["", "## Who they are", "", told, *_table(("", "version", "settings"), rows)]
