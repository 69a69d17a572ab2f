"""Rounding loses little, less than without a search, and never leaves its range."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from malmoi.native.packed import GROUP
from malmoi.native.rounding import round_int4, round_int8

MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 150)),
    elements=st.floats(-1000, 1000, width=32),
)


@settings(deadline=None)
@given(MATRICES)
def test_int8_is_within_its_range_and_near(weight):
    codes, scales = round_int8(weight)
    assert codes.min() >= -127
    error = np.abs(codes * scales[:, None] - weight).max(axis=1)
    assert (error <= np.abs(weight).max(axis=1) * 0.11 + 1e-6).all()  # what the search may cut off


@settings(deadline=None)
@given(MATRICES)
def test_int4_is_within_its_range_and_near(weight):
    codes, scales = round_int4(weight)
    assert codes.min() >= -8
    assert codes.max() <= 7
    assert codes.shape == weight.shape
    assert np.isfinite(scales).all()
    found = codes * scales.astype(np.float32).repeat(GROUP, axis=1)[:, : weight.shape[1]]
    assert (np.abs(found - weight).max(axis=1) <= np.abs(weight).max(axis=1) * 0.35 + 1e-6).all()


def test_the_search_is_worth_it():
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    codes, scales = round_int4(weight)
    searched = ((codes * scales.astype(np.float32).repeat(GROUP, axis=1) - weight) ** 2).mean()
    groups = weight.reshape(-1, GROUP)
    plain = np.abs(groups).max(axis=1, keepdims=True) / 7
    assert searched < 0.8 * ((np.rint(groups / plain) * plain - groups) ** 2).mean()


def test_zeros_and_one_large_number():
    weight = np.zeros((2, 64), np.float32)
    weight[1, 3] = 5
    for rounded in (round_int8, round_int4):
        codes, scales = rounded(weight)
        assert not codes[0].any()
        scale = float(scales[1]) if scales.ndim == 1 else float(scales[1, 0])
        np.testing.assert_allclose(codes[1, 3] * scale, 5, rtol=1e-3)
