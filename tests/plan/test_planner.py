"""The whole answer: consistent numbers, gaps that are stated, a cluster too small."""

from dataclasses import replace

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.hardware import cluster
from malmoi.plan.layout import Layout, Training
from malmoi.plan.planner import Question, answer, default_batch
from malmoi.plan.work import work_of

WORK = work_of(presets.gpt3("6.7b"), "gpt3-6.7b")
QUESTION = Question(WORK, cluster("16xA100-80GB"), Training(256, 2048), tokens=1e11)


def test_numbers_agree_with_each_other():
    found = answer(QUESTION)
    run, step, speed = found["run"], found["step"], found["speed"]
    assert run["steps"] * found["batch"]["tokens"] >= 1e11
    assert run["seconds"] == pytest.approx(run["steps"] * step["seconds"] / run["goodput"])
    assert run["device_hours"] == pytest.approx(run["days"] * 24 * 16)
    assert run["kwh"] == pytest.approx(run["device_hours"] * 0.4 * 1.1)
    assert step["low"] < step["seconds"] < step["high"]
    assert speed["mfu_causal"] < speed["mfu_full"] <= speed["hfu"] < 0.87
    assert found["memory"]["peak"] <= found["memory"]["of"]
    assert found["fits"] and found["verdict"] == ""
    assert sum(found["model"]["by_kind"].values()) == found["model"]["parameters"]
    assert run["usd"]["low"] < run["usd"]["high"]


def test_tokens_are_compute_optimal_unless_given():
    found = answer(replace(QUESTION, tokens=None))
    tokens = found["tokens"]
    assert tokens["optimal_chosen"] and tokens["planned"] == tokens["compute_optimal"]["tokens"]


def test_a_layout_of_ones_own_that_does_not_fit_is_told_what_to_do():
    found = answer(replace(QUESTION, layout=Layout(data=16, micro_batch=16)))
    assert not found["fits"] and "recompute" in found["verdict"]
    with pytest.raises(MalmoiError, match="devices, but there are 16"):
        answer(replace(QUESTION, layout=Layout(data=2)))


def test_a_cluster_too_small_gets_a_plan_for_one_that_would_do():
    found = answer(replace(QUESTION, work=work_of(presets.gpt3("175b"), "gpt3-175b")))
    assert not found["fits"] and "layout" not in found
    assert found["enough"]["fits"] and found["enough"]["machine"]["devices"] == found["devices_needed"] > 16


@pytest.mark.parametrize("tokens", [0.0, -1.0, 1e30, float("nan"), float("inf")])
def test_absurd_tokens(tokens: float):
    with pytest.raises(MalmoiError, match="--tokens"):
        answer(replace(QUESTION, tokens=tokens))


def test_an_adapter_costs_less():
    full, lora = (answer(replace(QUESTION, training=replace(QUESTION.training, lora_rank=rank))) for rank in (0, 16))
    assert lora["memory"]["optimizer"] < full["memory"]["optimizer"]
    assert lora["flops"]["total"] == pytest.approx(full["flops"]["total"] * 2 / 3)
    assert lora["loss"] is None


def test_the_usual_batch_is_shared_evenly():
    for count in (1, 8, 24):
        assert default_batch(WORK, 2048, count) % count == 0
    assert 100_000 % default_batch(WORK, 2048, 100_000) == 0  # more devices than rows: each row on equally many
    assert 1e6 < default_batch(WORK, 2048, 8) * 2048 < 4e6  # GPT-3 took 2M
