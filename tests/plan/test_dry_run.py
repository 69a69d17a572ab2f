"""The plan's formulas beside the program: equal states, activations within a tenth, and a word for what was not run."""

from dataclasses import replace

import pytest

from malmoi.config import MalmoiError, ModelConfig
from malmoi.plan.dry_run import CLASSES, dry_run, nearest_run, settings
from malmoi.plan.layout import Layout, Training

DENSE = ModelConfig(
    vocab_size=320,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=512,
)
EXPERTS = DENSE.replace(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=128)
TRAINING = Training(batch=8, sequence=1024)


def planned(entry, kind):
    return entry["formula"][kind] + sum(extra["bytes"] for extra in entry["apart"] if extra["class"] == kind)


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (DENSE, Layout(data=4, zero=3)),
        pytest.param(DENSE, Layout(data=4, zero=3, recompute="full"), marks=pytest.mark.slow),
        pytest.param(DENSE, Layout(data=4, zero=3, recompute="selective"), marks=pytest.mark.slow),
        pytest.param(DENSE, Layout(data=2, tensor=4, zero=3, sequence_parallel=True), marks=pytest.mark.slow),
        (DENSE, Layout(data=2, pipeline=2, zero=3)),
        (EXPERTS, Layout(data=4, expert=4, zero=3)),
        pytest.param(EXPERTS, Layout(data=4, zero=3), marks=pytest.mark.slow),
        pytest.param(EXPERTS, Layout(data=4, expert=4, zero=3, recompute="full"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_program_holds_what_the_formulas_say(model, layout):
    found = dry_run(model, layout, TRAINING)
    assert found["not_run"] == [] and found["world"] == layout.devices
    assert [entry["stage"] for entry in found["ranks"]] == ([0, 1] if layout.pipeline > 1 else [0])
    for entry in found["ranks"]:
        assert {*CLASSES, "temporary", "peak"} == set(entry["memory"])
        for kind in ("weights", "gradients", "optimizer"):
            assert entry["memory"][kind] == pytest.approx(planned(entry, kind), rel=0.02), kind
        assert entry["memory"]["activations"] == pytest.approx(planned(entry, "activations"), rel=0.10)
        assert entry["flops"] == pytest.approx(entry["formula"]["flops"], rel=0.25)
        assert entry["memory"]["peak"] > sum(entry["memory"][kind] for kind in ("weights", "optimizer", "activations"))


@pytest.mark.parametrize(
    ("layout", "training", "words"),
    [
        (Layout(context=2), TRAINING, "context parallelism"),
        (Layout(), replace(TRAINING, lora_rank=8), "Adapters"),
    ],
)
def test_what_the_program_lacks_is_said_and_not_guessed(layout, training, words):
    found = dry_run(DENSE, layout, training)
    assert found["ranks"] == [] and words in found["not_run"][0]


@pytest.mark.parametrize(
    ("layout", "training", "words", "ran"),
    [
        (Layout(data=2, zero=1), TRAINING, "ZeRO stage 1", {"zero": 3}),
        (Layout(data=2, tensor=2, zero=3), TRAINING, "tokens cut", {"sequence_parallel": True}),
        (Layout(pipeline=2, interleave=4, zero=3), TRAINING, "interleave = 4", {"interleave": 2}),
        (Layout(zero=3), replace(TRAINING, precision="fp8"), "fp8", {}),
        (Layout(zero=3), replace(TRAINING, scores=True), "scores", {}),
    ],
)
def test_the_nearest_thing_is_named(layout, training, words, ran):
    near, trained, gaps = nearest_run(layout, training)
    assert near == replace(layout, **ran) and any(words in gap for gap in gaps)
    assert trained.precision == "bf16" and not trained.scores and trained.recipe == "autocast"


def test_the_recipes_sections():
    parallel, train = settings(Layout(data=4, tensor=2, zero=0, micro_batch=2, recompute="full"), TRAINING)
    assert (parallel.data_parallel_replicate, parallel.data_parallel_shard, parallel.tensor_parallel) == (4, 1, 2)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (8, 1)
    assert parallel.activation_checkpointing == "full"


def test_mistakes_are_named():
    with pytest.raises(MalmoiError, match="no process 4"):
        dry_run(DENSE, Layout(data=4, zero=3), TRAINING, ranks=[4])
    with pytest.raises(MalmoiError, match="does not divide"):
        dry_run(DENSE, Layout(data=3, zero=3), TRAINING)
