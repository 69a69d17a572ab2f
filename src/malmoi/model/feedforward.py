"""The feed-forward network: what a position does, by itself, with what it has gathered.

Plain (GPT-1 to GPT-3): widen, bend, narrow. Gated (Shazeer, "GLU variants improve transformer", 2020): one widening
decides how much of the other passes.

B batch, T tokens, D hidden size, M intermediate size
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from malmoi import layers
from malmoi.model import fused
from malmoi.model.taps import Tap

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
OSS_SLOPE = 1.702  # gpt-oss's sigmoid(1.702 x) is an old approximation of GELU (Hendrycks & Gimpel, 2016)


def clamped_gate(gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    """gpt-oss's gate: both sides bounded, and the passing side shifted so that it starts near the identity.

    `(clamp(up) + 1) * g * sigmoid(1.702 g)` with `g` bounded from above only. Source: gpt-oss's published torch model.
    """
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(gate * OSS_SLOPE))


def gated(gate: torch.Tensor, up: torch.Tensor, spec: layers.Dense) -> torch.Tensor:
    """How much of `up` passes: `act(gate) * up`, in the form that the record names."""
    if spec.limit is not None:
        return clamped_gate(gate, up, spec.limit)
    if spec.activation == "silu" and fused.pays(gate):
        return fused.GatedSiLU.apply(gate, up)
    return ACTIVATIONS[spec.activation](gate) * up


class FeedForward(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where there is a gate; any leading shape."""

    def __init__(self, spec: layers.Dense) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden_size, spec.size, bias=spec.bias) if spec.gated else None
        self.up_proj = nn.Linear(spec.hidden_size, spec.size, bias=spec.bias)
        self.down_proj = nn.Linear(spec.size, spec.hidden_size, bias=spec.bias)
        self.spec = spec
        self.hidden = Tap()  # (B, T, M) how strongly each neuron fires
        self.output = Tap()  # (B, T, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up_proj(x)
        if self.gate_proj is None:
            hidden = ACTIVATIONS[self.spec.activation](up)
        else:
            hidden = gated(self.gate_proj(x), up, self.spec)
        return self.output(self.down_proj(self.hidden(hidden)))
