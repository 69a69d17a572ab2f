"""The other way round: sums and hours that are kept, errors."""

import pytest

from malmoi.config import MalmoiError
from malmoi.plan.hardware import cluster
from malmoi.plan.targets import hours_for, largest, shape
from malmoi.plan.work import work_of


@pytest.mark.parametrize("size", [1e6, 1e8, 3e9, 2e12])
def test_shapes_have_about_the_size(size: float):
    assert work_of(shape(size)).counted.active_without_input_embedding == pytest.approx(size, rel=0.35)


def test_hours_are_kept_and_more_of_them_buy_a_larger_model():
    day, week = (largest(cluster("RTX4090"), hours) for hours in (24, 168))
    assert day["run"]["seconds"] / 3600 == pytest.approx(24, rel=0.12)
    assert week["worth"]["parameters"] > day["worth"]["parameters"]
    assert week["worth"]["loss"] < day["worth"]["loss"]
    assert day["worth"]["loss_low"] < day["worth"]["loss"] < day["worth"]["loss_high"]


def test_a_sum_buys_hours_at_the_middle_price():
    hours, price = hours_for(cluster("8xH100"), 100)
    assert hours * 8 * price["used"] == pytest.approx(100)
    assert price["low"] < price["used"] < price["high"]


def test_errors():
    with pytest.raises(MalmoiError, match="No price is known for TPU-v4"):
        hours_for(cluster("TPU-v4"), 100)
    with pytest.raises(MalmoiError, match="must be above 0"):
        largest(cluster("H100"), 0)
    with pytest.raises(MalmoiError, match="plans reach from"):
        largest(cluster("H100"), 1e-12)
