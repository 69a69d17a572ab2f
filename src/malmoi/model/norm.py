"""Normalisation: the residual stream grows with depth; a norm brings it back to a common length before it is read.

Root-mean-square norm (Zhang & Sennrich, 2019) divides by the vector's length and scales; layer norm (Ba et al., 2016)
also subtracts the mean and shifts. Lengths are summed in float32 even when the model runs in bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from malmoi.layers import Norm
from malmoi.model import fused


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension, of any leading shape; without `affine`, no weight."""

    def __init__(self, size: int, eps: float, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if affine else None
        self.size, self.eps = size, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is None:
            return F.rms_norm(x.float(), (self.size,), None, self.eps).to(x.dtype)
        if fused.pays(x):
            return fused.RMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x.float(), (self.size,), None, self.eps).to(x.dtype) * self.weight


class LayerNorm(nn.Module):
    """`(x - mean(x)) / std(x) * weight + bias` over the last dimension; without `affine`, no weight and no bias."""

    def __init__(self, size: int, eps: float, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if affine else None
        self.bias = nn.Parameter(torch.zeros(size)) if affine else None
        self.size, self.eps = size, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (self.size,), weight, bias, self.eps)


def build_norm(spec: Norm | None) -> RMSNorm | LayerNorm | nn.Identity:
    """The module that a `Norm` record describes; nothing is done where there is none."""
    match spec:
        case None:
            return nn.Identity()
        case Norm(kind="rms_norm"):
            return RMSNorm(spec.size, spec.eps, spec.affine)
        case Norm(kind="layer_norm"):
            return LayerNorm(spec.size, spec.eps, spec.affine)
    raise AssertionError(spec)
