"""`malmoi runs`: the runs of a folder side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli.console import console, duration, energy, print_json, short, table
from malmoi.config import MalmoiError

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

METRICS, SUMMARY = "metrics.jsonl", "summary.json"


@app.command()
def runs(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, or folders that hold some.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw all losses into one picture (.png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List and compare training runs, the best held-out loss first.

    [bold]Examples[/bold]

    \b
    malmoi runs
    malmoi runs runs/a runs/b --plot losses.png
    """
    found = [_read(folder) for folder in find_runs(folders or [Path("runs")])]
    if not found:
        raise MalmoiError(
            f"There is no run in {', '.join(map(str, folders or ['runs']))}: a run's folder holds {METRICS}. "
            f"Begin one: malmoi train recipes/village.yaml"
        )
    found.sort(key=lambda run: (run["best_held_out_loss"] is None, run["best_held_out_loss"] or 0.0, run["folder"]))
    if plot is not None:
        _draw(found, plot)
    if as_json:
        print_json([{name: value for name, value in run.items() if name != "lines"} for run in found])
    else:
        console().print(_table(found))
        if plot is not None:
            console().print(f"Drawn: {plot}", markup=False)


def find_runs(places: list[Path]) -> list[Path]:
    """The folders of runs at or below the places, at most three levels deep."""
    chosen: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise MalmoiError(f"{place}: there is no such folder.")
        for pattern in ("", "*/", "*/*/", "*/*/*/"):
            for path in sorted(place.glob(f"{pattern}{METRICS}")):
                if not path.parent.name.startswith("checkpoint-"):  # which holds the log as it was then
                    chosen[path.parent] = None
    return list(chosen)


def _read(folder: Path) -> dict[str, Any]:
    """One run as a record, finished or not; what is not known is None."""
    from malmoi.train.record import read_energy, read_metrics

    lines = read_metrics(folder)
    last = lines[-1] if lines else {}
    measured = [(line["val_loss"], line["step"]) for line in lines if line.get("val_loss") is not None]
    best, best_step = min(measured, default=(None, None))
    summary: dict[str, Any] = {}
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        finished = True
    except (OSError, ValueError):
        finished = False
    spent = read_energy(folder)
    bits = [line["bpb"] for line in lines if line.get("bpb") is not None]
    return {
        "folder": str(folder),
        "finished": finished,
        "steps": last.get("step", 0),
        "tokens": last.get("tokens", 0),
        "seconds": last.get("seconds", 0.0),
        "parameters": summary.get("parameters"),
        "training_loss": last.get("loss"),
        "best_held_out_loss": best,
        "best_step": best_step,
        "bits_per_byte": min(bits, default=None),
        "gap": next((line["gap"] for line in reversed(lines) if line.get("gap") is not None), None),
        "recited": (summary.get("memorization") or {}).get("training"),
        "skipped": last.get("skipped", 0),
        "joules": sum(spent.values()) if spent else None,
        "joules_per_token": (summary.get("energy") or {}).get("joules_per_token"),
        "energy_method": "; ".join(spent) or None,
        "lines": lines,
    }


def _table(found: list[dict[str, Any]]) -> Any:
    def number(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    rows = [
        (
            run["folder"],
            "" if run["parameters"] is None else short(run["parameters"]),
            f"{run['steps']:,}" + ("" if run["finished"] else " …"),
            short(run["tokens"]),
            duration(run["seconds"]),
            number(run["training_loss"], ".3f"),
            number(run["best_held_out_loss"], ".3f"),
            f"{run['best_step'] or ''}",
            number(run["bits_per_byte"], ".3f"),
            number(run["gap"], "+.3f"),
            number(run["recited"], ".0%"),
            _energy(run),
            run["skipped"] or "",
        )
        for run in found
    ]
    headings = "run >parameters >steps >tokens >time >loss >held-out >at >bits/byte >gap >recited >energy >skipped"
    return table(headings.split(), rows)


def _energy(run: dict[str, Any]) -> str:
    """Joules; with a ~ where they, or a part of them, are estimated."""
    if run["joules"] is None:
        return ""
    return ("~" if "estimated" in run["energy_method"] else "") + energy(run["joules"])


def _draw(found: list[dict[str, Any]], path: Path) -> None:
    """Held-out losses (lines) and training losses (dashed) of all runs in one picture."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MalmoiError("--plot needs matplotlib: pip install 'malmoi[plots]'") from None
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, run in enumerate(found):
        for field, style, width in (("val_loss", "-", 1.8), ("loss", "--", 0.9)):
            points = [(line["step"], line[field]) for line in run["lines"] if line.get(field) is not None]
            if points:
                label = run["folder"] if field == "val_loss" else None
                axes.plot(*zip(*points, strict=True), style, color=f"C{number % 10}", linewidth=width, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Held-out loss (line) and training loss (dashed)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)
    try:
        with path.open("wb") as file:
            canvas.print_png(file)
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be written: {error.strerror or error}.") from None
