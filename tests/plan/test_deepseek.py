"""DeepSeek-V3 in closed form, against the counts of its released weights."""

from malmoi.plan.counts import KINDS
from malmoi.plan.deepseek import deepseek_v3, deepseek_v3_totals, multi_token_prediction


def test_the_released_weights_number():
    """DeepSeek-V3, inference/configs/config_671B.json; README: 671B, 37B active; README_WEIGHTS: 36.7B, 11.5B."""
    total, active, without = deepseek_v3_totals()
    assert (total, active, without) == (671_026_419_200, 37_552_297_472, 36_625_618_432)
    assert multi_token_prediction() == 11_610_068_224
    for number in (total, active, without):
        assert f"{number:,}" in deepseek_v3_totals.__doc__


def test_by_kind():
    counts = deepseek_v3()
    assert tuple(counts) == KINDS
    assert counts["positional"].total == 0
    assert counts["attention"].total == 61 * 187_105_280
    assert counts["expert"].active < counts["expert"].total / 20
