"""The law of scaling: known coefficients come back, intervals cover, published optima are met."""

import math

import numpy as np
import pytest

from malmoi.config import MalmoiError
from malmoi.plan.scaling import (
    BESIROGLU_2024,
    HOFFMANN_2022,
    HOFFMANN_2022_ROUNDED,
    PUBLISHED,
    Point,
    ScalingLaw,
    fit,
    foretold,
)

SMALL = ScalingLaw(0.9, 30.0, 60.0, 0.35, 0.33)  # such as little models have, in bits per byte


def grid(law, sizes, lengths, noise=0.0, seed=0):
    draw = np.random.default_rng(seed)
    return [Point(n, d, law.loss(n, d) * math.exp(noise * draw.standard_normal())) for n in sizes for d in lengths]


def small_runs(noise=0.0, seed=0):
    return grid(SMALL, np.geomspace(5e4, 1e6, 5), np.geomspace(1e5, 2e6, 4), noise, seed)


@pytest.mark.parametrize("law", [*PUBLISHED.values(), SMALL], ids=[*PUBLISHED, "small"])
def test_known_coefficients_come_back(law):
    found = fit(grid(law, np.geomspace(5e7, 1e10, 5), np.geomspace(1e9, 2e11, 5)), bootstraps=0)
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-4)


def test_one_odd_run_does_not_bend_the_law():
    runs = small_runs(noise=0.001)
    odd = [*runs[:7], Point(runs[7].parameters, runs[7].tokens, runs[7].loss * 1.3), *runs[8:]]
    assert fit(odd, bootstraps=0).loss(2e6, 4e6) == pytest.approx(SMALL.loss(2e6, 4e6), rel=0.01)


# arXiv 2203.15556 and 2404.10102: the split of Gopher's budget that each set of constants asks for.
@pytest.mark.parametrize(
    ("law", "billions", "per_parameter"),
    [(HOFFMANN_2022_ROUNDED, 32.2, 92.6), (HOFFMANN_2022, 40.3, 59.1), (BESIROGLU_2024, 72.2, 18.4)],
)
def test_the_optimum_of_gophers_budget(law, billions, per_parameter):
    best = law.optimal(5.76e23)
    assert best.parameters / 1e9 == pytest.approx(billions, abs=0.1)
    assert best.tokens / best.parameters == pytest.approx(per_parameter, abs=0.1)
    assert 6 * best.parameters * best.tokens == pytest.approx(5.76e23)
    for shift in (0.9, 1.1):  # no other split of the same budget is better
        assert law.loss(best.parameters * shift, best.tokens / shift) > best.loss


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    questions = (
        lambda law: law.beta,
        lambda law: law.loss(2e6, 4e6),
        lambda law: law.loss(1e6, 2e6) - law.loss(1e6, 4e6),
    )
    held = []
    for seed in range(24):
        law = fit(small_runs(noise=0.005, seed=seed), bootstraps=60, seed=seed)
        for question in questions:
            low, high = law.interval(question)
            held.append(low <= question(SMALL) <= high)
            assert high - low < abs(question(SMALL))  # and they say something
    assert 0.75 <= np.mean(held) <= 0.99


def test_more_noise_means_wider_intervals_and_the_same_seed_the_same_ones():
    def width(noise):
        low, high = fit(small_runs(noise), bootstraps=60).interval(lambda law: law.alpha)
        return high - low

    assert width(0.01) > 2 * width(0.001)
    assert fit(small_runs(0.01), bootstraps=20) == fit(small_runs(0.01), bootstraps=20)


def test_how_far_a_question_lies_from_the_runs():
    law = fit(small_runs(), bootstraps=0)
    assert law.beyond(1e6, 2e6) == 1
    assert law.beyond(1e5, 1e5) == 1
    assert law.beyond(4e6, 4e6) == pytest.approx(8)
    assert law.beyond(5e4, 2e7) == pytest.approx(10)  # less compute, but ten times the longest text
    assert math.isnan(BESIROGLU_2024.beyond(1, 1))


def test_the_largest_run_is_foretold_by_the_others():
    guess, largest = foretold(small_runs(noise=0.002))
    assert (largest.parameters, largest.tokens) == (1e6, 2e6)
    assert guess == pytest.approx(SMALL.loss(1e6, 2e6), rel=0.02)
    assert foretold(small_runs()[:6]) is None


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (small_runs()[:5], "at least six"),
        (grid(SMALL, (1e5, 1e6), np.geomspace(1e5, 1e6, 4)), "2 sizes"),
        (grid(SMALL, np.geomspace(1e5, 1e6, 4), (1e5, 1e6)), "2 lengths"),
        ([*small_runs(), Point(1e5, 1e5, math.nan)], "cannot be fitted"),
        ([*small_runs(), Point(1e5, 0, 2.0)], "cannot be fitted"),
    ],
)
def test_runs_that_cannot_carry_a_law_are_refused(points, words):
    with pytest.raises(MalmoiError, match=words):
        fit(points)


def test_questions_without_an_answer():
    with pytest.raises(MalmoiError, match="no interval"):
        BESIROGLU_2024.interval(lambda law: law.alpha)
    with pytest.raises(MalmoiError, match="above 0"):
        BESIROGLU_2024.optimal(0)


def test_losses_without_a_floor_are_fitted_too():
    bare = ScalingLaw(0.0, 8.0, 100.0, 0.12, 0.4)
    law = fit(grid(bare, np.geomspace(1e4, 1e5, 4), np.geomspace(6e4, 6e5, 4)), bootstraps=0)
    assert law.E < 0.05
    assert law.loss(2e5, 1e6) == pytest.approx(bare.loss(2e5, 1e6), rel=0.01)
