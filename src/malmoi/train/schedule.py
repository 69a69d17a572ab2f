"""The learning rate over a run, as a pure function of the step: nothing to save, nothing to restore.

Every schedule rises from near zero to 1 during the warm-up (large first steps on random weights do lasting damage) and
then falls in its own way to `min_learning_rate_ratio`; the optimizer multiplies its learning rates by the factor.

    cosine                half a cosine from the end of the warm-up to the last step (Loshchilov & Hutter 2017)
    linear                a straight line
    warmup_stable_decay   flat, then a straight line during the last `decay_steps` (Hu et al. 2024, MiniCPM): a run can
                          be prolonged from any point of the flat part, and most of the gain comes in the short tail
    constant              flat
"""

from __future__ import annotations

import math

from malmoi.config import TrainConfig


def learning_rate_factor(step: int, config: TrainConfig, max_steps: int) -> float:
    """What the learning rates are multiplied by in update number `step` (0 is the first, `max_steps - 1` the last).

    The factor is never 0 unless `min_learning_rate_ratio` was reached: the last update of a decay to zero still moves
    by one part in the number of decay steps, so that no batch is wasted.
    """
    warmup = min(steps_of(config.warmup_steps, max_steps), max_steps)
    if step < warmup:
        return (step + 1) / warmup
    low = config.min_learning_rate_ratio
    remaining = max(max_steps - warmup, 1)
    through = min((step - warmup) / remaining, 1.0)  # 0 right after the warm-up, 1 past the end
    match config.lr_scheduler_type:
        case "cosine":
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * through))
        case "linear":
            return low + (1 - low) * (1 - through)
        case "warmup_stable_decay":
            decay = min(steps_of(config.decay_steps, max_steps), remaining)
            left = max_steps - step  # updates left, this one included
            return 1.0 if left > decay else low + (1 - low) * max(left, 0) / (decay + 1)
        case "constant":
            return 1.0


def steps_of(setting: float, max_steps: int) -> int:
    """A number of steps from a setting that is a count (1 or more) or a share of the run (below 1)."""
    return round(setting) if setting >= 1 else round(setting * max_steps)
