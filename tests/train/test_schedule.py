"""The learning rate's course: shape, ends and bounds of every schedule."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import TrainConfig
from malmoi.train.schedule import learning_rate_factor, steps_of

KINDS = ("cosine", "linear", "warmup_stable_decay", "constant")


def course(kind, max_steps=100, **settings):
    config = TrainConfig(lr_scheduler_type=kind, **{"warmup_steps": 10, "decay_steps": 40, **settings})
    return [learning_rate_factor(step, config, max_steps) for step in range(max_steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_parts_to_one(kind):
    factors = course(kind)
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(factors) == 1.0


def test_cosine_is_half_way_in_the_middle_and_low_at_the_end():
    factors = course("cosine", min_learning_rate_ratio=0.2)
    assert factors[55] == pytest.approx(0.6)
    assert factors[-1] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_linear_falls_by_equal_parts():
    factors = course("linear")
    drops = [a - b for a, b in itertools.pairwise(factors[10:])]
    assert drops == pytest.approx([1 / 90] * 89)
    assert factors[-1] == pytest.approx(1 / 90)  # the last step still learns


def test_warmup_stable_decay_is_flat_and_then_falls():
    factors = course("warmup_stable_decay")
    assert set(factors[10:60]) == {1.0}
    assert factors[60] < 1.0
    assert factors[60:] == pytest.approx([(40 - k) / 41 for k in range(40)])


def test_constant_stays():
    assert set(course("constant")[10:]) == {1.0}


def test_shares_and_counts():
    assert steps_of(0.02, 500) == 10
    assert steps_of(25, 500) == 25
    assert steps_of(0, 500) == 0
    assert course("linear", warmup_steps=0)[0] == 1.0


@given(
    kind=st.sampled_from(KINDS),
    max_steps=st.integers(1, 400),
    warmup=st.one_of(st.floats(0, 0.99), st.integers(1, 600).map(float)),
    decay=st.one_of(st.floats(0, 0.99), st.integers(1, 600).map(float)),
    low=st.floats(0, 1),
)
def test_always_between_zero_and_one_and_never_rises_after_the_warm_up(kind, max_steps, warmup, decay, low):
    factors = course(kind, max_steps, warmup_steps=warmup, decay_steps=decay, min_learning_rate_ratio=low)
    assert all(0 < factor <= 1 for factor in factors)
    tail = factors[min(steps_of(warmup, max_steps), max_steps) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(tail))
    assert all(factor >= low - 1e-12 for factor in tail)
