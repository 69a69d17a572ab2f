"""The machine's laws: what costs more must not take less, and limits that have a closed form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.plan.hardware import device
from malmoi.plan.physics import Machine, Physics, constants, interval, physics

H100 = Machine(device("H100"), physics())
SIZES = st.integers(1, 1 << 15)


def test_constants_say_what_they_are_worth():
    found = constants()
    assert set(found["values"]) == set(Physics.__dataclass_fields__)
    assert found["rows"] == len(found["cross_validated_logs"]) and len(found["systems"]) > 5
    low, high = interval()
    assert low < 1 < high


@settings(max_examples=100, deadline=None)
@given(SIZES, SIZES, SIZES)
def test_a_product_is_never_faster_than_its_operations_and_never_shrinks(rows: int, inputs: int, outputs: int):
    seconds, bytes_seconds = H100.product(rows, inputs, outputs, "bf16", 2)
    assert seconds > 2 * rows * inputs * outputs / H100.device.achievable
    assert bytes_seconds > 0
    for larger in ((2 * rows, inputs, outputs), (rows, 2 * inputs, outputs), (rows, inputs, 2 * outputs)):
        assert sum(H100.product(*larger, "bf16", 2)) > seconds + bytes_seconds


def test_large_products_reach_the_sustained_rate_and_small_ones_do_not():
    def efficiency(size: int) -> float:
        return 2 * size**3 / sum(H100.product(size, size, size, "bf16", 2)) / H100.device.achievable

    assert efficiency(512) < 0.2 < 0.8 < efficiency(16_384) < H100.physics.matrix


def test_fp8_is_faster_but_its_rounding_costs():
    assert H100.product(8192, 8192, 8192, "fp8", 2)[0] < H100.product(8192, 8192, 8192, "bf16", 2)[0]
    assert H100.rounding(1e9, "fp8") > 0 == H100.rounding(1e9, "bf16")
    a100 = Machine(device("A100"), physics())
    assert a100.rate("fp8") == a100.rate("bf16")  # it has no such units


def test_the_host_sets_the_pace_of_many_small_kernels():
    plenty = H100.kernels(1000, 0.0)
    assert plenty == pytest.approx(1000 * max(H100.physics.launch, H100.physics.kernel), rel=0.25)
    assert H100.kernels(1000, 10.0) == pytest.approx(1000 * H100.physics.kernel, rel=0.01)


def test_a_ring_takes_the_link_inside_and_the_network_between():
    alone, inside, across = (H100.ring(1e9, members, 1) for members in (1, 8, 16))
    assert alone == 0 < inside < across
    spread = H100.ring(1e9, 8, 8)  # one member a node: each has only its own card
    assert spread > 3 * across
    assert H100.ring(1e9, 8, 1, messages=100) - inside == pytest.approx(99 * 7 * H100.physics.hop)


def test_a_token_travels_once_to_each_node():
    one, many = (H100.all_to_all(4096, 8192, members, 8) for members in (8, 64))
    assert 0 < one < many
    assert many < 8 * 4096 * 8192 / (H100.device.inter * H100.physics.inter)  # not once for each expert
