"""Explanations: every one belongs to a number that a plan has, and its inputs are there."""

import re

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.explain import explain, kind_of, texts, value
from malmoi.plan.hardware import cluster
from malmoi.plan.layout import Training
from malmoi.plan.planner import Question, answer
from malmoi.plan.serving import serve
from malmoi.plan.targets import largest
from malmoi.plan.work import work_of

SETTINGS = re.compile(
    r"layout\.|machine\.|search\.|worth\.config|batch\.(rows|sequence)|model\.(layers|width|vocabulary|lora_rank)|"
    r"run\.(goodput|watts|pue|grid)|memory\.(of|headroom)$|users$|context$|terms\.|worth\.\w+_(low|high)"
)  # what was given or chosen, not worked out; and the terms of other programs

ANSWER = answer(Question(work_of(presets.gpt2("small")), cluster("8xH100"), Training(64, 1024)))


@pytest.mark.parametrize("name", [name for name in texts() if not name.startswith("worth.")])
def test_every_explanation_has_value_formula_source_and_inputs(name: str):
    found = explain(ANSWER, name)
    assert found["value"] is not None and found["formula"] and found["source"]
    assert set(found["inputs"]) == set(texts()[name]["with"])


def leaves(found: dict, before: str = ""):
    for name, one in found.items():
        if isinstance(one, dict):
            yield from leaves(one, f"{before}{name}.")
        elif isinstance(one, int | float) and not isinstance(one, bool):
            yield before + name


@pytest.mark.parametrize("kind", ["cluster", "serving", "worth"])
def test_every_number_can_be_asked(kind: str):
    work, card = work_of(presets.gpt2("small")), cluster("RTX4090")
    found = {
        "cluster": lambda: ANSWER,
        "serving": lambda: serve(work, card, 3, 512),
        "worth": lambda: largest(card, 24),
    }
    plan = found[kind]()
    known = texts(kind_of(plan))
    for name in leaves(plan):
        if not SETTINGS.match(name) and not any(name.startswith(f"{whole}.") for whole in known):
            said = explain(plan, name)
            assert said["value"] is not None and said["formula"] and said["source"], name
            if kind != "serving" or not name.startswith("model."):  # a serving says less of its model
                assert len(said["inputs"]) == len(known[name]["with"]), name


def test_of_a_cluster_too_small_the_plan_that_would_do_is_explained():
    question = Question(work_of(presets.llama31("70b")), cluster("8xA100"), Training(64, 2048))
    plan = answer(question)
    assert not plan["fits"]
    assert explain(plan, "memory.weights")["value"] == plan["enough"]["memory"]["weights"]


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
