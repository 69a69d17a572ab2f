"""One block of the network: attention gathers, the feed-forward network works, and both add to the residual stream.

Each half reads a normalised copy of the stream and writes its result back by addition ("pre-norm"; GPT-2 and after), so
that the stream is a straight road from the embedding to the vocabulary. GPT-1 still did it as the first transformer
had: each half reads the stream itself, and the sum is normalised ("post-norm"), which trains less easily with depth.

B batch, T tokens, D hidden size
"""

from __future__ import annotations

import torch
from torch import nn

from malmoi import layers
from malmoi.model.attention import Attention, Sight
from malmoi.model.cache import Cache
from malmoi.model.experts import Experts
from malmoi.model.feedforward import FeedForward
from malmoi.model.norm import build_norm
from malmoi.model.position import Rotation
from malmoi.model.taps import Tap


def build_feed_forward(spec: layers.Dense | layers.Experts) -> FeedForward | Experts:
    """The module that a `Dense` or `Experts` record describes."""
    match spec:
        case layers.Dense():
            return FeedForward(spec)
        case layers.Experts():
            return Experts(spec)


class Block(nn.Module):
    """The module that a `Layer` record describes."""

    def __init__(self, spec: layers.Layer, index: int) -> None:
        super().__init__()
        self.input = Tap()  # (B, T, D) the residual stream as the block finds it
        self.input_layernorm = build_norm(spec.norm)
        self.self_attn = Attention(spec.attention, index)
        self.middle = Tap()  # (B, T, D) the stream after attention
        self.post_attention_layernorm = build_norm(spec.norm)
        self.mlp = build_feed_forward(spec.feed_forward)
        self.output = Tap()  # (B, T, D) the stream as the block leaves it
        self.dropout = nn.Dropout(spec.dropout)
        self.post_norm = spec.post_norm

    def forward(self, x: torch.Tensor, turn: Rotation | None, sight: Sight, cache: Cache | None = None) -> torch.Tensor:
        x = self.input(x)
        if self.post_norm:
            x = self.middle(self.input_layernorm(x + self.dropout(self.self_attn(x, turn, sight, cache))))
            return self.output(self.post_attention_layernorm(x + self.dropout(self.mlp(x))))
        x = self.middle(x + self.dropout(self.self_attn(self.input_layernorm(x), turn, sight, cache)))
        return self.output(x + self.dropout(self.mlp(self.post_attention_layernorm(x))))
