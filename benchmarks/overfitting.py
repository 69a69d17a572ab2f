"""Overfitting and its remedies, on real text: one small model, one small text, one change at a time.

    python benchmarks/overfitting.py --data ../shared/data

Each run is `recipes/overfit.yaml` with the first 2.5 % of Tiny Shakespeare as its text and the usual validation part of
it to measure on; a remedy changes one setting. Runs that are done are kept under --runs and not repeated.

Writes docs/results/overfitting.md, overfitting.json and overfitting.png.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
from pathlib import Path
from typing import Any

from malmoi.cli.pipeline import run
from malmoi.cli.progress import Screen
from malmoi.config import Recipe
from malmoi.train.record import read_metrics

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SHARE = 0.025
EARLY = {"train.early_stopping_patience": 3, "train.load_best_model_at_end": True}
DROPOUT = {"model.residual_dropout": 0.2, "model.embedding_dropout": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "no remedy": {},
    "dropout 0.2": DROPOUT,
    "weight decay 1.0": {"train.weight_decay": 1.0},
    "label smoothing 0.1": {"train.label_smoothing": 0.1},
    "learning-rate decay": {"train.lr_scheduler_type": "cosine"},
    "weight averaging 0.98": {"train.ema_decay": 0.98},
    "early stopping": EARLY,
    "dropout + decay + averaging": {
        **DROPOUT,
        "train.weight_decay": 1.0,
        "train.lr_scheduler_type": "cosine",
        "train.ema_decay": 0.98,
        "train.load_best_model_at_end": True,
    },
    "40 times the text": {},
}


def recipe_of(name: str, text: Path, validation: Path) -> Recipe:
    values = Recipe.from_yaml(ROOT / "recipes" / "overfit.yaml").model_dump(mode="json", exclude_unset=True)
    values["data"] = {
        "sources": [{"path": str(text), "name": "tiny shakespeare", "license": "public domain"}],
        "validation": [{"path": str(validation), "name": "tiny shakespeare"}],
    }
    values["train"]["num_threads"] = 1
    for setting, value in SETTINGS[name].items():
        section, field = setting.split(".")
        values[section][field] = value
    return Recipe(**values)


def unpacked(path: Path) -> str:
    return lzma.decompress(path.read_bytes()).decode("utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "overfitting")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    source = options.data / "english" / "tinyshakespeare"
    whole, held_out = (unpacked(source / f"{name}.txt.xz") for name in ("train", "valid"))
    texts = {name: options.runs / f"{name}.txt" for name in ("whole", "part", "validation")}
    texts["whole"].write_text(whole, encoding="utf-8")
    texts["part"].write_text(whole[: int(SHARE * len(whole))], encoding="utf-8")
    texts["validation"].write_text(held_out, encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(SETTINGS):
        folder = options.runs / f"{number}"
        if not (folder / "model").is_dir():
            recipe = recipe_of(name, texts["whole" if "times" in name else "part"], texts["validation"])
            # One vocabulary for all, so that losses by token can be compared: the part's own.
            recipe = recipe.replace(tokenizer=str(options.runs / "0" / "tokenizer")) if number else recipe
            print(f"== {name}")
            with Screen(lines_every=60) as screen:
                run(recipe, folder, resume=(folder / "recipe.yaml").is_file(), show=screen)
        found[name] = {
            "summary": json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            "metrics": read_metrics(folder),
        }
        write(found)
    draw(found)


def write(found: dict[str, dict[str, Any]]) -> None:
    lines = [
        "# Overfitting and its remedies",
        "",
        "Written by `python benchmarks/overfitting.py`. The text is the first 2.5 % of Tiny Shakespeare (25 kB; the",
        "last row: all of it), the model has three layers of width 96, and it reads the part some seventeen times. One",
        "setting differs from row to row; seed, vocabulary, number of steps and held-out text do not. Losses are in",
        "nats per token; *recited* is the share of 100 training passages that the finished model, given 32 tokens (or",
        "16, where passages are short), continues word for word for as many more (in brackets: passages never read).",
        "",
        "| | steps | training loss | held-out, last | held-out, best | at step | gap | recited | skipped |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in found.items():
        summary = one["summary"]
        heart = summary["memorization"]
        lines.append(
            f"| {name} | {summary['steps']} | {summary['training_loss']:.3f} | {summary['held_out_loss']:.3f} | "
            f"{summary['best_held_out_loss']:.3f} | {summary['best_step']} | {summary['gap']:.3f} | "
            f"{heart['training']:.0%} ({heart['held_out']:.0%}) | {summary['skipped']} |"
        )
    lines += ["", "![Losses of all runs](overfitting.png)", ""]
    RESULTS.joinpath("overfitting.md").write_text("\n".join(lines), encoding="utf-8")
    text = json.dumps({name: one["summary"] for name, one in found.items()}, indent=1)
    RESULTS.joinpath("overfitting.json").write_text(text + "\n", encoding="utf-8")


def draw(found: dict[str, dict[str, Any]]) -> None:
    """Held-out losses (lines) and training losses (dashed) of all runs in one plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, one) in enumerate(found.items()):
        color = f"C{number}"
        for field, style, label in (("val_loss", "-", name), ("loss", "--", None)):
            points = [(entry["step"], entry[field]) for entry in one["metrics"] if entry.get(field) is not None]
            axes.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=1.8 if label else 0.9)
        if "early" in name:
            axes.plot(*points[-1], "x", color=color, markersize=9)
            last = [(e["step"], e["val_loss"]) for e in one["metrics"] if e.get("val_loss") is not None][-1]
            axes.plot(*last, "x", color=color, markersize=9)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Held-out loss (line) and training loss (dashed)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, ncols=2)
    with RESULTS.joinpath("overfitting.png").open("wb") as file:
        canvas.print_png(file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
