"""Work: its parts add up to the exact counts, for every preset; attention's reach."""

import pytest

from malmoi import presets
from malmoi.plan import deepseek
from malmoi.plan.counts import totals
from malmoi.plan.work import deepseek_work, summed, work_of


@pytest.mark.parametrize("name", [name for name in presets.NAMES if name != "gpt4"])
def test_parts_add_up_to_the_last_parameter(name: str):
    config = presets.preset(name)
    work = work_of(config, name)
    assert summed(work) == totals(config).total == sum(number for _, number in work.by_kind)
    assert work.depth == config.num_hidden_layers


@pytest.mark.parametrize("multi_token", [False, True])
def test_deepseek_adds_up_with_and_without_its_second_head(multi_token: bool):
    expected = deepseek.deepseek_v3_totals().total + multi_token * deepseek.multi_token_prediction()
    assert abs(summed(deepseek_work(multi_token)) - expected) <= 4 * 7168  # norms of the module


def test_a_window_and_causality_shorten_the_reach():
    layer = work_of(presets.gpt_oss("20b")).layers[0][0]
    assert layer.window == 128
    assert layer.reach(4096) == 128 - 128**2 / (2 * 4096)
    assert layer.reach(100) == 50  # shorter than the window: the causal half
    assert layer.reach(4096, causal=False) == 4096
