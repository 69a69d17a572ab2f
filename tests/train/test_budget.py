"""How long to train: the shortest of the limits, epochs counted exactly, minutes measured on a copy of the model."""

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train.budget import counted, reviewed, settle, steps_in_epochs, steps_in_minutes, time_steps
from malmoi.train.precision import Precision
from malmoi.train.step import StepResult, optimizer_step

FP32 = Precision(torch.float32, torch.float32, "cpu")


class Uneven:
    def steps_per_epoch(self, epoch):
        return (10, 11, 10)[epoch]


@pytest.mark.parametrize(
    ("epochs", "accumulation", "steps"), [(1, 1, 10), (2, 1, 21), (0.25, 1, 3), (1.5, 1, 16), (2, 4, 6), (0.001, 8, 1)]
)
def test_epochs(epochs, accumulation, steps):
    assert steps_in_epochs(epochs, Uneven(), accumulation) == steps


def test_minutes_pay_for_steps_and_evaluations():
    config = TrainConfig(max_minutes=1, eval_steps=10)
    # 60 s * 0.97 - 5 s spent - 2 s for the last evaluation = 51.2 s at 0.1 s a step and 0.2 s of evaluation a step
    assert steps_in_minutes(config, 5.0, 0.1, 2.0) == 170
    assert steps_in_minutes(config, 100.0, 0.1, 2.0) == 1  # a budget that is gone still makes a step


def test_whichever_limit_comes_first():
    def clock():
        return 0.0, 0.582, 0.0

    batches = PatternBatches(per_epoch=10)
    assert settle(TrainConfig(max_steps=30), batches, clock) == (30, None)
    assert settle(TrainConfig(num_train_epochs=2), batches, clock) == (20, None)
    assert settle(TrainConfig(max_minutes=1), batches, clock) == (100, 0.582)
    assert settle(TrainConfig(max_minutes=1, max_steps=30, num_train_epochs=5), batches, clock) == (30, 0.582)
    assert settle(TrainConfig(max_minutes=1, max_steps=300), batches, clock) == (100, 0.582)
    assert settle(TrainConfig(), batches, clock) == (10, None)  # nothing said: one epoch


def test_timing_uses_the_real_step_on_a_copy():
    model, batches, seen = tiny_model(), PatternBatches(), []
    before = [p.clone() for p in model.parameters()]

    def step(trial, *arguments, **keywords) -> StepResult:
        seen.append(trial)
        return optimizer_step(trial, *arguments, **keywords)

    per_step, per_evaluation = time_steps(
        model,
        lambda number: [batches.batch(number)],
        [batches.batch(0)] * 3,
        TrainConfig(max_minutes=0.01),
        FP32,
        step,
        lambda: len(seen) >= 5,
    )
    assert len(seen) == 5 and all(trial is not model for trial in seen)
    assert per_step > 0 and per_evaluation > 0
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(model.parameters(), before, strict=True))


def test_a_step_longer_than_the_budget_is_timed_once():
    seen = []

    def slow(*_, **__):
        import time

        seen.append(1)
        time.sleep(0.02)

    per_step, per_evaluation = time_steps(tiny_model(), lambda _: [], [], TrainConfig(max_minutes=0.0001), FP32, slow)
    assert len(seen) == 1 and per_step >= 0.02 and per_evaluation < 0.02


def test_a_plan_by_the_clock_follows_the_machine_while_the_rate_is_flat():
    by_clock = TrainConfig(max_minutes=1.0, warmup_steps=10, decay_steps=0.4)
    # 1,000 steps were planned; a step takes twice as long as it seemed
    slower = reviewed(by_clock, None, 1000, 200, 23.28, 0.1164)
    assert slower == pytest.approx(500, abs=1)
    assert reviewed(by_clock, None, 1000, 200, 5.82, 0.0291) == pytest.approx(2000, abs=1)
    # the tail has begun in one of the two plans, or the step is none of those that are reviewed
    assert reviewed(by_clock, None, 1000, 650, 40.0, 0.06) == 1000
    assert reviewed(by_clock, None, 1000, 400, 55.0, 0.14) == 1000
    assert reviewed(by_clock, None, 1000, 201, 23.28, 0.1164) == 1000


def test_the_shorter_of_two_plans_is_followed_also_when_the_machine_changes():
    both = TrainConfig(max_minutes=1.0, max_steps=600, warmup_steps=10, decay_steps=0.4)
    assert reviewed(both, 600, 600, 200, 5.82, 0.0291) == 600  # the clock would allow 2,000
    assert reviewed(both, 600, 600, 200, 23.28, 0.1164) == pytest.approx(500, abs=1)
    assert reviewed(both, 600, 500, 200, 11.64, 0.0582) == 600  # faster again: as many as were asked for


def test_what_can_be_counted():
    batches = PatternBatches(per_epoch=10)
    assert counted(TrainConfig(max_minutes=1), batches) is None
    assert counted(TrainConfig(max_minutes=1, max_steps=30, num_train_epochs=2), batches) == 20
    assert counted(TrainConfig(max_steps=15, num_train_epochs=2), batches) == 15


@pytest.mark.parametrize("other", [{"lr_scheduler_type": "cosine"}, {"max_minutes": None}])
def test_no_other_plan_is_reviewed(other):
    config = TrainConfig(**{"max_minutes": 1.0, "warmup_steps": 10, **other})
    assert reviewed(config, None, 1000, 200, 23.28, 0.1164) == 1000
