"""Scenes -> pixels: the Village's own renderer, small, anti-aliased and the same on every machine.

A shape is a question, "is the point (x, y) inside?", asked of a square from -1 to 1; a pixel takes colour by the share
of its 8 x 8 sample points that are. There is no drawing library, so that a picture is a function of the scene alone,
bit by bit, and the reader of pictures (`malmoi.data.village.reader`) can hold any picture against it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from malmoi.data.village.sights import PLACES, Scene

CELL, SIDE = 16, 48  # pixels of a place, and of the picture
RADIUS = {"small": 4.2, "big": 6.6}  # pixels
SHIFT = 1  # a thing lies up to so many pixels beside the middle of its place
RGB = {
    "red": (215, 35, 40),
    "blue": (35, 80, 215),
    "yellow": (245, 200, 30),
    "green": (35, 155, 70),
    "black": (20, 20, 20),
    "grey": (150, 150, 150),
    "pink": (250, 140, 195),
}
_SAMPLES = 8  # points of a pixel in each direction

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: between two of them the outline is a straight line, so one fold of the circle is enough."""
    y = y - 0.08
    fold = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fold) % (2 * fold) - fold)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner = 0.45
    edge_x, edge_y = inner * np.cos(fold) - 1.08, inner * np.sin(fold)
    return (along - 1.08) * edge_y - across * edge_x <= 0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    lobes = (np.abs(x) - 0.48) ** 2 + (y + 0.4) ** 2 <= 0.27
    return lobes | ((np.abs(x) * 1.05 + y <= 0.92) & (y >= -0.4) & (np.abs(x) <= 1))


def _flower(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five round petals around a hole."""
    petals = np.zeros(x.shape, bool)
    for k in range(5):
        angle = 2 * np.pi * k / 5
        petals |= (x - 0.62 * np.sin(angle)) ** 2 + (y + 0.62 * np.cos(angle)) ** 2 <= 0.38**2
    return petals & (np.hypot(x, y) > 0.3)


SHAPES: dict[str, Inside] = {  # y grows downwards
    "circle": lambda x, y: np.hypot(x, y) <= 0.98,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.88,
    "triangle": lambda x, y: (y <= 0.8) & (y >= -0.95 + 1.75 * np.abs(x)),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (np.maximum(np.abs(x), np.abs(y)) <= 0.98),
    "moon": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x - 0.5, y) > 0.78),
    "ring": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x, y) > 0.55),
    "house": lambda x, y: (
        ((np.abs(x) <= 0.7) & (y >= -0.1) & (y <= 1) & ~((np.abs(x) <= 0.22) & (y > 0.3)))
        | ((y <= -0.1) & (y >= -1 + 0.9 * np.abs(x)))
    ),
    "tree": lambda x, y: (x**2 + ((y + 0.3) / 0.9) ** 2 <= 0.55) | ((np.abs(x) <= 0.17) & (y >= 0.2) & (y <= 1)),
    "fish": lambda x, y: (
        (((x + 0.25) / 0.75) ** 2 + (y / 0.55) ** 2 <= 1) | ((x >= 0.3) & (x <= 1) & (np.abs(y) <= 0.85 * (x - 0.15)))
    ),
    "flower": _flower,
}


@functools.cache
def coverage(shape: str, size: str, right: int = 0, down: int = 0) -> np.ndarray:
    """How much of each pixel of a place (16, 16) a thing covers, 0 to 1, moved by whole pixels from the middle."""
    points = (np.arange(CELL * _SAMPLES) + 0.5) / _SAMPLES - CELL / 2
    x, y = (points[None] - right) / RADIUS[size], (points[:, None] - down) / RADIUS[size]
    inside = SHAPES[shape](*np.broadcast_arrays(x, y))
    return inside.reshape(CELL, _SAMPLES, CELL, _SAMPLES).mean((1, 3))


def paint(scene: Scene, shifts: tuple[tuple[int, int], ...] | None = None) -> np.ndarray:
    """The picture of a scene: (48, 48, 3) uint8 on white. `shifts`: pixels to the right and down for each thing."""
    canvas = np.full((SIDE, SIDE, 3), 255.0)
    for number, sight in enumerate(scene):
        right, down = shifts[number] if shifts is not None else (0, 0)
        row, column = divmod(PLACES.index(sight.place), 3)
        cover = coverage(sight.shape, sight.size, right, down)[..., None]
        place = canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        place[:] = place * (1 - cover) + np.array(RGB[sight.colour]) * cover
    return np.rint(canvas).astype(np.uint8)
