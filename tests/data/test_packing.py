"""Packing: every token once, no row over its length, hardly anything wasted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.data import packing
from malmoi.data.packing import best_fit, pack, ranges

LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=150).map(np.array)


@given(LENGTHS, st.integers(1, 50), st.integers(0, 3), st.integers(1, 3))
@settings(max_examples=200)
def test_every_token_is_in_one_place_and_no_row_is_too_long(lengths, row_length, seed, window):
    before, packing.WINDOW_ROWS = packing.WINDOW_ROWS, window  # so that small inputs have several windows
    try:
        plan = pack(lengths, row_length, seed)
    finally:
        packing.WINDOW_ROWS = before
    tokens = ranges(plan.start, plan.length) + np.repeat(plan.document, plan.length) * 1000
    assert sorted(tokens) == [document * 1000 + place for document, n in enumerate(lengths) for place in range(n)]
    assert plan.offsets[0] == 0 and plan.offsets[-1] == len(plan.document) and (np.diff(plan.offsets) > 0).all()
    assert (np.add.reduceat(plan.length, plan.offsets[:-1]) <= row_length).all()
    pieces = np.bincount(plan.document, minlength=len(lengths))
    assert (
        pieces == -(-lengths // row_length)
    ).all()  # only what is longer than a row is cut, and only as often as it must
    assert 0 < plan.fill <= 1


@given(LENGTHS, st.integers(20, 60))
def test_best_fit_leaves_no_two_rows_that_would_fit_in_one(lengths, row_length):
    down = sorted((min(int(n), row_length) for n in lengths), reverse=True)
    rows, count = best_fit(down, row_length)
    load = np.bincount(rows, down)
    assert len(load) == count and (load <= row_length).all()
    assert count < 2 or np.sort(load)[:2].sum() > row_length


@pytest.mark.parametrize("row_length", [64, 256, 1024])
def test_short_documents_fill_the_rows(row_length):
    generator = np.random.default_rng(0)
    lengths = np.minimum(1 + generator.geometric(1 / 20, 40_000), row_length)
    assert pack(lengths, row_length).fill >= 0.97
    mixed = np.maximum(2, generator.lognormal(np.log(row_length / 4), 1.0, 8_000).astype(int))  # also longer than a row
    assert pack(mixed, row_length).fill >= 0.97


def test_a_plan_is_a_function_of_its_arguments():
    lengths = np.random.default_rng(1).integers(1, 60, 500)
    one, same, other = pack(lengths, 50, 7), pack(lengths, 50, 7), pack(lengths, 50, 8)
    assert (one.document == same.document).all() and (one.offsets == same.offsets).all()
    assert not (one.document == other.document).all()


def test_rows_are_looked_up():
    plan = pack(np.array([3, 4, 5, 25]), 10)
    rows = np.array([2, 0, 2])
    pieces, places = plan.pieces(rows)
    for place, row in enumerate(rows):
        assert list(pieces[places == place]) == list(range(plan.offsets[row], plan.offsets[row + 1]))


def test_ranges():
    assert list(ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))) == [5, 6, 9, 10, 11]
    assert list(ranges(np.array([], int), np.array([], int))) == []
