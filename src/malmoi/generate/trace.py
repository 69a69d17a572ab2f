"""Why this token? One record for every token that was written.

The model proposes a distribution over the whole vocabulary; the settings (temperature, top_k, ...) reshape it; one
token is drawn. A `TokenTrace` keeps both sides: what the model itself believed (`logprob`, `rank`, `entropy`) and what
the settings made of it (`probability`, `removed`). The command line, the API, the page and the evaluation all read this
record. It is computed only for who asks: generation without a trace does none of the work below.

`removed` answers "how much did this setting interfere?" with one measure for all settings: the total variation distance
between the distribution before and after it, that is, the probability mass it took from some tokens and gave to
others. For a filter such as top_k that is exactly the mass of the tokens it cut away. Greedy choice is the limit of
temperature 0, and is reported as that.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

ALTERNATIVES = 5  # as many as most APIs show


class Vocabulary(Protocol):
    """What a trace needs of a tokenizer."""

    def token_bytes(self, token_id: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood here: natural-log probabilities before and after the settings."""

    id: int
    bytes: bytes
    logprob: float
    final_logprob: float  # minus infinity where a setting removed it

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "text": self.bytes.decode("utf-8", "replace"),
            "bytes": list(self.bytes),
            "logprob": _finite(self.logprob),
            "final_logprob": _finite(self.final_logprob),
        }


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """One token and how it came to be chosen. Logarithms are natural; `entropy` is in nats."""

    id: int
    bytes: bytes  # a token may end inside a character, so bytes are the truth and text a view
    position: int  # in its sequence, prompt included, padding not
    logprob: float  # under the model's own distribution, before any setting
    rank: int  # 1: the model's first choice
    entropy: float  # of the model's own distribution: 0 is certainty, ln(V) is none
    probability: float  # under the distribution that the token was drawn from
    alternatives: tuple[Alternative, ...] = ()  # the model's best, likeliest first
    removed: dict[str, float] = field(default_factory=dict)  # setting -> mass that it moved, in the order they acted

    @property
    def text(self) -> str:
        """The bytes as text; a part of a character shows as U+FFFD."""
        return self.bytes.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: bytes as a list of numbers, an impossible token's log-probability as None."""
        return {
            "id": self.id,
            "text": self.text,
            "bytes": list(self.bytes),
            "position": self.position,
            "logprob": _finite(self.logprob),
            "rank": self.rank,
            "entropy": self.entropy,
            "probability": self.probability,
            "alternatives": [alternative.to_dict() for alternative in self.alternatives],
            "removed": dict(self.removed),
        }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


class Observer:
    """Listens while logits (B, V) are shaped (it is `sampling.shape`'s `watch`), then writes one trace a row."""

    def __init__(self, logits: Tensor) -> None:
        self.raw = _log_softmax(logits)  # (B, V)
        self.final = self.raw
        self.removed: dict[str, Tensor] = {}  # setting -> (B,)

    def __call__(self, name: str, logits: Tensor) -> None:
        after = _log_softmax(logits)
        self.removed[name] = (after.exp() - self.final.exp()).abs().sum(-1) / 2
        self.final = after

    def greedy(self, ids: Tensor) -> None:
        """The choice was the likeliest token: temperature 0, all mass on `ids` (B,)."""
        certain = torch.full_like(self.final, -math.inf)
        certain.scatter_(-1, ids.unsqueeze(-1), 0.0)
        self("temperature", certain)

    def traces(
        self, ids: Tensor, positions: Sequence[int], vocabulary: Vocabulary | None, alternatives: int = ALTERNATIVES
    ) -> list[TokenTrace]:
        """One trace a row for the chosen `ids` (B,), which stand at `positions`; no vocabulary, no bytes."""

        def spell(token: int) -> bytes:
            return vocabulary.token_bytes(token) if vocabulary is not None else b""

        chosen = ids.unsqueeze(-1)
        logprobs = self.raw.gather(-1, chosen)
        ranks = (self.raw > logprobs).sum(-1) + 1
        entropies = torch.special.entr(self.raw.exp()).sum(-1)
        probabilities = self.final.gather(-1, chosen).exp().squeeze(-1)
        best, names = self.raw.topk(min(alternatives, self.raw.shape[-1]))
        after = self.final.gather(-1, names)
        removed = {name: mass.tolist() for name, mass in self.removed.items()}
        columns = zip(
            ids.tolist(),
            positions,
            logprobs.squeeze(-1).tolist(),
            ranks.tolist(),
            entropies.tolist(),
            probabilities.tolist(),
            zip(names.tolist(), best.tolist(), after.tolist(), strict=True),
            strict=True,
        )
        return [
            TokenTrace(
                id=token,
                bytes=spell(token),
                position=position,
                logprob=logprob,
                rank=rank,
                entropy=entropy,
                probability=probability,
                alternatives=tuple(
                    Alternative(name, spell(name), was, now) for name, was, now in zip(*others, strict=True)
                ),
                removed={name: mass[row] for name, mass in removed.items()},
            )
            for row, (token, position, logprob, rank, entropy, probability, others) in enumerate(columns)
        ]


def _log_softmax(logits: Tensor) -> Tensor:
    return (logits if logits.device.type == "mps" else logits.double()).log_softmax(-1)
