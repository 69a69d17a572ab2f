"""Spikes are seen against what is usual, whatever that is; many skipped steps end a run with what was seen."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import TrainConfig
from malmoi.train.guard import ENOUGH, LEAST_DEVIATION, RECENT, WINDOW, Guard
from malmoi.train.step import StepResult


def seen(guard, losses, first=1):
    """Feed losses as the trainer would; the steps that were skipped."""
    skipped = []
    for step, loss in enumerate(losses, start=first):
        applied = math.isfinite(loss) and loss <= guard.limit()
        if guard.observe(step, StepResult(loss, 1.0, 10, 10, applied)):
            skipped.append(step)
    return skipped


def test_a_spike_is_skipped_and_ordinary_noise_is_not():
    losses = 3 + 0.1 * np.random.default_rng(0).standard_normal(500)
    losses[[200, 201, 333]] = [9.0, 6.0, 5.0]
    guard = Guard.of(TrainConfig())
    assert seen(guard, losses) == [201, 202, 334]
    assert guard.usual() == pytest.approx(3, abs=0.05)


def test_the_fall_of_the_loss_in_the_beginning_is_no_spike_and_neither_is_its_noise():
    steps = np.arange(400)
    losses = 2 + 7 * np.exp(-steps / 60) + 0.05 * np.random.default_rng(1).standard_normal(400)
    assert seen(Guard.of(TrainConfig()), losses) == []


def test_few_losses_say_nothing_and_zero_switches_off():
    assert seen(Guard.of(TrainConfig()), [3.0] * (ENOUGH - 1) + [1e6]) == []
    assert seen(Guard.of(TrainConfig(spike_threshold=0)), [3.0] * 300 + [1e6]) == []


def test_equal_losses_do_not_make_a_trifle_a_spike():
    guard = Guard.of(TrainConfig(spike_threshold=10))
    assert seen(guard, [2.0] * 100) == []
    assert guard.limit() == pytest.approx(2 + 10 * LEAST_DEVIATION)


def test_a_lasting_new_level_is_adopted():
    guard = Guard.of(TrainConfig(max_skipped_steps=100))
    skipped = seen(guard, [2.0] * 100 + [5.0] * 300)
    assert skipped and skipped[-1] < 100 + WINDOW


def test_reasons_in_both_languages():
    guard = Guard.of(TrainConfig())
    seen(guard, [2.0] * 50)
    assert guard.observe(51, StepResult(9.0, 1.0, 5, 5, False)) == "its loss 9.000 leapt above 2.240; 2.000 is usual"
    assert "평소 2.000" in guard.observe(52, StepResult(9.0, 1.0, 5, 5, False), "ko")
    assert "nan" in guard.observe(53, StepResult(math.nan, 1.0, 5, 5, False))
    assert "inf" in guard.observe(54, StepResult(2.0, math.inf, 5, 5, False))
    assert "nothing to learn" in guard.observe(55, StepResult(0.0, 0.0, 0, 5, False))
    assert guard.observe(56, StepResult(2.0, 1.0, 5, 5, True)) == "" == guard.reason


def test_many_skipped_steps_end_the_run_few_over_a_long_time_do_not():
    guard = Guard.of(TrainConfig(max_skipped_steps=3))
    for step in range(1, 5 * RECENT):
        guard.observe(step, StepResult(math.nan if step % 50 == 0 else 2.0, 1.0, 5, 5, step % 50 != 0))
        assert not guard.hopeless()
    for step in range(5 * RECENT, 5 * RECENT + 3):
        guard.observe(step, StepResult(math.nan, 1.0, 5, 5, False))
    assert guard.hopeless()
    text = str(guard.give_up(503, TrainConfig(), " The last checkpoint is x."))
    assert "of the last 100 steps up to 503 were skipped" in text and text.endswith("The last checkpoint is x.")


@given(st.lists(st.floats(0, 20), max_size=300), st.integers(0, 300))
def test_a_state_that_went_through_json_guards_the_same(losses, cut):
    one = Guard.of(TrainConfig())
    seen(one, losses[:cut])
    other = Guard.of(TrainConfig(), json.loads(json.dumps(one.state())))
    assert seen(one, losses[cut:], cut + 1) == seen(other, losses[cut:], cut + 1)
    assert one.state() == other.state() and one.limit() == other.limit()
