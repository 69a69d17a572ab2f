"""Where a token stands: attention by itself sees a set, so position has to be told.

Learned positions (GPT-1 to GPT-3) add one learned vector for each place. Rotary positions (Su et al., 2021) turn each
pair of numbers of a query or key by an angle that grows with the place, so that their product depends only on how far
apart the two tokens stand. Pairs are the first and second half of a head, as in Hugging Face's Llama and Qwen.

B batch, T tokens, H heads, D head size
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from malmoi.config import RopeParameters
from malmoi.model import fused


class Rotation(NamedTuple):
    """The turn of a forward pass, made once and shared by all layers: `x * cos + (second half, first half) * sin`.

    Both (B or 1, 1, T, D); the first half of `sin` is negative.
    """

    cos: torch.Tensor
    sin: torch.Tensor


def frequencies(rope: RopeParameters, head_dim: int, device: torch.device | None = None) -> tuple[torch.Tensor, float]:
    """How fast each pair of a head turns, in radians a token (head_dim / 2,), and a factor for the turned vectors.

    Pair `i` turns by `theta ** (-2i / head_dim)` a token. A model that was trained on short texts is stretched to
    longer ones by turning more slowly: all pairs equally ("linear": Chen et al., 2023), only those that do not come
    round within the original context ("llama3"), or with a smooth transition between the two and a factor that keeps
    attention sharp ("yarn": Peng et al., 2023). The formulas and their float32 steps are those of transformers.
    """
    pair = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    turning = rope.rope_theta ** (pair / head_dim)
    plain = 1.0 / turning
    match rope.rope_type:
        case "linear":
            return plain / _set(rope.factor), 1.0
        case "llama3":
            return _llama3(rope, plain), 1.0
        case "yarn":
            return _yarn(rope, turning, head_dim), _yarn_factor(rope)
    return plain, 1.0


def _set(value: float | None) -> float:
    assert value is not None  # RopeParameters has seen to it
    return value


def _llama3(rope: RopeParameters, plain: torch.Tensor) -> torch.Tensor:
    """Waves longer than the context are slowed by `factor`, short ones stay, those between are blended."""
    factor, context = _set(rope.factor), _set(rope.original_max_position_embeddings)
    low, high = _set(rope.low_freq_factor), _set(rope.high_freq_factor)
    wavelength = 2 * math.pi / plain
    blend = (context / wavelength - low) / (high - low)  # 0 at the long end, 1 at the short one
    blended = (1 - blend) * plain / factor + blend * plain
    slowed = torch.where(wavelength > context / low, plain / factor, plain)
    between = (wavelength <= context / low) & (wavelength >= context / high)
    return torch.where(between, blended, slowed)


def _yarn(rope: RopeParameters, turning: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Pairs with more than `beta_fast` turns in the original context stay; below `beta_slow` they are slowed."""
    context = _set(rope.original_max_position_embeddings)

    def pair_with(turns: float) -> float:
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    first = pair_with(32.0 if rope.beta_fast is None else rope.beta_fast)
    last = pair_with(1.0 if rope.beta_slow is None else rope.beta_slow)
    if rope.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    last = last + 0.001 if first == last else last  # no step without a width
    ramp = ((torch.arange(head_dim // 2, device=turning.device, dtype=torch.float32) - first) / (last - first)).clamp(
        0, 1
    )
    kept = 1 - ramp
    return (1.0 / (_set(rope.factor) * turning)) * (1 - kept) + (1.0 / turning) * kept


def _yarn_factor(rope: RopeParameters) -> float:
    """What turned queries and keys are multiplied by, so that attention over a longer text stays as sharp."""

    def growth(weight: float) -> float:
        factor = _set(rope.factor)
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return growth(rope.mscale) / growth(rope.mscale_all_dim)
    return growth(1.0)


def rotation(position_ids: torch.Tensor, head_dim: int, rope: RopeParameters, dtype: torch.dtype) -> Rotation:
    """The turn for positions (B or 1, T): each pair's frequency times the position, in radians.

    Computed from the positions rather than looked up: no table to size, to move between devices or to keep in a file.
    """
    frequency, scale = frequencies(rope, head_dim, position_ids.device)
    angle = position_ids[:, None, :, None].float() * frequency  # (B, 1, T, D/2)
    cos, sin = angle.cos(), angle.sin()
    if scale != 1.0:
        cos, sin = cos * scale, sin * scale
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
