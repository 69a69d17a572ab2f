"""When to stop, and a watch that says in words when a model begins to learn by heart.

Training loss always falls; what counts is the loss on text that was kept aside. Early stopping (Prechelt 1998) ends a
run when that has not improved for `patience` evaluations. The watch compares the two curves: as long as they fall
together the model learns what the texts have in common; when one falls and the other rises, it learns the texts
themselves.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

PARTING = 0.05  # the gap has widened by this share of the held-out loss
RISING = 0.01  # the held-out loss has risen by this share of its best

WORDS = {
    "overfitting": {
        "en": (
            "Overfitting: since step {low_step} the held-out loss has risen by {rise:.3f} to {held_out:.3f}, while the "
            "training loss fell by {fall:.3f} to {training:.3f}; they are {gap:.3f} apart. The model is learning its "
            "training texts by heart. What helps, most first: more text, or more varied text; stopping here "
            "(early_stopping_patience: 3; step {low_step} was best); residual_dropout: 0.1; more weight_decay; a "
            "smaller model; fewer epochs."
        ),
        "ko": (
            "과적합: {low_step}단계 이후 검증 손실은 {rise:.3f} 올랐고(지금 {held_out:.3f}), 훈련 손실은 {fall:.3f} "
            "내렸습니다(지금 {training:.3f}). 두 손실의 차이는 {gap:.3f}입니다. 모델이 훈련용 글을 외우고 있습니다. "
            "효과가 큰 순서로: 글을 더 많이, 더 다양하게 모으기; 여기서 멈추기(early_stopping_patience: 3, 가장 좋았던 "
            "것은 {low_step}단계); residual_dropout: 0.1; weight_decay 높이기; 모델 줄이기; 에폭 줄이기."
        ),
    },
    "parting": {
        "en": (
            "The losses are parting: held-out {held_out:.3f}, training {training:.3f}; the gap grew from "
            "{least_gap:.3f} (step {least_step}) to {gap:.3f}. Held-out text still gets no worse, so "
            "this is not harmful yet. If it turns, the best checkpoint is kept; more varied text or "
            "residual_dropout: 0.1 would delay it."
        ),
        "ko": (
            "두 손실이 벌어지고 있습니다: 검증 {held_out:.3f}, 훈련 {training:.3f}. 차이: {least_gap:.3f}"
            "({least_step}단계) → {gap:.3f}. 검증 손실이 나빠지지는 않았으므로 아직 해롭지 않습니다. 나빠지기 "
            "시작해도 가장 좋은 체크포인트는 남습니다. 더 다양한 글이나 residual_dropout: 0.1이 이를 늦춥니다."
        ),
    },
    "stopped": {
        "en": (
            "Stopped early: in {waited} evaluations the held-out loss has not fallen below {best:.4f} "
            "(step {best_step})."
        ),
        "ko": "조기 종료: 검증 손실이 {waited}번의 평가 동안 {best:.4f}({best_step}단계) 아래로 내려가지 않았습니다.",
    },
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one evaluation showed. `kind`: "", "parting" or "overfitting", only when there is something new to say."""

    improved: bool
    stop: bool
    kind: str
    numbers: dict[str, Any]

    def text(self, language: str = "en") -> str:
        """The finding as sentences; empty when there is nothing to say."""
        kinds = [self.kind] if self.kind else []
        kinds += ["stopped"] if self.stop else []
        return " ".join(WORDS[kind][language].format(**self.numbers) for kind in kinds)


@dataclass
class Watch:
    """Both losses over the evaluations so far. Part of a checkpoint: `state` and `from_state` are exact inverses."""

    patience: int = 0  # 0: never stop
    threshold: float = 0.0  # nats by which an evaluation must be better to count
    history: list[tuple[int, float, float]] = field(default_factory=list)  # step, training loss, held-out loss
    best_step: int | None = None
    best: float | None = None
    waited: int = 0  # evaluations since the best
    told_parting: bool = False
    told_rise: float = 0.0  # the rise of the held-out loss when overfitting was last reported

    def observe(self, step: int, training: float, held_out: float) -> Finding:
        """Take in one evaluation: the training loss is the mean over the steps since the last one."""
        self.history.append((step, training, held_out))
        improved = math.isfinite(held_out) and (self.best is None or held_out < self.best - self.threshold)
        if improved:
            self.best_step, self.best, self.waited = step, held_out, 0
        else:
            self.waited += 1
        stop = bool(self.patience) and self.waited >= self.patience
        numbers: dict[str, Any] = {
            "best": math.nan if self.best is None else self.best,
            "best_step": self.best_step,
            "waited": self.waited,
        }
        kind = self._kind(numbers) if math.isfinite(training) and math.isfinite(held_out) else ""
        return Finding(improved, stop, kind, numbers)

    def _kind(self, numbers: dict[str, Any]) -> str:
        finite = [entry for entry in self.history if math.isfinite(entry[1]) and math.isfinite(entry[2])]
        _, training, held_out = finite[-1]
        # Compare with the lowest point of the held-out curve, whatever threshold stopping asks for.
        low_step, low_training, low = min(finite, key=lambda entry: entry[2])
        least_gap, least_step = min((entry[2] - entry[1], entry[0]) for entry in finite)
        gap, rise, fall = held_out - training, held_out - low, low_training - training
        numbers.update(training=training, held_out=held_out, gap=gap, rise=rise, fall=fall, low_step=low_step)
        numbers.update(least_gap=least_gap, least_step=least_step)
        since_low = sum(entry[0] > low_step for entry in finite)
        if since_low >= 2 and fall > 0 and rise > RISING * abs(low):
            if rise < 2 * self.told_rise:
                return ""  # said already, and not much worse
            self.told_rise = rise
            return "overfitting"
        # Early on the training mean lags behind the falling loss, and the gap is negative: that is no baseline.
        widened = gap - max(least_gap, 0.0) > PARTING * abs(held_out)
        if widened and finite[-2][2] - finite[-2][1] > least_gap and not self.told_parting and not self.told_rise:
            self.told_parting = True
            return "parting"
        return ""

    def state(self) -> dict[str, Any]:
        kept = asdict(self)
        kept["history"] = [[step, *(x if math.isfinite(x) else None for x in pair)] for step, *pair in self.history]
        return kept

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Watch:
        history = [(step, *(math.nan if x is None else x for x in pair)) for step, *pair in state["history"]]
        return cls(**{**state, "history": history})
