"""What a sweep found, for people: which settings, how sure, how much each mattered, what to doubt.

`facts` gathers everything into one record that JSON can hold; `markdown` and `draw` show it. The remarks are part of
the result: the best of many trials is partly luck, short trials favour fast settings, and an optimum at the end of a
range is probably not one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from malmoi.train.search_space import Setting, shown
from malmoi.train.sweep import PARTS, Length, Outcome, Sweep

REPORT, PICTURE, NUMBERS = "report.md", "sweep.png", "report.json"
WITHIN = 2.0  # standard deviations between seeds: closer than that, two settings are not told apart
FEW = 5  # finished trials for each setting, below which importances are hardly more than guesses
COLOURS = {"finished": "#1f77b4", "pruned": "#bbbbbb", "best": "#d95f02"}
STATES = ("finished", "pruned", "diverged", "refused", "interrupted")


def facts(sweep: Sweep, length: Length, *, run_tokens: int | None) -> dict[str, Any]:
    """Everything there is to say about a sweep. `run_tokens`: what the recipe's own run would learn from, if known."""
    outcomes, best, repeats = sweep.outcomes(), sweep.best(), sweep.repeats()
    own = next((o for o in outcomes if o.values == dict(sweep.own) and o.state != "interrupted"), None)
    importances = sweep.importances()
    found: dict[str, Any] = {
        "sampler": sweep.sampler,
        "pruner": sweep.pruner,
        "seed": sweep.seed,
        "trial_tokens": length.tokens,
        "run_tokens": run_tokens,
        "seconds": round(sweep.seconds(), 1),
        "counts": {state: sum(o.state == state for o in outcomes) for state in STATES},
        "settings": [
            {
                "name": setting.name,
                "range": setting.words(),
                "scale": setting.scale if not setting.choices else "",
                "importance": importances.get(setting.name),
                "own": sweep.own.get(setting.name),
                "best": best.values[setting.name] if best is not None else None,
            }
            for setting in sweep.space
        ],
        "best": asdict(best) if best is not None else None,
        "own": asdict(own) if own is not None else None,
        "repeats": [asdict(repeat) for repeat in repeats],
        "trials": [asdict(outcome) for outcome in outcomes],
        "spread": None,
        "level_with_best": [],
        "remarks": [],
    }
    if best is not None:
        _weigh(found, best, own, repeats, outcomes)
        found["remarks"] = _remarks(found, sweep.space, best)
    return found


def measure(outcome: Outcome | Mapping[str, Any]) -> float | None:
    """Bits per byte where they are known, else nats per token."""
    kept = asdict(outcome) if isinstance(outcome, Outcome) else outcome
    return kept["bits_per_byte"] if kept["bits_per_byte"] is not None else kept["loss"]


def unit(found: Mapping[str, Any]) -> str:
    """What `measure` counts in."""
    best = found["best"]
    return "bits per byte" if best is not None and best["bits_per_byte"] is not None else "nats per token"


def _weigh(
    found: dict[str, Any], best: Outcome, own: Outcome | None, repeats: Sequence[Outcome], outcomes: Sequence[Outcome]
) -> None:
    """How much is chance, and which trials are as good as the best."""
    again = [value for repeat in repeats if repeat.state == "finished" and (value := measure(repeat)) is not None]
    seeds = [measure(best) or 0.0, *again]
    found["mean"] = statistics.fmean(seeds)
    if len(seeds) < 2:
        return
    spread = found["spread"] = statistics.stdev(seeds)
    found["level_with_best"] = [
        o.number
        for o in outcomes
        if o.state == "finished" and o.values != best.values and (measure(o) or 0.0) < found["mean"] + WITHIN * spread
    ]
    if own is not None and own.state == "finished" and own.values != best.values:
        found["gain"] = (measure(own) or 0.0) - found["mean"]


def _remarks(found: Mapping[str, Any], space: Sequence[Setting], best: Outcome) -> list[str]:
    said, spread, counts = [], found["spread"], found["counts"]
    for setting in space:
        value = best.values[setting.name]
        end = setting.edge(value)
        if end and not (end == "low" and setting.extremes()[0] == 0):
            said.append(
                f"{setting.short} = {shown(value)} lies at the {'lower' if end == 'low' else 'upper'} end of its range "
                f"({setting.words()}): a better value may lie beyond. Sweep again with a wider range."
            )
    if spread is None:
        said.append(
            "The best setting was not repeated with other seeds, so how much of a difference is chance is open."
        )
    elif "gain" in found:
        sure = found["gain"] > WITHIN * spread
        said.append(
            f"Against the recipe's own settings the best one gains {found['gain']:.4f} {unit(found)}; between seeds it "
            f"varies by about {spread:.4f}. "
            + ("That is more than chance." if sure else "That is no more than chance: keep your settings.")
        )
    if found["level_with_best"]:
        numbers = ", ".join(map(str, found["level_with_best"]))
        said.append(
            f"Within chance of the best one: trial {numbers}. What they have in common matters, the rest does not."
        )
    if found["run_tokens"] and found["run_tokens"] > 1.5 * found["trial_tokens"]:
        said.append(
            f"A trial read {found['trial_tokens']:,} tokens, the recipe's own run reads {found['run_tokens']:,}. Short "
            f"trials favour what learns fast: for a much longer run larger batches, smaller learning rates, and (where "
            f"texts are read several times) more weight decay or dropout are often better."
        )
    if counts["finished"] < FEW * len(space):
        said.append(
            f"{counts['finished']} finished trials for {len(space)} setting{'s' if len(space) > 1 else ''} are few; "
            f"a larger --budget with the same command adds to them."
        )
    if counts["interrupted"]:
        said.append(f"{counts['interrupted']} interrupted: cut off, counted in the time, told nothing.")
    if counts["diverged"]:
        said.append(f"{counts['diverged']} diverged: the loss ran away, mostly at high learning rates.")
    if counts["pruned"]:
        said.append(
            f"{counts['pruned']} pruned: ended early because they lagged behind. Settings that start slowly and end "
            f"well lose that way; --pruner none gives them their time."
        )
    return said


def markdown(found: Mapping[str, Any], title: str, command: str, picture: bool) -> str:
    """The report as a page."""
    best = found["best"]
    lines = [f"# Sweep: {title}", ""]
    if best is None:
        return "\n".join([*lines, "No trial was finished yet. Go on with:", "", f"    {command}", ""])
    counts = ", ".join(f"{number} {state}" for state, number in found["counts"].items() if number)
    lines += [
        f"{len(found['trials'])} trials ({counts}) of {found['trial_tokens']:,} tokens each, in "
        f"{found['seconds'] / 60:.1f} minutes; sampler {found['sampler']}, pruner {found['pruner']}, seed "
        f"{found['seed']}. All numbers are {unit(found)} on the same held-out text; less is better.",
        "",
        "## Best settings",
        "",
        f"Trial {best['number']}: **{measure(best):.4f}**"
        + (f" (the recipe's own settings: {measure(found['own']):.4f})" if _known(found["own"]) else "")
        + ". Ready to use: `best.yaml`.",
        "",
        *_table(("setting", "best", "recipe", "searched", "mattered"), setting_rows(found)),
        "",
    ]
    if found["repeats"]:
        again = ", ".join(f"{value:.4f}" for repeat in found["repeats"] if (value := measure(repeat)) is not None)
        lines += [f"With other seeds the same settings reached {again}.", ""]
    lines += ["## What to make of it", "", *(f"- {remark}" for remark in found["remarks"]), ""]
    if picture:
        lines += [f"![every trial]({PICTURE})", ""]
    names = [setting["name"].partition(".")[2] for setting in found["settings"]]
    lines += ["## All trials", "", *_table(("trial", *names, unit(found), "state", "seconds"), trial_rows(found)), ""]
    lines += ["Each trial's curve is in its folder. The study goes on with:", "", f"    {command}", ""]
    return "\n".join(lines)


def setting_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a setting: name, best value, the recipe's value, range, importance; what mattered most first."""
    ranked = sorted(found["settings"], key=lambda setting: -(setting["importance"] or 0.0))
    return [
        (
            setting["name"],
            shown(setting["best"]),
            shown(setting["own"]),
            setting["range"],
            "" if setting["importance"] is None else f"{setting['importance']:.0%}",
        )
        for setting in ranked
    ]


def trial_rows(found: Mapping[str, Any], most: int | None = None) -> list[tuple[str, ...]]:
    """One row a trial, the best first, those that told nothing last."""
    ranked = sorted(found["trials"], key=lambda o: (STATES.index(o["state"]), measure(o) or 0.0))
    return [
        (
            str(outcome["number"]),
            *(shown(outcome["values"].get(setting["name"], "")) for setting in found["settings"]),
            "" if measure(outcome) is None else f"{measure(outcome):.4f}",
            outcome["state"] + (f" at {len(outcome['curve'])}/{PARTS}" if outcome["state"] == "pruned" else ""),
            outcome["note"] or f"{outcome['seconds']:.1f}",
        )
        for outcome in ranked[:most]
    ]


def _known(outcome: Mapping[str, Any] | None) -> bool:
    return outcome is not None and outcome["state"] == "finished"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]


def draw(found: Mapping[str, Any], path: Path) -> bool:
    """All trials in one picture: the search over time, then the loss over each setting. False without matplotlib."""
    finished = [o for o in found["trials"] if o["state"] == "finished"]
    if not finished:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = 1 + len(found["settings"])
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.4 * columns, 3.6 * rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    pruned = [o for o in found["trials"] if o["state"] == "pruned" and measure(o) is not None]
    _history(axes[0], finished, pruned, unit(found))
    for each, setting in zip(axes[1:], found["settings"], strict=True):
        _against(each, setting, finished, pruned, found["best"])
    # Trials that failed badly would squeeze all others into a line.
    values = sorted(measure(o) or 0.0 for o in finished)
    top = values[int(0.85 * (len(values) - 1))]
    margin = 0.15 * max(top - values[0], 0.01 * values[0])
    for each in axes:
        each.set_ylim(values[0] - margin, top + 3 * margin)
        each.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with path.open("wb") as file:
        canvas.print_png(file)
    return True


def _history(axes: Any, finished: Sequence[Any], pruned: Sequence[Any], label: str) -> None:
    best = [min(measure(o) or 0.0 for o in finished[: i + 1]) for i in range(len(finished))]
    for group, state in ((pruned, "pruned"), (finished, "finished")):
        axes.plot(
            [o["number"] for o in group], [measure(o) for o in group], "o", color=COLOURS[state], label=state, ms=5
        )
    axes.step([o["number"] for o in finished], best, where="post", color=COLOURS["best"], label="best so far")
    axes.set(xlabel="trial", ylabel=label, title="The search")


def _against(axes: Any, setting: Mapping[str, Any], finished: Sequence[Any], pruned: Sequence[Any], best: Any) -> None:
    """Loss over one setting; words and sizes stand side by side, ranges on their own scale."""
    name, words = setting["name"], None
    if not setting["scale"]:
        words = setting["range"].split("|")

    def place(outcome: Any) -> Any:
        value = outcome["values"][name]
        return words.index(shown(value)) if words is not None else value

    for group, state in ((pruned, "pruned"), (finished, "finished")):
        axes.plot([place(o) for o in group], [measure(o) for o in group], "o", color=COLOURS[state], ms=5)
    axes.plot([place(best)], [measure(best)], "o", color=COLOURS["best"], ms=9, mfc="none", mew=2)
    if words is not None:
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif setting["scale"] == "log":
        axes.set_xscale("log")
    mattered = "" if setting["importance"] is None else f" ({setting['importance']:.0%})"
    axes.set(xlabel=name.partition(".")[2], title=f"{name.partition('.')[2]}{mattered}")
