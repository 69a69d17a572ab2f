"""docs/results/train.md from the measurements in train.json; `train.py` calls it after each of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "results" / "train.md"
TARGETS = {"race": (1.8982, 64), "race256": (1.4697, 256)}
# What a table of the race shows besides the race itself.
KINDS = {
    "": "",
    " (choosing)": "The same recipes on the last tenth of the training split: how they and their steps were chosen.",
    " (first choice)": "A first choice of steps (120 and 56), close under nanoGPT's loss on the last tenth of the "
    "training split, fell short on the validation split, the harder one. The margin was then widened, once, for both.",
}
PEERS = ("nanoGPT", "litgpt", "transformers GPT-2")

Turns = dict[str, dict[str, Any]]  # turn or seed -> what was measured


def write(found: dict[str, Any]) -> None:
    """One section for each question; within it the tables of one machine after those of another, never mixed."""
    lines = [
        "# Training on two cores, beside the peers",
        "",
        "Written by `benchmarks/train.py`. Contestants take turns in one run; absolute figures of a shared machine "
        "move by a quarter from minute to minute, ratios hold. ± is the standard deviation over seeds. Tables of "
        "different machines stand apart, and each says whose it is:",
        "",
        *(f"- **{letter}**: {_machine(here['facts'])}" for letter, here in _lettered(found)),
    ]
    for title, sections in SECTIONS.items():
        tables: list[str] = []
        for letter, here in _lettered(found):
            for part, turns in here["measured"].items():
                name, _, rest = part.partition(" ")
                if name in sections:
                    tables += _marked(sections[name](rest if name not in TARGETS else part, turns), letter)
        lines += ["", f"## {title}", *tables] if tables else []
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lettered(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(chr(ord("A") + index), here) for index, here in enumerate(found.values())]


def _machine(facts: dict[str, Any]) -> str:
    numbers = "bfloat16" if facts["bfloat16"] else "float32 (the processor has no instructions for bfloat16)"
    return (
        f"{facts['cores']} cores of an {facts['cpu']}, {facts['instructions']}; torch {facts['torch']}, Python "
        f"{facts['python']}. All compute in {numbers}, except where a table says otherwise."
    )


def _marked(lines: list[str], letter: str) -> list[str]:
    """The same lines, each heading with the machine's letter."""
    return [f"{line} (machine {letter})" if line.startswith("### ") else line for line in lines]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _values(turns: Turns, key: str) -> list[float]:
    return [turn[key] for turn in turns.values() if turn.get(key) is not None]


def _mean(turns: Turns, key: str, form: str = "{:.4f}") -> str:
    values = _values(turns, key)
    if not values:
        return ""
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread


def _race(part: str, contestants: dict[str, Turns]) -> list[str]:
    name, _, kind = part.partition(" ")
    kind = f" {kind}" if kind else ""
    target, width = TARGETS[name]
    peer = _values(contestants.get("nanoGPT", {}), "seconds")
    rows = []
    for name, turns in contestants.items():
        seconds = _values(turns, "seconds")
        ratio = f"{statistics.mean(peer) / statistics.mean(seconds):.1f} ×" if peer else ""
        rows.append(
            (
                name,
                f"{next(iter(turns.values()))['parameters']:,}",
                str(len(turns)),
                _mean(turns, "nats"),
                _mean(turns, "seconds", "{:.1f}"),
                _mean(turns, "core_seconds", "{:.1f}"),
                _mean(turns, "learning", "{:.1f}"),
                _mean(turns, "first_step", "{:.1f}"),
                _mean(turns, "first_step_core", "{:.1f}"),
                ratio,
            )
        )
    before = KINDS[kind]
    if not kind:
        before = (
            f"Tiny Shakespeare's validation split in windows of {width} bytes that do not overlap, float32, from the "
            f"folder that the command left; goal {target}. Seconds are those of the whole command, from its start to "
            f"its end: import, reading, learning, measuring, saving; to the first step, until its loss stands in the "
            f"run's log. Seconds of a core are those that the command worked: fewer than passed where "
            f"other programs worked too. N-gram embeddings are an option that other programs cannot load."
        )
    core = [turn for turns in contestants.values() for turn in turns.values() if turn.get("core_seconds")]
    if core:
        share = sum(turn["core_seconds"] for turn in core) / sum(turn["seconds"] for turn in core)
        before += f" On average a command had {share:.1f} cores to itself while this was measured."
    title = f"Rows of {width}{kind}"
    head = (
        "command",
        "parameters",
        "seeds",
        "loss, nats a byte",
        "seconds in all",
        "seconds of a core in all",
        "seconds in the loop",
        "to the first step",
        "of a core, to the first step",
        "faster by",
    )
    return ["", f"### {title}", "", before, *_table(head, rows)]


def _speed(shape: str, contestants: dict[str, Turns]) -> list[str]:
    peak = _values(contestants.get("peak", {}), "gflops")
    rivals = [_values(contestants[name], "rate") for name in PEERS if name in contestants]
    best = [max(turn) for turn in zip(*rivals, strict=False)]
    rows = []
    for name, turns in contestants.items():
        if name == "peak":
            continue
        rates, parameters = _values(turns, "rate"), next(iter(turns.values()))["parameters"]
        work = [6 * parameters * rate / 1e9 / high for rate, high in zip(rates, peak, strict=False)]
        ratio = [rate / other for rate, other in zip(rates, best, strict=False)]
        spread = f"{statistics.median(ratio):.2f} ({min(ratio):.2f}–{max(ratio):.2f})" if ratio else ""
        rows.append(
            (
                name,
                f"{parameters:,}",
                f"{statistics.median(rates):,.0f}",
                f"{statistics.median(work):.0%}" if work else "",
                spread,
                f"{statistics.median(_values(turns, 'peak')) / 2**20:,.0f} MiB",
            )
        )
    high = f"{statistics.median(peak):,.0f} GFLOP/s"
    named = [turn["gpu"] for turn in contestants.get("peak", {}).values() if turn.get("gpu")]
    told = (
        f"### {shape}: 6 × parameters × tokens/s as a share of the matrix product ({high}{', '.join(['', *named[:1]])})"
    )
    head = ("contestant", "parameters", "tokens/s", "share of peak", "times the best peer", "peak memory")
    return ["", told, *_table(head, rows)]


def _equal(shape: str, contestants: dict[str, Turns]) -> list[str]:
    any_turn = next(iter(next(iter(contestants.values())).values()))
    told = f"### {shape}: {any_turn['tokens']:,} tokens of Tiny Shakespeare (a tenth of its training split held out)"
    rows = [(name, _mean(turns, "nats"), str(len(turns))) for name, turns in contestants.items()]
    return ["", told, *_table(("contestant", "held-out loss, nats a byte", "seeds"), rows)]


def _clock(text: str, contestants: dict[str, Turns]) -> list[str]:
    minutes = sorted({name.split(", ")[-1] for name in contestants}, key=lambda told: float(told.split()[0]))
    names = list(dict.fromkeys(name.rpartition(", ")[0] for name in contestants))
    rows = []
    for name in names:
        cells = []
        for told in minutes:
            turns = contestants.get(f"{name}, {told}", {})
            tokens = _mean(turns, "tokens", "{:,.0f}")
            core = _mean(turns, "core_seconds", "{:,.0f}")
            bits = _mean(turns, "bits_per_byte", "{:.3f}")
            cells.append(f"{bits} ({tokens} tokens, {core} s of a core)" if turns else "not measured yet")
        rows.append((name, *cells))
    told = (
        "All learned at the same time, one thread each, on a machine with other work; how much of a core each got in "
        "its minutes stands beside its result."
    )
    return ["", f"### {text}", "", told, *_table(("contestant", *minutes), rows)]


def _ablations(_: str, contestants: dict[str, Turns]) -> list[str]:
    base = statistics.mean(_values(contestants["as it is"], "nats"))
    rows = []
    for name, turns in contestants.items():
        nats = _values(turns, "nats")
        per_second = [turn["tokens"] / turn["seconds"] for turn in turns.values()]
        rows.append(
            (
                name,
                _mean(turns, "nats"),
                f"{statistics.mean(nats) - base:+.4f}",
                f"{statistics.median(per_second):,.0f}",
                str(len(turns)),
            )
        )
    told = (
        "The race's network and recipe on the part of the training split that is held out for choosing, 256,000 "
        "tokens; one choice undone at a time."
    )
    head = ("what is undone", "loss, nats a byte", "difference", "tokens/s", "seeds")
    return ["", "### One choice undone at a time", "", told, *_table(head, rows)]


def _rates(_: str, contestants: dict[str, Turns]) -> list[str]:
    loss: dict[tuple[int, str, float], float] = {}
    for name, turns in contestants.items():
        width, which, factor = name.split()
        loss[int(width), which, float(factor)] = statistics.mean(_values(turns, "nats"))
    widths = sorted({width for width, _, _ in loss})
    factors = sorted({factor for _, _, factor in loss})
    lines = [
        "",
        "The loss after 125 steps at four widths, two layers, with one rate multiplied; the best of a row is bold.",
    ]
    for which, told, base in (
        ("learning_rate", "AdamW's rate (embeddings, norms)", 6e-3),
        ("matrix_learning_rate", "Muon's rate (matrices)", 0.03),
    ):
        rows = []
        for width in widths:
            row = [loss.get((width, which, factor), loss.get((width, "learning_rate", factor))) for factor in factors]
            if which != "learning_rate":
                row = [loss.get((width, which if factor != 1.0 else "learning_rate", factor)) for factor in factors]
            best = min((value for value in row if value is not None), default=None)
            shown = [("" if v is None else f"**{v:.4f}**" if v == best else f"{v:.4f}") for v in row]
            rows.append((str(width), *shown))
        lines += ["", f"### {told}", *_table(("width", *(f"{base * factor:g}" for factor in factors)), rows)]
    return lines


def _compared(which: str) -> str:
    network, *korean, steps = which.split(", ")
    read = "Tiny Shakespeare, measured on the last tenth of it" if network == "race" else "children's books"
    return f"### {network}, {steps} of {'Korean reviews and prose' if korean else read}"


def _dial(which: str, contestants: dict[str, Turns]) -> list[str]:
    rows = [
        (name, _mean(turns, "bits_per_byte", "{:.4f}"), _mean(turns, "nats"), str(len(turns)))
        for name, turns in sorted(contestants.items())
    ]
    return ["", _compared(which), *_table(("settings", "held-out bits a byte", "nats a token", "seeds"), rows)]


def _batch(which: str, contestants: dict[str, Turns]) -> list[str]:
    rows = []
    for name, turns in sorted(contestants.items(), key=lambda item: next(iter(item[1].values()))["steps"]):
        cost = statistics.mean(turn["core_seconds"] / turn["tokens"] for turn in turns.values()) * 1e6
        means = _mean(turns, "bits_per_byte", "{:.4f}"), _mean(turns, "nats")
        rows.append((name.removesuffix(" tokens"), *means, f"{cost:.0f}", str(len(turns))))
    told = ("tokens of a step", "held-out bits a byte", "nats a token", "seconds of a core a million tokens", "seeds")
    tokens = next(iter(next(iter(contestants.values())).values()))["tokens"]
    return [
        "",
        _compared(which),
        "",
        f"{tokens:,} tokens in all; the steps that the heading counts are of 2,048.",
        *_table(told, rows),
    ]


def _where(shape: str, contestants: dict[str, Turns]) -> list[str]:
    kinds: list[str] = []
    for turns in contestants.values():
        kinds += [kind for kind in turns["0"] if kind not in kinds]
    rows = []
    for kind in kinds:
        cells = []
        for turns in contestants.values():
            seconds = turns["0"]
            cells.append(f"{seconds[kind] * 1e3:.1f} ms ({seconds[kind] / sum(seconds.values()):.0%})")
        rows.append((kind, *cells))
    return ["", f"### {shape}", *_table(("", *contestants), rows)]


SECTIONS: dict[str, dict[str, Callable[[str, dict[str, Turns]], list[str]]]] = {
    "Seconds to a loss": {"race": _race, "race256": _race},
    "Tokens a second": {"speed": _speed},
    "The loss after the same number of tokens": {"equal": _equal},
    "Bits a byte after the same number of minutes": {"clock": _clock},
    "What earns it": {"ablations": _ablations},
    "Do learning rates carry over?": {"rates": _rates},
    "Rates and momentum for the dial": {"dial": _dial},
    "How much to read before each step": {"batch": _batch},
    "When the rate begins to fall": {"decay": _dial},
    "Where the time of a step goes": {"where": _where},
}
