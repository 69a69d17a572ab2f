"""The page's units and words."""

import pytest

from malmoi.cli import plan_page


@pytest.mark.parametrize(
    ("size", "text"), [(2**20, "1 MiB"), (2**30, "1 GiB"), (1.5 * 2**40, "1.5 TiB"), (3 * 2**50, "3 PiB")]
)
def test_bytes(size: float, text: str):
    assert plan_page.gib(size) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "12.3 ms"), (5.0, "5 s"), (300, "5 min"), (7200, "2 hours"), (864_000, "10 days")]
)
def test_times(value: float, text: str):
    assert plan_page.seconds(value) == text


def test_bars_stay_in_their_column():
    assert plan_page.bar(0) == "" and len(plan_page.bar(1)) == len(plan_page.bar(7)) == plan_page.BAR


def test_every_part_of_a_step_and_of_memory_has_a_name():
    from malmoi.plan.memory import Memory
    from malmoi.plan.step_time import Step

    assert set(plan_page.STEP) == set(Step.__dataclass_fields__)
    assert set(plan_page.MEMORY) == set(Memory.__dataclass_fields__)
