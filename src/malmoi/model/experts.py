"""A mixture of experts: many feed-forward networks, of which each token uses a few.

A router scores the experts for every token; the best `per_token` of them are run and their results added, weighted by
the router's probabilities made to sum to one (the rule of Mixtral, Qwen3-MoE and gpt-oss alike). The model thus holds
more than one token pays for. Left alone, a router falls in love with a few experts; the balance loss (Shazeer et al.,
2017; Fedus et al., "Switch transformers", 2021, equation 4) is smallest when every expert gets its equal share.

All experts of a layer lie in one tensor for each kind of matrix, so that a layer of a thousand experts is three
parameters and not three thousand.

N tokens (batch and time together), D hidden size, E experts, M their intermediate size, C choices (N * per_token)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from malmoi import layers
from malmoi.model.feedforward import ACTIVATIONS, gated
from malmoi.model.taps import Tap


class ExpertWeights(nn.Module):
    """The feed-forward networks of all experts of a layer, stacked; `forward` runs each on its own rows."""

    def __init__(self, number: int, spec: layers.Dense) -> None:
        super().__init__()
        D, M = spec.hidden_size, spec.size
        self.spec = spec

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(number, *shape))  # drawn by the model's `initialize`

        def bias(size: int, wanted: bool = True) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(number, size)) if spec.bias and wanted else None

        self.gate_proj = weights(M, D) if spec.gated else None
        self.up_proj = weights(M, D)
        self.down_proj = weights(D, M)
        self.gate_proj_bias, self.up_proj_bias, self.down_proj_bias = bias(M, spec.gated), bias(M), bias(D)
        self.hidden = Tap()  # (C, M) how strongly each neuron fires; rows as `forward` was given them

    def forward(self, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Rows (C, D) in the order of their experts, `sizes[e]` for expert `e`, to (C, D)."""
        up = _each(rows, sizes, self.up_proj, self.up_proj_bias)
        if self.gate_proj is None:
            hidden = ACTIVATIONS[self.spec.activation](up)
        else:
            hidden = gated(_each(rows, sizes, self.gate_proj, self.gate_proj_bias), up, self.spec)
        return _each(self.hidden(hidden), sizes, self.down_proj, self.down_proj_bias)


def _each(rows: torch.Tensor, sizes: list[int], weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One linear map for each group of rows."""
    results = [
        F.linear(group, weight[e], None if bias is None else bias[e])
        for e, group in enumerate(rows.split(sizes))
        if len(group)
    ]
    return torch.cat(results)


class Experts(nn.Module):
    """Router and experts. In training, `balance` holds the last pass's balance loss until somebody takes it."""

    def __init__(self, spec: layers.Experts) -> None:
        super().__init__()
        self.per_token = spec.per_token
        self.gate = nn.Linear(spec.hidden_size, spec.number, bias=spec.router_bias)
        self.experts = ExpertWeights(spec.number, spec.expert)
        self.router = Tap()  # (B, T, E) the router's probabilities
        self.output = Tap()  # (B, T, D)
        self.balance: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        probabilities = self.router(self.gate(x).float().softmax(dim=-1)).view(B * T, -1)  # (N, E)
        weights, chosen = probabilities.topk(self.per_token, dim=-1)  # (N, per_token)
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype)
        if self.training:
            self.balance = balance_loss(probabilities, chosen)
        # choices sorted by expert: each expert then works on one contiguous group
        order = chosen.flatten().argsort(stable=True)  # (C,)
        sizes = chosen.flatten().bincount(minlength=probabilities.shape[1]).tolist()
        tokens = x.reshape(B * T, D)
        source = order // self.per_token  # (C,) which token each choice belongs to
        results = self.experts(tokens[source], sizes) * weights.flatten()[order, None]
        return self.output(torch.zeros_like(tokens).index_add(0, source, results).view(B, T, D))


def balance_loss(probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """`E * sum over experts of (share of choices) * (mean probability)`.

    1 when balanced, up to E when one expert takes all. `probabilities` (N, E), `chosen` (N, per_token) expert numbers.
    """
    number = probabilities.shape[1]
    share = chosen.flatten().bincount(minlength=number).to(probabilities.dtype) / chosen.numel()
    return number * (share * probabilities.mean(dim=0)).sum()
