"""Steps that must not be learned from: numbers that are none, and losses that leap.

One damaged batch can throw a model back by thousands of steps. Its loss tells before the weights are touched: it is not
a finite number, or it stands far above what losses have been lately. Such a step is skipped (weights, optimizer and
average stay as they are, the data move on), counted and said. A run in which many steps are skipped has not met a bad
batch but gone wrong, and is stopped with what was seen.

"Far above" is measured by the median of the last losses and their median distance from it, which a few wild values do
not move (Hampel 1974; PaLM and OLMo skip batches by hand and by standard deviations). The losses that are remembered
are part of a checkpoint, so a resumed run skips the same steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.messages import say
from malmoi.train.step import StepResult

WINDOW = 128  # losses that are remembered
ENOUGH = 32  # before so many are known, nothing is a spike
RECENT = 100  # steps in which the skipped ones are counted
TO_DEVIATION = 1.4826  # median distance of a normal distribution -> its standard deviation
LEAST_DEVIATION = 0.02  # nats: where losses hardly differ, a little more is no spike


class DivergedError(MalmoiError):
    """A run that had to be given up: its settings are at fault, not its surroundings."""


@dataclass
class Guard:
    """What past losses allow the next one to be. Part of a checkpoint, exact through JSON."""

    threshold: float  # robust deviations above the median; 0: spikes are not looked for
    most: int  # skipped steps among the last `RECENT` that are borne
    losses: list[float] = field(default_factory=list)  # the last finite ones, spikes included: a new level is adopted
    skips: list[int] = field(default_factory=list)  # numbers of the skipped steps among the last `RECENT`
    reason: str = ""  # why the last step was skipped, if it was

    @classmethod
    def of(cls, config: TrainConfig, state: dict[str, Any] | None = None) -> Guard:
        return cls(config.spike_threshold, config.max_skipped_steps, **(state or {}))

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "skips": self.skips}

    def usual(self) -> float:
        """The median of the remembered losses; NaN where there is none."""
        return median(self.losses) if self.losses else math.nan

    def limit(self) -> float:
        """The loss above which the next step is a spike; infinite where that cannot be said."""
        if not self.threshold or len(self.losses) < ENOUGH:
            return math.inf
        middle = self.usual()
        deviation = TO_DEVIATION * median(abs(loss - middle) for loss in self.losses)
        return middle + self.threshold * max(deviation, LEAST_DEVIATION)

    def observe(self, step: int, result: StepResult, language: str = "en") -> str:
        """Remember a step; why it was skipped, in words, or the empty string if it was learned from."""
        limit, usual = self.limit(), self.usual()
        if math.isfinite(result.loss) and result.targets:
            self.losses = [*self.losses[-WINDOW + 1 :], result.loss]
        self.skips = [skipped for skipped in self.skips if skipped > step - RECENT]
        self.reason = ""
        if not result.applied:
            self.skips.append(step)
            finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
            kind = "no_targets" if not result.targets else "spike" if finite else "not_finite"
            numbers = {"loss": result.loss, "norm": result.grad_norm, "limit": limit, "usual": usual}
            self.reason = say(kind, language, **numbers)
        return self.reason

    def hopeless(self) -> bool:
        return len(self.skips) >= self.most

    def give_up(self, step: int, config: TrainConfig, way_back: str) -> DivergedError:
        """The error that ends a run whose steps are skipped too often: what was seen, what to try."""
        return DivergedError(
            f"Training diverged: {len(self.skips)} of the last {min(step, RECENT)} steps up to {step} were skipped "
            f"(the last one: {self.reason}). Try half the learning_rate and matrix_learning_rate "
            f"({config.learning_rate:g}, {config.matrix_learning_rate:g}), more warmup_steps, or dtype: float32; where "
            f"batches differ by nature, spike_threshold: 0 or more than {config.max_skipped_steps} max_skipped_steps."
            f"{way_back}"
        )
