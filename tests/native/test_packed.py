"""The layouts of weights: what is packed comes back, at the places that the file format promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.native.interface import Kind
from malmoi.native.packed import (
    GROUP,
    Packed,
    from_bfloat16,
    pack,
    packed_shape,
    scales_shape,
    settled,
    to_bfloat16,
    unpack,
    up_to,
)


def numbers_of(kind: Kind, shape: tuple[int, ...], seed: int):
    """Numbers that the kind holds exactly, and their scales."""
    random = np.random.default_rng(seed)
    if kind == Kind.INT8:
        return random.integers(-127, 128, shape).astype(np.int8), random.random(shape[:-1]).astype(np.float32)
    if kind == Kind.INT4:
        groups = (*shape[:-1], up_to(shape[-1], GROUP) // GROUP)
        return random.integers(-8, 8, shape).astype(np.int8), random.random(groups).astype(np.float16)
    return from_bfloat16(random.integers(0x3000, 0x4000, shape).astype(np.uint16)), None


@settings(deadline=None)
@given(
    kind=st.sampled_from(Kind),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 140)),
    many=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_packed_comes_back(kind: Kind, shape: tuple[int, ...], many: bool, seed: int):
    shape = shape if many else shape[1:]
    numbers, scales = numbers_of(kind, shape, seed)
    packed = pack(kind, numbers, scales)
    assert packed.data.shape == packed_shape(kind, shape)
    assert packed.data.ctypes.data % 64 == 0
    assert (None if packed.scales is None else packed.scales.shape) == scales_shape(kind, shape)
    expected = numbers.astype(np.float32)
    if kind == Kind.INT8:
        expected = expected * scales[..., None]
    elif kind == Kind.INT4:
        expected = expected * scales.astype(np.float32).repeat(GROUP, axis=-1)[..., : shape[-1]]
    np.testing.assert_array_equal(unpack(packed, shape), expected)


def test_a_weight_lies_where_the_format_says():
    """Output 21 (block 1, lane 5), input 75: the places that `engine/malmoi.h` writes down."""
    for kind in Kind:
        numbers, scales = numbers_of(kind, (32, 128), 0)
        data = pack(kind, numbers, scales).data
        weight = numbers[21, 75]
        found = {
            Kind.FLOAT32: lambda d: d[1, 75, 5],
            Kind.BFLOAT16: lambda d: from_bfloat16(d)[1, 37, 5, 1],
            Kind.INT8: lambda d: int(d[1, 18, 5, 3]) - 128,
            Kind.INT4: lambda d: int(d[1, 9, 5, 3] & 15) - 8,  # 75 = 8 * 9 + 3
        }[kind](data)
        assert found == weight
    numbers, scales = numbers_of(Kind.INT4, (32, 128), 0)
    assert int(pack(Kind.INT4, numbers, scales).data[1, 9, 5, 3] >> 4) - 8 == numbers[21, 79]


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even():
    given = np.array([1.0, 1.00390625, 1.01171875, -2.5], np.float32)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(given)), np.float32([1.0, 1.0, 1.015625, -2.5]))


def test_settled_arrays_are_equal_and_aligned():
    arrays = [np.arange(n, dtype=np.int32).reshape(-1, 1) for n in (1, 17, 600_000)]
    for copy, array in zip(settled(arrays), arrays, strict=True):
        np.testing.assert_array_equal(copy, array)
        assert copy.ctypes.data % 64 == 0
    assert settled([]) == []


@pytest.mark.parametrize("kind", [Kind.INT8, Kind.INT4])
def test_padding_stands_for_zero(kind: Kind):
    numbers, scales = numbers_of(kind, (3, 5), 0)
    packed = pack(kind, numbers, scales)
    full = unpack(Packed(kind, packed.data, packed.scales), (16, 64))
    assert np.count_nonzero(full[3:]) == np.count_nonzero(full[:, 5:]) == 0
