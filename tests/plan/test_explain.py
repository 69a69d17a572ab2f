"""Explanations: every one belongs to a number that a plan has, and its inputs are there."""

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.explain import explain, texts, value
from malmoi.plan.hardware import cluster
from malmoi.plan.layout import Training
from malmoi.plan.planner import Question, answer
from malmoi.plan.work import work_of

ANSWER = answer(Question(work_of(presets.gpt2("small")), cluster("8xH100"), Training(64, 1024)))


@pytest.mark.parametrize("name", texts())
def test_every_explanation_has_value_formula_source_and_inputs(name: str):
    found = explain(ANSWER, name)
    assert found["value"] is not None and found["formula"] and found["source"]
    assert set(found["inputs"]) == set(texts()[name]["with"])


def test_every_class_of_memory_and_every_headline_is_explained():
    for name in (*(f"memory.{kind}" for kind in ("weights", "gradients", "optimizer", "activations", "logits", "peak")),
                 "step.seconds", "run.days", "run.kwh", "run.co2_tonnes", "run.usd", "speed.mfu_causal"):  # fmt: skip
        assert name in texts()


def test_the_numbers_put_in_give_the_number():
    found = explain(ANSWER, "memory.activations")
    put = found["inputs"]
    product = 1.0
    for name in ("tokens_on_device", "kept_bytes_per_token", "layers_on_stage", "in_flight"):
        product *= put[f"terms.{name}"]
    assert found["value"] == pytest.approx(product)


def test_errors():
    with pytest.raises(MalmoiError, match=r"Did you mean 'memory\.weights'"):
        explain(ANSWER, "memory.weight")
    with pytest.raises(MalmoiError, match=r"This plan has no memory\.weights: too small"):
        explain({"verdict": "too small"}, "memory.weights")
    assert value(ANSWER, "memory.none") is None
