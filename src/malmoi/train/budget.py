"""How long to train: a number of steps, settled before the first one.

`max_steps`, `num_train_epochs` and `max_minutes` may each be given; whichever is reached first ends the run. Minutes
are turned into steps by timing real steps on a throw-away copy of the model. The number goes into the resolved settings
and every checkpoint, so that the learning-rate schedule and a resumed run go by steps and not by the clock.

A machine's speed is not the same for three minutes on end. Where minutes are among the limits, the run's length is
therefore reviewed while the learning rate is flat (only there does the number of steps to come change nothing that was
done).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from malmoi.config import TrainConfig
from malmoi.train.loss import evaluate
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.schedule import learning_rate_factor
from malmoi.train.step import StepFunction


class Clock(Protocol):
    """Measures, when asked: (seconds spent so far, seconds of a step, seconds of an evaluation)."""

    def __call__(self) -> tuple[float, float, float]: ...


REVIEW_EVERY = 50  # steps
MARGIN = 0.97  # of the budget is planned: the rest goes to saving, plotting and a machine that is not alone


def settle(config: TrainConfig, batches: Any, clock: Clock) -> tuple[int, float | None]:
    """The number of steps of a run, and the measured seconds of a step if `max_minutes` asked for them.

    Without any limit the run is one epoch.
    """
    limits, per_step = [counted(config, batches)], None
    if config.max_minutes is not None:
        spent, per_step, per_evaluation = clock()
        limits.append(steps_in_minutes(config, spent, per_step, per_evaluation))
    shortest = min((limit for limit in limits if limit is not None), default=None)
    return shortest or steps_in_epochs(1, batches, config.gradient_accumulation_steps), per_step


def counted(config: TrainConfig, batches: Any) -> int | None:
    """The most steps that `max_steps` and `num_train_epochs` allow, None where neither is given."""
    limits = [config.max_steps] if config.max_steps is not None else []
    if config.num_train_epochs is not None:
        limits.append(steps_in_epochs(config.num_train_epochs, batches, config.gradient_accumulation_steps))
    return min(limits, default=None)


def reviewed(
    config: TrainConfig, most: int | None, max_steps: int, step: int, spent: float, seconds_per_step: float
) -> int:
    """The number of steps that the clock allows as it now runs; `max_steps` itself where nothing is to be reviewed.

    `most`: the steps that the other limits allow (`counted`); `spent`: seconds of the budget that are gone after `step`
    steps; `seconds_per_step`: what a step has taken on average, evaluations included.
    """
    if config.max_minutes is None or step % REVIEW_EVERY:
        return max_steps
    if config.lr_scheduler_type not in ("warmup_stable_decay", "constant"):
        return max_steps
    new = step + max(int((config.max_minutes * 60 * MARGIN - spent) / seconds_per_step), 1)
    new = new if most is None else min(new, most)
    flat = all(learning_rate_factor(step, config, steps) == 1.0 for steps in (max_steps, new))
    return new if flat else max_steps


def steps_in_epochs(epochs: float, batches: Any, accumulation: int) -> int:
    """Optimizer steps in so many epochs, the last one begun but not finished where `epochs` has a fraction."""
    whole = math.floor(epochs)
    count = sum(batches.steps_per_epoch(epoch) for epoch in range(whole))
    if epochs > whole:
        count += math.ceil((epochs - whole) * batches.steps_per_epoch(whole))
    return max(math.ceil(count / accumulation), 1)


def steps_in_minutes(config: TrainConfig, spent: float, seconds_per_step: float, seconds_per_evaluation: float) -> int:
    """Steps that fit in `max_minutes`, of which `spent` seconds are gone; evaluations are paid from the same purse."""
    assert config.max_minutes is not None
    left = config.max_minutes * 60 * MARGIN - spent - seconds_per_evaluation  # one evaluation at the very end
    return max(int(left / (seconds_per_step + seconds_per_evaluation / config.eval_steps)), 1)


def time_steps(
    model: Any,
    micro_batches_of: Callable[[int], Sequence[Any]],
    held_out: Sequence[Any],
    config: TrainConfig,
    precision: Precision,
    step_function: StepFunction,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[float, float]:
    """Seconds of a step (batches included; lower quartile after a warm-up) and of an evaluation, on a copy that is then
    dropped.

    Takes about a second, or 2 % of `max_minutes` where that is more, and at least three steps unless `enough()`.
    """
    assert config.max_minutes is not None
    trial = copy.deepcopy(model)
    optimizer = build(trial, config, precision.muon)
    trial.train()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - begin < max(1.0, 0.02 * config.max_minutes * 60):
        start = time.perf_counter()
        step_function(
            trial,
            optimizer,
            micro_batches_of(len(seconds)),
            learning_rate_factor=0.0,
            max_grad_norm=config.max_grad_norm,
            precision=precision,
            seed=config.seed,
            step=len(seconds),
        )
        seconds.append(time.perf_counter() - start)
        if enough() or seconds[-1] > 0.1 * config.max_minutes * 60:
            break
    start = time.perf_counter()
    if held_out:
        evaluate(precision.working(trial), held_out[:1], precision.autocast)
    per_evaluation = (time.perf_counter() - start) * len(held_out)
    # Not the median: while another program has a core, a step can take several times as long, and would set the length
    # of the whole run.
    calm = sorted(seconds[1:] or seconds)
    return calm[len(calm) // 4], per_evaluation
