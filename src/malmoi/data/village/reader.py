"""Pixels -> scene: the deterministic judge of pictures that somebody else painted. No model, nothing learned.

Reading is painting backwards: in each of the nine places, every shape in every size, colour, position and softness is
held against the pixels, and the one with the smallest squared difference is what is seen, if it is more like the place
than emptiness is. Noise raises all differences alike, and blur is one of the softnesses, so the best stays the best.

What no thing explains must not count as right. What is left over is averaged over blocks of 4 x 4 pixels, in which
noise and soft edges cancel out and foreign ink does not; a place where much remains is unreadable, and so is a picture
with such a place.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from malmoi.config import MalmoiError
from malmoi.data.village.painter import CELL, RGB, SHIFT, SIDE, coverage
from malmoi.data.village.sights import COLOURS, PLACES, SHAPES, SIZES, Scene, Sight

PRESENT = 0.4  # a thing is seen where it explains this share of the squared ink that it would have by itself
UNEXPLAINED = 0.12  # the share of a thing's own blocks, and of the faintest thing's, that may be left over
_SOFTNESS = (0, 1, 3)  # times that the kernel (1, 2, 1)/4 passes over a thing in both directions
_BLOCK = 4
_QUIET = 20.0  # ink of a block's mean that is no ink: paper is not always quite white


class Reading(NamedTuple):
    """What is to be seen, and the places where there is something that is no thing of the Village."""

    scene: Scene
    unreadable: tuple[str, ...]

    def shows(self, scene: Scene) -> bool:
        """Whether the picture shows exactly this scene."""
        return not self.unreadable and self.scene == scene


class _Candidates(NamedTuple):
    covers: np.ndarray  # (K, 256)
    energies: np.ndarray  # (K, C) squared ink
    inks: np.ndarray  # (C, 3) what a colour takes away from white
    kinds: list[tuple[str, str]]  # shape and size of each
    faintest: float  # squared ink in the blocks of the thing that has the least


@functools.cache
def _candidates() -> _Candidates:
    shifts = range(-SHIFT, SHIFT + 1)
    kinds = [(shape, size, right, down) for shape in SHAPES for size in SIZES for right in shifts for down in shifts]
    sharp = np.stack([coverage(*kind) for kind in kinds])
    covers = np.concatenate([_softened(sharp, times) for times in _SOFTNESS]).reshape(-1, CELL * CELL)
    inks = 255.0 - np.array([RGB[colour] for colour in COLOURS], dtype=np.float64)
    strength = np.square(inks).sum(1)
    blocks = np.square(_blocks(covers[..., None])).sum((1, 2))
    names = [kind[:2] for kind in kinds] * len(_SOFTNESS)
    return _Candidates(
        covers, np.square(covers).sum(1)[:, None] * strength, inks, names, float(blocks.min() * strength.min())
    )


def _softened(covers: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        for axis in (1, 2):
            covers = (np.roll(covers, 1, axis) + 2 * covers + np.roll(covers, -1, axis)) / 4
    return covers


def _blocks(ink: np.ndarray) -> np.ndarray:
    """Ink (..., 256, C) averaged over blocks: (..., 16, C)."""
    n = CELL // _BLOCK
    return ink.reshape(*ink.shape[:-2], n, _BLOCK, n, _BLOCK, -1).mean((-4, -2)).reshape(*ink.shape[:-2], n * n, -1)


def read(pixels: np.ndarray) -> Reading:
    """What a picture (48, 48, 3) uint8 shows."""
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise MalmoiError(f"The Village's pictures are uint8 ({SIDE}, {SIDE}, 3), not {pixels.dtype} {pixels.shape}.")
    known = _candidates()
    cells = (255.0 - pixels).reshape(3, CELL, 3, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(9, CELL * CELL, 3)
    scene, unreadable = [], []
    for place, ink in zip(PLACES, cells, strict=True):
        gains = 2 * known.covers @ ink @ known.inks.T - known.energies  # what each makes the squared difference smaller
        best, colour = np.unravel_index(int(gains.argmax()), gains.shape)
        seen = gains[best, colour] > PRESENT * known.energies[best, colour]
        painted = known.covers[best, :, None] * known.inks[colour] if seen else np.zeros_like(ink)
        left = np.square(np.maximum(np.abs(_blocks(ink - painted)) - _QUIET, 0)).sum()
        if left > UNEXPLAINED * max(known.faintest, np.square(_blocks(painted)).sum()):
            unreadable.append(place)
        elif seen:
            shape, size = known.kinds[best]
            scene.append(Sight(shape, COLOURS[colour], size, place))
    return Reading(tuple(scene), tuple(unreadable))
