"""Where a token stands: attention by itself sees a set, so position has to be told.

Learned positions (GPT-1 to GPT-3) add one learned vector for each place. Rotary positions (Su et al., 2021) turn each
pair of numbers of a query or key by an angle that grows with the place, so that their product depends only on how far
apart the two tokens stand. Pairs are the first and second half of a head, as in Hugging Face's Llama and Qwen.

B batch, T tokens, H heads, D head size
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from malmoi.model import fused


class Rotation(NamedTuple):
    """The turn of a forward pass, made once and shared by all layers: `x * cos + (second half, first half) * sin`.

    Both (B or 1, 1, T, D); the first half of `sin` is negative.
    """

    cos: torch.Tensor
    sin: torch.Tensor


def rotation(position_ids: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """The angles for positions (B or 1, T): pair `i` turns by `position * theta ** (-2i / head_dim)` radians.

    Computed from the positions rather than looked up: no table to size, to move between devices or to keep in a file.
    """
    pair = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32)
    frequency = 1.0 / (theta ** (pair / head_dim))  # (D/2)
    angle = position_ids[:, None, :, None].float() * frequency  # (B, 1, T, D/2)
    cos, sin = angle.cos(), angle.sin()
    return Rotation(torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype))


def rotate(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """Turn queries or keys (B, H, T, D) by the angles of their positions."""
    if fused.pays(x):
        return fused.Rotate.apply(x, turn.cos, turn.sin)
    first, second = x.chunk(2, dim=-1)
    return x * turn.cos + torch.cat((second, first), dim=-1) * turn.sin


def positions_in_documents(document_ids: torch.Tensor) -> torch.Tensor:
    """Places counted from the start of each run of equal ids: [7 7 7 9 9] -> [0 1 2 0 1], for (B, T)."""
    place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    start = torch.where(starts, place, 0).cummax(dim=1).values
    return place - start


def positions_after_padding(real: torch.Tensor) -> torch.Tensor:
    """Places counted over real tokens only: [0 0 1 1 1] -> [0 0 0 1 2], for a mask (B, T)."""
    return (real.long().cumsum(dim=1) - 1).clamp(min=0)
