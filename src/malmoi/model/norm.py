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
    """`x / rms(x) * weight` over the last dimension, of any leading shape."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if fused.pays(x):
            return fused.RMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


class LayerNorm(nn.Module):
    """`(x - mean(x)) / std(x) * weight + bias` over the last dimension, of any leading shape."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def build_norm(spec: Norm) -> RMSNorm | LayerNorm:
    """The module that a `Norm` record describes."""
    match spec:
        case Norm(kind="rms_norm"):
            return RMSNorm(spec.size, spec.eps)
        case Norm(kind="layer_norm"):
            return LayerNorm(spec.size, spec.eps)
    raise AssertionError(spec)
