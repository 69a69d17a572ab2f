"""Why this token? One record for every token that was written.

The model proposes a distribution over the whole vocabulary; the settings (temperature, top_k, ...) reshape it; one
token is drawn. A `TokenTrace` keeps both sides: what the model itself believed (`logprob`, `rank`, `entropy`) and what
the settings made of it (`probability`, `removed`). The command line, the API, the page and the evaluation all read this
record. It is computed only for who asks: generation without a trace does none of the work below.

`removed` answers "how much did this setting interfere?" with one measure for all settings: the total variation distance
between the distribution before and after it, that is, the probability mass it took from some tokens and gave to
others. For a filter such as top_k that is exactly the mass of the tokens it cut away. Greedy choice is the limit of
temperature 0, and is reported as that.

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from malmoi.generate.sampling import Logits, log_softmax

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
    after: dict[str, float] = field(default_factory=dict)  # setting -> its log-probability once that one had acted

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "text": self.bytes.decode("utf-8", "replace"),
            "bytes": list(self.bytes),
            "logprob": _finite(self.logprob),
            "final_logprob": _finite(self.final_logprob),
            "after": {name: _finite(logprob) for name, logprob in self.after.items()},
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
    """Listens while logits (V,) are shaped (it is `sampling.shape`'s `watch`), then writes the trace of one token."""

    def __init__(self, logits: Logits) -> None:
        self.raw = log_softmax(logits)  # (V,)
        self.final = self.raw
        self.removed: dict[str, float] = {}
        self.stages: dict[str, Logits] = {}  # setting -> log-probabilities (V,) once it had acted

    def __call__(self, name: str, logits: Logits) -> None:
        after = log_softmax(logits)
        self.removed[name] = float(np.abs(np.exp(after) - np.exp(self.final)).sum() / 2)
        self.final = self.stages[name] = after

    def greedy(self, token: int) -> None:
        """The choice was the likeliest token: temperature 0, all mass on `token`."""
        certain = np.full_like(self.final, -math.inf)
        certain[token] = 0.0
        self("temperature", certain)

    def trace(
        self, token: int, position: int, vocabulary: Vocabulary | None, alternatives: int = ALTERNATIVES
    ) -> TokenTrace:
        """The record of the chosen `token`, which stands at `position`; no vocabulary, no bytes."""

        def spell(token: int) -> bytes:
            return vocabulary.token_bytes(token) if vocabulary is not None else b""

        raw = self.raw
        possible = raw[raw > -math.inf]
        return TokenTrace(
            id=token,
            bytes=spell(token),
            position=position,
            logprob=float(raw[token]),
            rank=int((raw > raw[token]).sum()) + 1,
            entropy=float(-(np.exp(possible) * possible).sum()),
            probability=math.exp(self.final[token]),
            alternatives=tuple(
                Alternative(
                    other,
                    spell(other),
                    float(raw[other]),
                    float(self.final[other]),
                    {name: float(after[other]) for name, after in self.stages.items()},
                )
                for other in likeliest(raw, alternatives)
            ),
            removed=dict(self.removed),
        )


def likeliest(scores: Logits, count: int) -> list[int]:
    """The ids of the `count` highest scores (V,), best first; of equals the smaller id first."""
    if count < 1:
        return []
    count = min(count, scores.size)
    ids = np.flatnonzero(scores >= np.partition(scores, scores.size - count)[scores.size - count])
    return ids[np.argsort(-scores[ids], kind="stable")][:count].tolist()
