"""What a fitted scaling law says, for people: what twice the text or twice the size would buy, and how sure that is.

`facts` computes everything into one record that JSON can hold; `markdown` and `draw` show it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from malmoi.plan.ladder import EPOCHS
from malmoi.plan.scaling import FLOPS, Point, ScalingLaw, foretold

REPORT, PICTURE, NUMBERS = "report.md", "scale.png", "report.json"
LEVEL = 0.9
FAR = 10.0  # times the compute of the largest run: from here on a law is a guess
FARTHEST = 1000.0  # and from here on not even that: nothing is said
NO_FLOOR = 1e-3  # of the least loss measured: a smaller E is none
POOR = 0.02  # median error of the law on its own runs: beyond it the runs do not lie on a law
SPANS = (("1 hour", 3600.0), ("1 day", 86_400.0), ("1 week", 604_800.0))
CHANGES = (  # name, times the size, times the tokens
    ("twice the tokens", 1, 2),
    ("twice the size", 2, 1),
    ("twice both", 2, 2),
    ("ten times the tokens", 1, 10),
    ("ten times the size", 10, 1),
    ("ten times both", 10, 10),
)


def facts(
    law: ScalingLaw,
    *,
    unit: str,
    flops_per_second: float | None,
    flops: Sequence[float] = (),
    unique_tokens: int | None = None,
    own: tuple[float, float] | None = None,
    missing: int = 0,
) -> dict[str, Any]:
    """Everything there is to say about a law that was fitted to runs.

    `flops_per_second`: how fast the largest run computed, to turn hours into FLOPs. `own`: parameters and tokens of the
    recipe's own run. `missing`: planned runs that are not finished.
    """
    largest = max(law.points, key=lambda point: point.parameters * point.tokens)
    errors = [abs(math.log(law.loss(p.parameters, p.tokens) / p.loss)) for p in law.points]
    test = foretold(law.points)
    budgets = [(f"{each:.3g} FLOPs", each) for each in flops]
    if flops_per_second:
        budgets += [(f"{name} here", span * flops_per_second) for name, span in SPANS]
    found: dict[str, Any] = {
        "unit": unit,
        "law": {name: _with_interval(law, _reader(name)) for name in ("E", "A", "B", "alpha", "beta")},
        "level": LEVEL,
        "error": statistics.median(errors),
        "runs": [{"parameters": p.parameters, "tokens": p.tokens, "loss": p.loss} for p in law.points],
        "missing": missing,
        "foretold": None if test is None else {"loss": test[0], "measured": test[1].loss},
        "largest": {"parameters": largest.parameters, "tokens": largest.tokens, "loss": largest.loss},
        "flops_per_second": flops_per_second,
        "unique_tokens": unique_tokens,
        "own": None if own is None else {"parameters": own[0], "tokens": own[1], **_answer(law, *own)},
        "changes": [_change(law, largest, *change) for change in CHANGES],
        "optimal": [_optimal(law, name, budget) for name, budget in budgets],
    }
    found["too_far"] = [each["name"] for each in found["optimal"] if each["beyond"] > FARTHEST]
    found["optimal"] = [each for each in found["optimal"] if each["beyond"] <= FARTHEST]
    found["remarks"] = _remarks(found)
    return found


def _reader(name: str) -> Callable[[ScalingLaw], float]:
    return lambda law: getattr(law, name)


def _with_interval(law: ScalingLaw, quantity: Callable[[ScalingLaw], float]) -> dict[str, float]:
    low, high = law.interval(quantity, LEVEL)
    return {"value": quantity(law), "low": low, "high": high}


def _answer(law: ScalingLaw, parameters: float, tokens: float) -> dict[str, Any]:
    return {
        "loss": _with_interval(law, lambda each: each.loss(parameters, tokens)),
        "beyond": law.beyond(parameters, tokens),
    }


def _change(law: ScalingLaw, largest: Point, name: str, larger: float, longer: float) -> dict[str, Any]:
    """What a larger model or more text would save, compared with the law at the largest run."""
    n, d = largest.parameters, largest.tokens
    gain = _with_interval(law, lambda each: each.loss(n, d) - each.loss(larger * n, longer * d))
    return {"name": name, "gain": gain, **_answer(law, larger * n, longer * d)}


def _optimal(law: ScalingLaw, name: str, flops: float) -> dict[str, Any]:
    best = law.optimal(flops)
    return {
        "name": name,
        "flops": flops,
        "parameters": _with_interval(law, lambda each: each.optimal(flops).parameters),
        "tokens": _with_interval(law, lambda each: each.optimal(flops).tokens),
        "loss": _with_interval(law, lambda each: each.optimal(flops).loss),
        "beyond": law.beyond(best.parameters, best.tokens),
    }


def _remarks(found: Mapping[str, Any]) -> list[str]:
    said, law, test = [], found["law"], found["foretold"]
    if test is not None:
        apart = test["loss"] - test["measured"]
        said.append(
            f"A test: kept from the largest run, the law foretells {test['loss']:.4f} for it; measured was "
            f"{test['measured']:.4f} ({apart:+.4f})."
        )
    if found["error"] > POOR:
        said.append(
            f"The law misses its own runs by {found['error']:.1%} (median): they do not lie on one law. Runs that are "
            f"too short, or learning rates that suit only some sizes, do that."
        )
    least = min(run["loss"] for run in found["runs"])
    if law["E"]["value"] < NO_FLOOR * least:
        said.append(
            "E came out as 0: these runs are so far from where the loss must end that they show no floor. Every text "
            "has one, so the gains far away are too good to be true."
        )
    elif law["E"]["low"] < 0.5 * law["E"]["value"]:
        said.append(
            "These runs hardly say where the loss would end (E): they are all far from it, and answers far away depend "
            "on it."
        )
    if any(law[name]["high"] > 1.5 * law[name]["low"] for name in ("alpha", "beta")):
        said.append("The exponents are only roughly known: more sizes, longer runs or a larger --budget would help.")
    if any(each["beyond"] > FAR for each in (*found["changes"], *found["optimal"])):
        said.append(
            f"Marked with *: more than {FAR:g} times beyond the largest run. The interval holds if the law does, and "
            f"nobody has checked it there."
        )
    if found["too_far"]:
        said.append(
            f"Too far to say anything about: {', '.join(found['too_far'])} (more than {FARTHEST:,.0f} times beyond the "
            f"largest run). A larger --budget brings the runs nearer."
        )
    unique = found["unique_tokens"]
    if unique:
        most = max(run["tokens"] for run in found["runs"]) / unique
        if most > 1:
            said.append(
                f'The text has {unique:,} tokens, and the longest runs read it {most:.1f} times. "More tokens" '
                f"means new text: read more than {EPOCHS:g} times, it buys less than the law says."
            )
        wanting = [each for each in found["optimal"] if each["tokens"]["value"] > EPOCHS * unique]
        if wanting:
            said.append(
                f"For {wanting[0]['name']} the best split wants {wanting[0]['tokens']['value']:,.0f} tokens, more than "
                f"{EPOCHS:g} times what there is: gather text, or train a smaller model for longer."
            )
    said.append(
        "All sizes were trained with the recipe's own learning rates. If larger models want smaller ones (malmoi sweep "
        "tells), size buys more than it seems here."
    )
    if found["missing"]:
        said.append(
            f"{found['missing']} planned runs are not finished; the same command with a larger --budget goes on."
        )
    return said


# ---- shown ----------------------------------------------------------------------------------------------------------


def rows(found: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """The tables: name -> (headings, rows). A heading that begins with `>` marks a column of numbers."""
    unit = found["unit"]
    law = [(name, *_three(value, ".4g")) for name, value in found["law"].items()]
    if found["law"]["E"]["value"] < NO_FLOOR * min(run["loss"] for run in found["runs"]):
        law[0] = ("E", "0", "no floor seen")
    changes = [
        (each["name"], f"{each['loss']['value']:.4f}{_mark(each)}", *_three(each["gain"], ".4f"))
        for each in found["changes"]
    ]
    optimal = [
        (
            each["name"],
            f"{each['flops']:.2e}",
            _span(each["parameters"]),
            _span(each["tokens"]),
            f"{each['tokens']['value'] / each['parameters']['value']:.1f}",
            *_three(each["loss"], ".4f"),
            f"{each['beyond']:,.0f}x{_mark(each)}",
        )
        for each in found["optimal"]
    ]
    interval = f"{found['level']:.0%} interval"
    return {
        "The law": (("", ">fitted", ">" + interval), law),
        "What more would buy": (("", f">{unit}", ">saves", ">" + interval), changes),
        "The best split of a budget": (
            ("budget", ">FLOPs", ">parameters", ">tokens", ">tokens/parameter", f">{unit}", ">" + interval, ">beyond"),
            optimal,
        ),
    }


def _mark(answer: Mapping[str, Any]) -> str:
    return " *" if answer["beyond"] > FAR else ""


def _three(value: Mapping[str, float], form: str) -> tuple[str, str]:
    return format(value["value"], form), f"{value['low']:{form}} to {value['high']:{form}}"


def _span(value: Mapping[str, float]) -> str:
    """A large number with its interval: `1.2M (0.9M-1.6M)`."""
    return f"{_large(value['value'])} ({_large(value['low'])}-{_large(value['high'])})"


def _large(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def where(found: Mapping[str, Any]) -> str:
    """A sentence that says what all answers are compared with."""
    largest = found["largest"]
    return (
        f"Compared with the largest run: {largest['parameters']:,.0f} parameters, {largest['tokens']:,.0f} tokens, "
        f"{largest['loss']:.4f} {found['unit']}."
    )


def markdown(found: Mapping[str, Any], title: str, command: str, picture: bool) -> str:
    """The report as a page."""
    tables = rows(found)
    lines = [f"# Scaling: {title}", ""]
    lines += [
        f"{len(found['runs'])} runs; the law is L(N, D) = E + A / N^alpha + B / D^beta in {found['unit']} of held-out "
        f"text. It misses its runs by {found['error']:.2%} (median).",
        "",
    ]
    for name, (headings, body) in tables.items():
        if body:
            lines += [f"## {name}", ""]
            lines += [where(found), ""] if name == "What more would buy" else []
            cells = [[word.removeprefix(">") for word in headings], ["---"] * len(headings), *body]
            lines += ["| " + " | ".join(row) + " |" for row in cells] + [""]
    if found["own"] is not None:
        own = found["own"]
        value, interval = _three(own["loss"], ".4f")
        lines += [
            f"The recipe's own run ({own['parameters']:,.0f} parameters, {own['tokens']:,.0f} tokens) should reach "
            f"{value} ({interval}){_mark(own)}.",
            "",
        ]
    lines += ["## What to make of it", "", *(f"- {remark}" for remark in found["remarks"]), ""]
    if picture:
        lines += [f"![the runs and the law]({PICTURE})", ""]
    lines += ["## The runs", "", f"| parameters | tokens | {found['unit']} |", "| --- | --- | --- |"]
    lines += [f"| {r['parameters']:,.0f} | {r['tokens']:,.0f} | {r['loss']:.4f} |" for r in found["runs"]]
    return "\n".join([*lines, "", "Made by:", "", f"    {command}", ""])


def draw(law: ScalingLaw, unit: str, path: Path) -> bool:
    """Runs and law in one picture: loss over tokens for each size, and over compute with the best split. False without
    matplotlib."""
    try:
        import numpy as np
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    counts = sorted({point.parameters for point in law.points})
    longest = max(point.tokens for point in law.points)
    tokens = np.geomspace(min(point.tokens for point in law.points) / 1.5, longest * 4, 60)
    for number, count in enumerate(counts):
        colour = colormaps["viridis"](0.9 * number / max(len(counts) - 1, 1))
        mine = [point for point in law.points if point.parameters == count]
        left.plot(
            [p.tokens for p in mine], [p.loss for p in mine], "o", color=colour, label=f"{_large(count)} parameters"
        )
        left.plot(tokens, [law.loss(count, d) for d in tokens], "-", color=colour, linewidth=1)
        flops = [FLOPS * count * point.tokens for point in mine]
        right.plot(flops, [point.loss for point in mine], "o", color=colour)
    left.axvspan(longest, tokens[-1], color="#888888", alpha=0.1, label="beyond the runs")
    spent = [FLOPS * point.parameters * point.tokens for point in law.points]
    budgets = np.geomspace(min(spent), max(spent) * 100, 60)
    bands = [law.interval(lambda each, c=c: each.optimal(c).loss, LEVEL) for c in budgets]
    right.plot(budgets, [law.optimal(c).loss for c in budgets], color="#d95f02", label="the best split")
    right.fill_between(budgets, *zip(*bands, strict=True), color="#d95f02", alpha=0.2, label=f"{LEVEL:.0%} interval")
    right.axvspan(max(spent), budgets[-1], color="#888888", alpha=0.1, label="beyond the runs")
    left.set(xscale="log", xlabel="tokens", ylabel=f"held-out {unit}", title="Each size over the text it read")
    right.set(xscale="log", xlabel="training FLOPs (6 N D)", title="What compute buys")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with path.open("wb") as file:
        canvas.print_png(file)
    return True
