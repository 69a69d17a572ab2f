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


class FeedForward(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where there is a gate; any leading shape."""

    def __init__(self, spec: layers.Dense) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden_size, spec.size, bias=spec.bias) if spec.gated else None
        self.up_proj = nn.Linear(spec.hidden_size, spec.size, bias=spec.bias)
        self.down_proj = nn.Linear(spec.size, spec.hidden_size, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]
        self.hidden = Tap()  # (B, T, M) how strongly each neuron fires
        self.output = Tap()  # (B, T, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
            if self.activation is F.silu and fused.pays(gate):
                hidden = fused.GatedSiLU.apply(gate, up)
            else:
                hidden = self.activation(gate) * up
        return self.output(self.down_proj(self.hidden(hidden)))
