"""A mixture of experts: many feed-forward networks, of which each token uses a few.

A router scores the experts for every token; the best `per_token` of them are run and their results added, weighted by
the router's probabilities made to sum to one (the Qwen3-MoE rule). The model thus holds more than one token pays for.
Left alone, a router falls in love with a few experts; the balance loss (Shazeer et al., 2017; Fedus et al., "Switch
transformers", 2021, equation 4) is smallest when every expert gets its equal share.

N tokens (batch and time together), D hidden size, E experts
"""

from __future__ import annotations

import torch
from torch import nn

from malmoi import layers
from malmoi.model.feedforward import FeedForward
from malmoi.model.taps import Tap


class Experts(nn.Module):
    """Router and experts. In training, `balance` holds the last pass's balance loss until somebody takes it."""

    def __init__(self, spec: layers.Experts) -> None:
        super().__init__()
        self.per_token = spec.per_token
        self.gate = nn.Linear(spec.hidden_size, spec.number, bias=False)
        self.experts = nn.ModuleList(FeedForward(spec.expert) for _ in range(spec.number))
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
        tokens = x.reshape(B * T, D)
        result = torch.zeros_like(tokens)
        # tokens sorted by expert: each expert then works on one contiguous group
        order = chosen.flatten().argsort(stable=True)  # (N * per_token)
        sizes = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        for expert, group in zip(self.experts, order.split(sizes), strict=True):
            if len(group):
                rows = group // self.per_token
                share = weights.flatten()[group, None]
                result = result.index_add(0, rows, expert(tokens[rows]) * share)
        return self.output(result.view(B, T, D))


def balance_loss(probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """`E * sum over experts of (share of choices) * (mean probability)`.

    1 when balanced, up to E when one expert takes all. `probabilities` (N, E), `chosen` (N, per_token) expert numbers.
    """
    number = probabilities.shape[1]
    share = chosen.flatten().bincount(minlength=number).to(probabilities.dtype) / chosen.numel()
    return number * (share * probabilities.mean(dim=0)).sum()
