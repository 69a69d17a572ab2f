"""Compute-optimal text against the published optima; the interval holds the value."""

import pytest

from malmoi.config import MalmoiError
from malmoi.plan import optimum
from malmoi.plan.scaling import BESIROGLU_2024, HOFFMANN_2022


@pytest.mark.parametrize(
    ("law", "size", "tokens"), [(BESIROGLU_2024, 72.2e9, 1.33e12), (HOFFMANN_2022, 40.3e9, 2.38e12)]
)
def test_gophers_budget(law, size: float, tokens: float):
    assert optimum.optimal_tokens(size, law) == pytest.approx(tokens, rel=0.01)
    found = law.optimal(5.76e23)
    assert optimum.optimal_tokens(found.parameters, law) == pytest.approx(found.tokens, rel=1e-6)


def test_advice_and_loss_come_with_intervals():
    found = optimum.advice(7e9)
    assert found["low"] < found["tokens"] < found["high"]
    assert 10 < found["tokens"] / 7e9 < 30  # near what Chinchilla did
    loss = optimum.expected_loss(7e9, 1.4e11)
    assert loss["low"] < loss["value"] < loss["high"] and not loss["beyond"]
    assert optimum.expected_loss(1e6, 1e7)["beyond"]
    assert optimum.expected_loss(7e9, 1e12)["value"] < loss["value"]


def test_budget_splits():
    best, sizes, losses = optimum.best_split(1e21)
    assert sizes[0] < best.parameters < sizes[1] and losses[0] < best.loss < losses[1]
    assert optimum.cost_of(best.parameters, best.tokens) == pytest.approx(1e21, rel=1e-6)
    with pytest.raises(MalmoiError):
        optimum.optimal_tokens(0, BESIROGLU_2024)
