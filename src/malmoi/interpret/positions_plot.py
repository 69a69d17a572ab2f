"""Positions as one picture: `draw(positions(config, table), name, "positions.png")`.

Above, the places themselves (clock hands, or the learned table); below, how alike they look by distance, which tokens a
layer of each type sees, and, where there are windows, how the reach grows with depth. Labels are English: not every
machine has a Korean font.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from malmoi.config import MalmoiError
from malmoi.interpret.positions import Learned, Positions, Rotary

INK, BLUE, ORANGE, GREY = "#22303c", "#2a6f97", "#e07a2f", "#9aa5ae"
_SEEN = ["#f4f6f8", "#8fbcd4", ORANGE]  # not seen, seen by full attention only, seen through a window too
_HANDS = 192  # tokens of the picture of clock hands


def draw(found: Positions, name: str, path: Path | str) -> Path:
    """Write the picture as PNG. Raises `MalmoiError` where matplotlib (extra `plots`) is missing."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MalmoiError("Drawing needs matplotlib: pip install 'malmoi[plots]'.") from None
    path = Path(path)
    places, windowed = found.rotary or found.learned, any(found.windows)
    panels = (1 if places else 0) + (2 if windowed else 1)
    style = {"font.size": 10, "axes.titlesize": 11, "axes.edgecolor": GREY, "axes.titlepad": 10, "axes.labelcolor": INK}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold", "text.color": INK}
    with rc_context(style):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(13 if panels > 1 else 5.5, 8.2 if places else 4.8), layout="constrained", dpi=120)
        canvas = FigureCanvasAgg(figure)
        writable = all(character < "\u1100" for character in name)  # by the font that comes with matplotlib
        figure.suptitle(
            f"Positions in {name}" if writable else "Positions", fontsize=15 if panels > 1 else 13, fontweight="bold"
        )
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        grid = figure.add_gridspec(2 if places else 1, 6)
        below = grid[-1, :].subgridspec(1, panels)
        match places:
            case Rotary():
                _wavelengths(figure.add_subplot(grid[0, :3]), places, found.context)
                _hands(figure, figure.add_subplot(grid[0, 3:]), places, found.context)
                _similarity(figure.add_subplot(below[0]), places, found.context)
            case Learned():
                _cosines(figure, figure.add_subplot(grid[0, :3]), places, found.context)
                _norms(figure.add_subplot(grid[0, 3:]), places)
                _by_distance(figure.add_subplot(below[0]), places)
        _sight(figure.add_subplot(below[-2 if windowed else -1]), found)
        if windowed:
            _reach(figure.add_subplot(below[-1]), found)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            canvas.print_png(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _wavelengths(axes: Any, places: Rotary, context: int) -> None:
    pairs = range(len(places.wavelengths))
    if places.stretched:
        axes.plot(pairs, places.unscaled, color=GREY, linewidth=1.6, linestyle="--", label="before stretching")
    colours = [BLUE if wavelength <= context else ORANGE for wavelength in places.wavelengths]
    axes.plot(pairs, places.wavelengths, color=GREY, linewidth=0.8, zorder=1)
    axes.scatter(pairs, places.wavelengths, c=colours, s=22, zorder=2)
    turning = places.full_turns(context)
    axes.scatter([], [], c=BLUE, s=22, label=f"turns fully within the context ({turning})")
    axes.scatter([], [], c=ORANGE, s=22, label=f"does not come round ({len(colours) - turning})")
    axes.set_yscale("log")
    _line(axes, context, f"context {context:,}", INK)
    if places.trained_context:
        _line(axes, places.trained_context, f"trained on {places.trained_context:,}", GREY)
    axes.set(title="Wavelength of each pair: tokens for one full turn", xlabel="pair of a head", ylabel="tokens")
    axes.legend(frameon=False, loc="lower right")
    axes.margins(x=0.02)


def _line(axes: Any, height: float, label: str, colour: str) -> None:
    axes.axhline(height, color=colour, linewidth=1, zorder=1)
    axes.annotate(
        label,
        (0, height),
        xycoords=("axes fraction", "data"),
        xytext=(6, 5),
        textcoords="offset points",
        color=colour,
        fontsize=9,
    )


def _hands(figure: Any, axes: Any, places: Rotary, context: int) -> None:
    tokens = torch.arange(min(_HANDS, context), dtype=torch.float32)
    picture = (tokens * (2 * math.pi / torch.tensor(places.wavelengths))[:, None]).cos()  # (P, T)
    image = axes.imshow(
        picture.numpy(), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", origin="lower"
    )
    axes.set(title=f"The clock hands at the first {len(tokens)} places", xlabel="place", ylabel="pair of a head")
    figure.colorbar(image, ax=axes, label="cosine of the angle", ticks=[-1, 0, 1], shrink=0.9)


def _similarity(axes: Any, places: Rotary, context: int) -> None:
    distances = torch.logspace(0, math.log10(max(context, 2)), 300).round().unique()
    similarity = places.similarity(distances)
    nearness = (-((distances.log()[:, None] - distances.log()) ** 2) / 0.02).exp()  # of points on this axis
    mean = nearness @ similarity / nearness.sum(dim=1)
    axes.plot(distances.numpy(), similarity.numpy(), color=_SEEN[1], linewidth=0.9)
    axes.plot(distances.numpy(), mean.numpy(), color=BLUE, linewidth=2)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.set(
        title="How alike two places look", xlabel="tokens apart", ylabel="mean cosine of all pairs", ylim=(None, 1)
    )


def _cosines(figure: Any, axes: Any, table: Learned, context: int) -> None:
    image = axes.imshow(table.cosines.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, context, context, 0))
    axes.set(title="Cosine between the vectors of two places", xlabel="place", ylabel="place")
    figure.colorbar(image, ax=axes, label="cosine", ticks=[-1, 0, 1], shrink=0.9)


def _norms(axes: Any, table: Learned) -> None:
    axes.plot(table.norms.numpy(), color=BLUE, linewidth=1.2)
    axes.set(title="Length of each place's vector", xlabel="place", ylabel="length")
    axes.set_ylim(0, float(table.norms.max()) * 1.08)
    axes.margins(x=0.01)


def _by_distance(axes: Any, table: Learned) -> None:
    distances = torch.arange(len(table.by_distance)) * table.stride
    axes.plot(distances.numpy(), table.by_distance.numpy(), color=BLUE, linewidth=1.8)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title="How alike two places look", xlabel="tokens apart", ylabel="mean cosine")


def _sight(axes: Any, found: Positions) -> None:
    """Queries downwards, keys to the right; as much of the context as shows the window."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    windows = [window for window in found.windows if window is not None]
    window = min(max(windows), found.context) if windows else None
    shown = min(found.context, 3 * window if window else 64)
    places = torch.linspace(0, shown - 1, min(shown, 400))
    back = places[:, None] - places[None, :]
    full = None in found.windows
    seen = torch.zeros_like(back)
    if full:
        seen = torch.where(back >= 0, 1.0, seen)
    if window:
        seen = torch.where((back >= 0) & (back < window), 2.0, seen)
    axes.imshow(
        seen.numpy(), cmap=ListedColormap(_SEEN), vmin=0, vmax=2, extent=(0, shown, shown, 0), interpolation="nearest"
    )
    legend = [Patch(color=_SEEN[2], label=f"window of {window:,} ({len(windows)} layers)")] if window else []
    if full:
        legend.append(Patch(color=_SEEN[1], label=f"whole past ({found.windows.count(None)} layers)"))
    axes.legend(handles=legend, frameon=False, loc="upper right", fontsize=9)
    axes.set(title="Which tokens a layer sees", xlabel="looks at token", ylabel="token")


def _reach(axes: Any, found: Positions) -> None:
    from matplotlib.ticker import MaxNLocator

    layers = range(1, len(found.reach) + 1)
    full = [window is None for window in found.windows]
    axes.step([0, *layers], [1, *found.reach], where="post", color=GREY, linewidth=1.2, zorder=1)
    for whole, colour, label in (
        (True, BLUE, "layer that sees the whole past"),
        (False, ORANGE, "layer with a window"),
    ):
        chosen = [layer for layer, kind in zip(layers, full, strict=True) if kind is whole]
        if chosen:
            axes.scatter(
                chosen, [found.reach[layer - 1] for layer in chosen], color=colour, s=18, label=label, zorder=2
            )
    _line(axes, found.context, f"context {found.context:,}", INK)
    axes.set_yscale("log")
    axes.set_ylim(0.8, found.context * 3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="How far back a layer's output reaches", xlabel="layer", ylabel="tokens, itself included")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.margins(x=0.02)
