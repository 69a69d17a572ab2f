"""What the engine is told about a model: every tensor of every layout, and nothing that it does not know."""

import pytest

from malmoi.config import MalmoiError, ModelConfig
from malmoi.layers import named_tensors
from malmoi.native.description import FREQUENCIES, UnsupportedModelError, describe, tensors
from small_models import BASE, KINDS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ngrams"])
def test_it_names_exactly_the_models_tensors(kind: str):
    config = ModelConfig(**BASE | KINDS[kind])
    found = {tensor.name: tensor.shape for tensor in tensors(describe(config.model_dump()))}
    found.pop(FREQUENCIES, None)
    assert found == dict(named_tensors(config))


def test_json_says_the_same():
    config = ModelConfig(**BASE | KINDS["gpt-oss"])
    assert describe(config.model_dump(mode="json"), 1.5) == describe(config.model_dump(), 1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention_colour": "red"}, "attention_colour='red'"),
        ({"ngram_sizes": [2]}, "ngram_sizes"),
        ({"norm": "batch_norm"}, "batch_norm"),
        ({"hidden_act": "swish"}, "swish"),
        ({"layer_types": ["linear_attention"] * 2}, "linear_attention"),
    ],
)
def test_what_it_does_not_know_is_named(change: dict, words: str):
    with pytest.raises(UnsupportedModelError, match=words):
        describe(ModelConfig(**BASE).model_dump() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"layer_types": ["full_attention"]},
        {"norm_eps": None},
        {"num_hidden_layers": float("inf")},
    ],
)
def test_nonsense_is_refused(change: dict):
    with pytest.raises(MalmoiError, match="make no sense"):
        describe(ModelConfig(**BASE).model_dump() | change)


def test_a_setting_that_is_missing_is_named():
    settings = ModelConfig(**BASE).model_dump()
    del settings["head_dim"]
    with pytest.raises(MalmoiError, match="head_dim"):
        describe(settings)
