"""What positions do in a model: how it tells places apart, how far apart they look, and how far each layer sees.

Three facts decide what a model can know about order:

- **The places themselves.** A learned table has one vector for each place; whether training has made neighbours alike
  is seen in their cosines. Rotary positions have no table: each pair of a head's numbers is a clock hand that turns by
  its own angle at every token. A fast hand tells neighbours apart and comes round soon; a hand that does not come round
  within the context gives every place an angle of its own.
- **The stretching.** A model trained on short texts reads longer ones if its slow hands are slowed further (linear,
  llama3, YaRN); the fast ones are better left alone.
- **The sight.** A layer with a window sees the last few tokens only, but what it sees was written by a layer below that
  saw further back: with each windowed layer the reach grows by the window less one.

`positions(config, table)` computes all three; `malmoi.interpret.positions_plot` draws them.

T places, P pairs of a head, D width
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from malmoi.config import ModelConfig
from malmoi.model.position import frequencies

_MOST_ROWS = 1024  # of a table whose cosines are computed: the picture needs no more


@dataclass(frozen=True, slots=True)
class Rotary:
    """Clock hands. Lists run over the pairs of a head, fastest first."""

    rope_type: str
    theta: float
    wavelengths: tuple[float, ...]  # tokens for one full turn, as the model uses them
    unscaled: tuple[float, ...]  # the same before the stretching
    attention_factor: float  # what turned queries and keys are multiplied by
    trained_context: int | None  # the context before the stretching, where there was one

    @property
    def stretched(self) -> bool:
        return self.rope_type != "default"

    def full_turns(self, context: int) -> int:
        """How many pairs come round at least once within `context` tokens."""
        return sum(wavelength <= context for wavelength in self.wavelengths)

    def slowed(self) -> tuple[int, int, int]:
        """How many pairs the stretching left alone, slowed in part, and slowed by the whole factor."""
        ratios = [after / before for after, before in zip(self.wavelengths, self.unscaled, strict=True)]
        most = max(ratios)
        kept = sum(math.isclose(ratio, 1.0, rel_tol=1e-3) for ratio in ratios)
        whole = sum(math.isclose(ratio, most, rel_tol=1e-3) for ratio in ratios) if most > 1.001 else 0
        return kept, len(ratios) - kept - whole, whole

    def similarity(self, distances: torch.Tensor) -> torch.Tensor:
        """How alike two places look at each distance: the mean cosine of the angles between the hands, at most 1."""
        angles = distances[:, None] * (2 * math.pi / torch.tensor(self.wavelengths))
        return angles.cos().mean(dim=1)


@dataclass(frozen=True, slots=True)
class Learned:
    """A table of places. Where it is long, only every `stride`-th place was compared."""

    cosines: torch.Tensor  # (T / stride, T / stride)
    norms: torch.Tensor  # (T,)
    by_distance: torch.Tensor  # (T / stride,) mean cosine of places that are so many strides apart
    stride: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Everything about place in one model. `rotary` or `learned`, or neither: a table that nobody has trained."""

    context: int
    windows: tuple[int | None, ...]  # of each layer; None: the whole past
    reach: tuple[int, ...]  # after each layer, how many tokens (itself included) can have had an influence
    rotary: Rotary | None
    learned: Learned | None


def positions(config: ModelConfig, table: torch.Tensor | None = None) -> Positions:
    """What places do in the model that `config` describes; `table` (T, D) is its learned one, where it has one."""
    windows = tuple(config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types)
    context = config.max_position_embeddings
    return Positions(
        context=context,
        windows=windows,
        reach=reach(windows, context),
        rotary=_rotary(config) if config.positions == "rotary" else None,
        learned=_learned(table.detach().float()) if table is not None else None,
    )


def reach(windows: tuple[int | None, ...], context: int) -> tuple[int, ...]:
    """How far back a token can have been influenced from after each layer, itself included."""
    reached, seen = [], 1
    for window in windows:
        seen = context if window is None else min(context, seen + window - 1)
        reached.append(seen)
    return tuple(reached)


def _rotary(config: ModelConfig) -> Rotary:
    rope = config.rope_parameters
    plain = type(rope)(rope_theta=rope.rope_theta)
    turning, factor = frequencies(rope, config.head_dim)
    unscaled, _ = frequencies(plain, config.head_dim)
    return Rotary(
        rope_type=rope.rope_type,
        theta=rope.rope_theta,
        wavelengths=tuple((2 * math.pi / turning.double()).tolist()),
        unscaled=tuple((2 * math.pi / unscaled.double()).tolist()),
        attention_factor=factor,
        trained_context=rope.original_max_position_embeddings,
    )


def _learned(table: torch.Tensor) -> Learned:
    stride = -(-table.shape[0] // _MOST_ROWS)
    directions = torch.nn.functional.normalize(table[::stride], dim=-1)
    cosines = directions @ directions.T
    by_distance = torch.stack([cosines.diagonal(offset).mean() for offset in range(len(cosines))])
    return Learned(cosines, table.norm(dim=-1), by_distance, stride)
