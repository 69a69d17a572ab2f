"""The table of machines: units, sources, what a person may write, errors."""

import pytest

from malmoi.config import MalmoiError
from malmoi.plan import hardware
from malmoi.plan.hardware import cluster, device, prices


def test_every_row_is_complete_and_says_where_it_is_from():
    for name in hardware.names():
        if name == hardware.THIS_MACHINE:
            continue
        found = cluster(name).device
        assert found.source and 0 < found.achievable <= found.bf16
        assert found.memory > 2**33 and found.bandwidth > 1e11 and found.watts > 0
        assert bool(found.doubtful) == (found.status != "verified")


def test_units_and_other_spellings():
    a100 = device("A100 SXM 80GB")
    assert (a100.bf16, a100.achievable, a100.memory) == (312e12, 271.2e12, 80 * 2**30)
    assert device("a100-80gb") == a100
    assert cluster("1,024 x A100-80GB").count == 1024
    assert cluster("96xNVL72").count == 96 * 72
    assert cluster("96xNVL72").nodes == 96
    assert cluster("RTX 4090").device.node == 1


def test_prices_have_vendor_and_date():
    found = prices("H100-80GB")
    assert found[0].dollars < found[-1].dollars
    assert all(price.vendor and price.date.startswith("20") for price in found)
    assert prices("TPU-v4") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [("8xH10", "H100"), ("0xH100", "between 1 and"), ("", "needs a machine"), ("99999999999xH100", "between 1 and")],
)
def test_a_machine_that_is_none(text: str, words: str):
    with pytest.raises(MalmoiError, match=words):
        cluster(text)
