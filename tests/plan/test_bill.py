"""Published recipes of energy and carbon dioxide; money as a range."""

import pytest

from malmoi.plan import bill


def test_llama_2_to_the_digit():
    assert bill.carbon_tonnes(bill.energy_kwh(184_320, 400)) == pytest.approx(31.22, abs=0.01)
    assert bill.carbon_tonnes(bill.energy_kwh(1_720_320, 400)) == pytest.approx(291.42, abs=0.01)


def test_bloom():
    assert bill.energy_kwh(1_082_990, 400, 1.0) == pytest.approx(433_196)
    assert bill.carbon_tonnes(433_196, 0.057) == pytest.approx(24.69, abs=0.01)


def test_money_is_a_range_with_dates_or_nothing():
    found = bill.money("H100-80GB", 100)
    assert found and found["low"] == pytest.approx(269) and found["high"] == pytest.approx(1229)
    assert found["dates"][0] <= found["dates"][1]
    assert bill.money("TPU-v4", 100) is None
