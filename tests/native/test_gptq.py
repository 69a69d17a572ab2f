"""Rounding by products: never worse than the nearest where it counts, the same where inputs have nothing in common."""

import numpy as np
import pytest
import torch

from malmoi.native.gptq import lost, round_by_products
from malmoi.native.interface import Kind
from malmoi.native.packed import GROUP, pack, unpack
from malmoi.native.rounding import round_int4, round_int8

NEAREST = {Kind.INT8: round_int8, Kind.INT4: round_int4}


def numbers(kind: Kind, rounded, shape) -> np.ndarray:
    return unpack(pack(kind, *rounded), shape)


def some(K: int, seed: int, tokens: int = 600):
    """A matrix, and the products of inputs that rise and fall together, some of them large."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((tokens, 8)) @ random.standard_normal((8, K)) + 0.3 * random.standard_normal((tokens, K))
    x *= np.exp(random.standard_normal(K))
    return random.standard_normal((24, K)).astype(np.float32), torch.from_numpy((x.T @ x).astype(np.float32))


@pytest.mark.parametrize("K", [16, 64, 100, 192])
@pytest.mark.parametrize("kind", [Kind.INT8, Kind.INT4])
def test_outputs_lose_less_than_by_rounding_to_the_nearest(kind: Kind, K: int):
    for seed in range(5):
        weight, products = some(K, seed)
        ours = lost(weight, numbers(kind, round_by_products(weight, products, kind), weight.shape), products)
        nearest = lost(weight, numbers(kind, NEAREST[kind](weight), weight.shape), products)
        assert ours < 0.7 * nearest


@pytest.mark.parametrize("kind", [Kind.INT8, Kind.INT4])
def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest(kind: Kind):
    weight, _ = some(128, 0)
    codes, scales = round_by_products(weight, torch.eye(128), kind)
    scale = scales.astype(np.float64)[:, None] if kind == Kind.INT8 else scales.astype(np.float64).repeat(GROUP, axis=1)
    low, high = (-127, 127) if kind == Kind.INT8 else (-8, 7)
    np.testing.assert_array_equal(codes, np.clip(np.rint(weight / scale), low, high))


def test_codes_and_scales_are_those_that_are_stored():
    weight, products = some(100, 1)
    codes, scales = round_by_products(weight, products, Kind.INT8)
    assert (codes.dtype, codes.shape, scales.dtype, scales.shape) == (np.int8, (24, 100), np.float32, (24,))
    assert codes.min() >= -127
    codes, scales = round_by_products(weight, products, Kind.INT4)
    assert (codes.dtype, codes.shape, scales.dtype, scales.shape) == (np.int8, (24, 100), np.float16, (24, 2))
    assert (codes.min() >= -8) and (codes.max() <= 7)
    assert np.isfinite(scales).all()


def test_zeros_inputs_that_never_came_and_no_text_at_all():
    weight, products = some(64, 2)
    weight[3] = 0
    products[5] = products[:, 5] = 0
    for kind in (Kind.INT8, Kind.INT4):
        found = numbers(kind, round_by_products(weight, products, kind), weight.shape)
        assert not found[3].any()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(
            numbers(kind, round_by_products(weight, torch.zeros(64, 64), kind), weight.shape), weight, atol=0.6
        )
    assert lost(weight, weight, products) == 0
