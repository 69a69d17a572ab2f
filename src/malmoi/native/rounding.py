"""Weights rounded to whole numbers: which scale loses least.

A weight is kept as a small whole number times a scale. int8 has one scale for each output (a row of the matrix), int4
one for each group of 64 inputs of an output, because one large weight would cost all others that share its scale their
precision. The largest weight need not be hit exactly: a slightly smaller scale cuts it off and serves the many others
better. So several scales are tried for each row or group, and the one with the smallest squared error is kept
("round to nearest with a search").

Cleverer roundings (GPTQ and its kin) return the same two arrays.

N outputs, K inputs, G groups
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from malmoi.native.packed import GROUP, up_to

_ROWS = 256  # rounded together: few enough for the second-level cache
_INT8_SHRINKS = (1.0, 0.97, 0.94, 0.9)
_INT4_SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)


def round_int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix (N, K) as whole numbers from -127 to 127 (N, K) and scales (N,)."""
    codes, scales = np.empty(weight.shape, np.int8), np.empty(weight.shape[0], np.float32)
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        part = weight[rows]
        peak = np.abs(part).max(axis=1)
        scales[rows] = _search(part, peak / 127, _INT8_SHRINKS, -127, 127).astype(np.float32)
        codes[rows] = _rounded(part, scales[rows], -127, 127)
    return codes, scales


def round_int4(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """A matrix (N, K) as whole numbers from -8 to 7 (N, K) and scales (N, G) in groups of 64 inputs.

    There is one more step on the negative side; a negative scale puts it where the group's largest weight is.
    """
    N, K = weight.shape
    G = up_to(K, GROUP) // GROUP
    codes, scales = np.empty((N, G * GROUP), np.int8), np.empty((N, G), np.float16)
    for start in range(0, N, _ROWS):
        rows = slice(start, min(start + _ROWS, N))
        part = np.zeros((rows.stop - start, G * GROUP), np.float32)
        part[:, :K] = weight[rows]
        groups = part.reshape(-1, GROUP)
        peak = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)[:, 0]
        chosen = _search(groups, peak / -8, _INT4_SHRINKS, -8, 7).astype(np.float16)
        scales[rows] = chosen.reshape(-1, G)
        codes[rows] = _rounded(groups, chosen.astype(np.float32), -8, 7).reshape(-1, G * GROUP)
    return codes[:, :K], scales


def _search(
    rows: NDArray[np.float32], scale: NDArray[np.floating], shrinks: tuple[float, ...], low: int, high: int
) -> NDArray[np.float32]:
    """Of some multiples of each row's scale, the one with the smallest squared error."""
    best, least = scale.astype(np.float32), np.full(len(rows), np.inf, np.float32)
    for shrink in shrinks:
        tried = scale * np.float32(shrink)
        error = _rounded(rows, tried, low, high).astype(np.float32)
        error *= tried[:, None]
        error -= rows
        lost = np.einsum("nk,nk->n", error, error)
        best, least = np.where(lost < least, tried, best), np.minimum(lost, least)
    return best


def _rounded(rows: NDArray[np.float32], scale: NDArray[np.float32], low: int, high: int) -> NDArray[np.int8]:
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(np.abs(scale) > 1e-30, 1 / scale, 0).astype(np.float32)
    whole = np.rint(rows * inverse[:, None])
    return np.clip(whole, low, high, out=whole).astype(np.int8)
