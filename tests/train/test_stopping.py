"""Early stopping and the watch: what each course of the two losses makes them say."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.train.stopping import Watch


def findings(pairs, **settings):
    watch = Watch(**settings)
    return watch, [watch.observe(100 * (index + 1), *pair) for index, pair in enumerate(pairs)]


HEALTHY = [(3.0 - 0.1 * k, 3.1 - 0.1 * k) for k in range(10)]
OVERFIT = [(3.0 - 0.2 * k, 3.1 - 0.2 * k if k < 5 else 2.3 + 0.1 * (k - 4)) for k in range(10)]
PARTING = [(3.0 - 0.2 * k, 3.1 - 0.12 * k) for k in range(8)]
DIVERGING = [(3.0 + 0.2 * k, 3.1 + 0.2 * k) for k in range(6)]


def test_a_healthy_run_says_nothing():
    watch, found = findings(HEALTHY)
    assert all(finding.improved and not finding.stop and finding.text("ko") == "" for finding in found)
    assert (watch.best_step, watch.best) == (1000, HEALTHY[-1][1])


def test_overfitting_is_told_with_its_numbers_in_both_languages():
    _, found = findings(OVERFIT)
    told = [(100 * (i + 1), finding) for i, finding in enumerate(found) if finding.kind == "overfitting"]
    step, first = told[0]
    assert step == 700  # two evaluations after the lowest point
    assert first.numbers["low_step"] == 500
    assert first.numbers["rise"] == pytest.approx(0.2) and first.numbers["fall"] == pytest.approx(0.4)
    english, korean = first.text("en"), first.text("ko")
    for number in ("500", "0.200", "2.500", "0.400", "1.800", "0.700"):
        assert number in english and number in korean, number
    assert "by heart" in english and "과적합" in korean and "residual_dropout" in korean
    assert 1 < len(told) < 5  # told again when it has become much worse, not every time


def test_parting_is_told_once_and_is_not_called_overfitting():
    _, found = findings(PARTING)
    kinds = [finding.kind for finding in found]
    assert kinds.count("parting") == 1 and "overfitting" not in kinds
    text = next(finding.text("en") for finding in found if finding.kind)
    assert "parting" in text and "0.100 (step 100)" in text


def test_a_diverging_run_is_not_called_overfitting():
    _, found = findings(DIVERGING)
    assert all(finding.kind == "" for finding in found)


def test_noise_is_not_called_overfitting():
    _, found = findings([(2.0 - 0.001 * k, 2.1 + 0.01 * (-1) ** k) for k in range(20)])
    assert all(finding.kind == "" for finding in found)


def test_patience_and_threshold():
    _, found = findings([(1, 2.0), (1, 1.9), (1, 1.95), (1, 1.92), (1, 1.91)], patience=3)
    assert [finding.stop for finding in found] == [False, False, False, False, True]
    assert "1.9000" in found[-1].text("en") and "(step 200)" in found[-1].text("en")
    assert "3번" in found[-1].text("ko") and "200단계" in found[-1].text("ko")
    _, found = findings([(1, 2.0), (1, 1.99), (1, 1.98)], patience=2, threshold=0.05)
    assert [finding.improved for finding in found] == [True, False, False] and found[-1].stop
    _, found = findings([(1, 2.0 + k) for k in range(20)], patience=0)
    assert not any(finding.stop for finding in found)


def test_a_held_out_loss_that_is_not_a_number_never_is_the_best():
    watch, found = findings([(2.0, math.nan), (2.0, 3.0), (math.nan, 2.0), (1.0, math.inf)], patience=5)
    assert [finding.improved for finding in found] == [False, True, True, False]
    assert watch.best == 2.0


@given(
    pairs=st.lists(
        st.tuples(
            st.one_of(st.floats(0, 10), st.just(math.nan)),
            st.one_of(st.floats(0, 10), st.sampled_from([math.inf, math.nan])),
        ),
        min_size=2,
        max_size=20,
    ),
    data=st.data(),
)
def test_a_watch_goes_on_through_json_as_if_nothing_had_happened(pairs, data):
    cut = data.draw(st.integers(0, len(pairs)))
    straight, expected = findings(pairs, patience=3, threshold=0.01)
    watch, found = findings(pairs[:cut], patience=3, threshold=0.01)
    watch = Watch.from_state(json.loads(json.dumps(watch.state(), allow_nan=False)))
    found += [watch.observe(100 * (cut + i + 1), *pair) for i, pair in enumerate(pairs[cut:])]
    assert [(f.improved, f.stop, f.kind, f.text("ko")) for f in found] == [
        (f.improved, f.stop, f.kind, f.text("ko")) for f in expected
    ]
    assert watch.state() == straight.state()
