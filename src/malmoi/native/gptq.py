"""Rounding that knows what the matrix will be given: each error is made good by the weights that are not rounded yet.

Rounding every weight to its nearest whole number keeps the weights as they were. What matters are the outputs. Where
two inputs rise and fall together, an error in one's weight can be undone in the other's. GPTQ (Frantar et al., "GPTQ:
accurate post-training quantization for generative pre-trained transformers", 2022, after Hassibi & Stork's "optimal
brain surgeon", 1993) rounds the inputs of a matrix one after another and, after each, moves all later weights so that
the squared error of the outputs on some real text is least. How inputs go together is all that it needs to know: the
sums of their products, `H = X^T X` over the tokens of that text.

The scales are chosen as they are without it, by trying several, but a weight's error now counts as much as it will
hurt: by what its input's own share of H is once the others have done what they can.

N outputs, K inputs, G groups of 64 inputs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from malmoi.native.interface import Kind
from malmoi.native.packed import GROUP, up_to

DAMPING = 0.01  # of the mean of H's diagonal: what the text has not shown is not trusted to be impossible
_SHRINKS = {Kind.INT8: (1.0, 0.97, 0.94, 0.9), Kind.INT4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)}
_RANGE = {Kind.INT8: (-127, 127), Kind.INT4: (-8, 7)}


def round_by_products(
    weight: NDArray[np.float32], products: Tensor, kind: Kind
) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """A matrix (N, K) as whole numbers (N, K) and scales: (N,) float32 for int8, (N, G) float16 for int4.

    `products` (K, K): the inputs' products summed over tokens, on any scale. An input that never came (zero there) is
    rounded to the nearest.
    """
    low, high = _RANGE[kind]
    K = weight.shape[1]
    left = torch.from_numpy(weight).to(torch.float64, copy=True)  # what is still to be rounded, moved by earlier errors
    pull = _pull(products)
    codes = torch.empty(left.shape, dtype=torch.int8)
    step = GROUP if kind == Kind.INT4 else K
    scales = torch.empty((len(left), up_to(K, step) // step), dtype=torch.float64)
    scale = left.new_empty(len(left))
    for start in range(0, K, GROUP):
        end = min(start + GROUP, K)
        if start % step == 0:
            reach = slice(start, min(start + step, K))
            scale = _scale(left[:, reach], pull.diagonal()[reach] ** -2, kind)
            scales[:, start // step] = scale
        part, errors = left[:, start:end], left.new_empty((len(left), end - start))
        inverse = torch.where(scale.abs() > 1e-30, 1 / scale, 0)
        for i in range(end - start):
            column = part[:, i]
            code = (column * inverse).round_().clamp_(low, high)
            codes[:, start + i] = code.to(torch.int8)
            errors[:, i] = (column - code * scale) / pull[start + i, start + i]
            part[:, i:] -= errors[:, i : i + 1] * pull[start + i, start + i : end]
        left[:, end:] -= errors @ pull[start:end, end:]
    if kind == Kind.INT8:
        return codes.numpy(), scales[:, 0].float().numpy()
    return codes.numpy(), scales.to(torch.float16).numpy()


def lost(weight: NDArray[np.float32], rounded: NDArray[np.float32], products: Tensor) -> float:
    """The mean square of the outputs' error as a share of the outputs' own, on the text that was summed."""
    w, error = (torch.from_numpy(a).double() for a in (weight, rounded - weight))
    H = products.double()
    own = float(((w @ H) * w).sum())
    return float(((error @ H) * error).sum()) / own if own > 0 else 0.0


def _pull(products: Tensor) -> Tensor:
    """How an error in one input's weight moves the later ones: the upper Cholesky factor of H's inverse."""
    H = products.double().clone()
    diagonal = H.diagonal()
    mean = float(diagonal.mean())
    diagonal += DAMPING * mean if mean > 0 else 1.0
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)


def _scale(rows: Tensor, cost: Tensor, kind: Kind) -> Tensor:
    """Of some scales for each row (N,), the one whose rounding costs least; as precise as it is going to be stored."""
    low, high = _RANGE[kind]
    peak = rows.gather(1, rows.abs().argmax(1, keepdim=True))[:, 0]
    if kind == Kind.INT8:
        peak = peak.abs()
    best, least = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    for tried in _candidates(peak, kind, _SHRINKS[kind]):
        inverse = torch.where(tried.abs() > 1e-30, 1 / tried, 0)[:, None]
        error = (rows * inverse).round_().clamp_(low, high).mul_(tried[:, None]).sub_(rows).square_() @ cost
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def _candidates(peak: Tensor, kind: Kind, shrinks: Sequence[float]) -> list[Tensor]:
    """Scales that put the largest number at the range's end, and smaller ones. int4 has one step more on the negative
    side: a negative scale puts it where the largest number is, a positive one on the other side."""
    number = torch.float32 if kind == Kind.INT8 else torch.float16
    ends = (127,) if kind == Kind.INT8 else (-8, 7)
    return [(peak * shrink / end).to(number).double() for end in ends for shrink in shrinks]
