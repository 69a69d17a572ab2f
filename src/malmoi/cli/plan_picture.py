"""The picture of a plan: what fills a device's memory, and what a step's time goes into; PNG or SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from malmoi.cli.plan_page import MEMORY, STEP
from malmoi.config import MalmoiError

KINDS = (".png", ".svg")


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the picture whole. Raises `MalmoiError` for another kind of file or a plan without memory and time."""
    if path.suffix.lower() not in KINDS:
        raise MalmoiError(f"--plot {path}: the name must end with {' or '.join(KINDS)}.")
    shown = found if "step" in found else found.get("enough", {})
    if "step" not in shown:
        raise MalmoiError("--plot draws the memory and time of a training; this plan has none.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MalmoiError("--plot needs matplotlib: pip install 'malmoi[plots]'") from None
    from malmoi.tokens.folder import write_bytes

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    memory, step = shown["memory"], shown["step"]
    _bars(
        left,
        [(name, memory[name] / 2**30) for name in MEMORY if memory[name]],
        f"GiB on the fullest device, {memory['peak'] / 2**30:,.3g} in all",
    )
    left.axvline(memory["of"] / 2**30, color="0.4", linestyle="--", label="the device's memory")
    left.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    total = f"seconds of a step, {step['seconds']:,.3g} in all"
    _bars(right, [(text, step[key]) for key, text in STEP.items() if step[key]], total)
    where = shown["machine"]
    figure.suptitle(f"{shown['model']['name']} on {where['devices']:,} x {where['device']}")
    made = io.BytesIO()
    figure.savefig(made, format=path.suffix[1:].lower(), dpi=120)
    write_bytes(path, made.getvalue())


def _bars(axes: Any, rows: list[tuple[str, float]], label: str) -> None:
    bars = axes.barh([name for name, _ in rows], [value for _, value in rows])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
