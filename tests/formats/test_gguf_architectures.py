"""Which of llama.cpp's networks a model is, and that no parameter is forgotten."""

import gguf as package
import pytest
from exported_models import ARCHITECTURE, LAYOUTS, config

from malmoi.config import MalmoiError, ModelConfig
from malmoi.formats.gguf_architectures import ARCHITECTURES, architecture_of, library, shapes, table


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_has_one_place(layout: str):
    made = config(layout)
    architecture = architecture_of(made)
    assert architecture.name == ARCHITECTURE.get(layout, layout)
    names = table(architecture, made)
    ours = [name for parts in names.values() for name in parts]
    assert sorted(ours) == sorted(shapes(made))
    assert "blk.1.attn_output.weight" in names


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)
def test_the_names_are_the_packages_own(architecture):
    number = next(key for key, name in package.MODEL_ARCH_NAMES.items() if name == architecture.name)
    assert set(architecture.tensors) <= {tensor.name for tensor in package.MODEL_TENSORS[number]}


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        ("qwen3", {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 8}, "windows"),
        ("qwen3", {"norm": "layer_norm"}, "norm is layer_norm where it computes rms_norm"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"rope_parameters": LAYOUTS["llama3"]["rope_parameters"]}, "rope_type is llama3"),
        ("gpt2", {"norm_placement": "post"}, "norm_placement is post"),
        ("gpt2", {"norm": "rms_norm"}, "norm is rms_norm"),
        ("gpt2", {"head_dim": 8}, "heads_fill_hidden_size"),
        ("mixtral", {"mlp_bias": True}, "mlp_bias"),
        ("gpt-oss", {"swiglu_limit": 5.0}, "swiglu_limit is 5.0"),
        ("gpt-oss", {"layer_types": ("full_attention", "sliding_attention")}, "windows is of another order"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_with_the_reason(layout: str, changes: dict, words: str):
    with pytest.raises(MalmoiError, match="malmoi export --to hf") as error:
        architecture_of(config(layout, **changes))
    assert words in str(error.value)


def test_a_window_that_no_text_outgrows_is_no_window():
    kinds = ("sliding_attention",) * 2
    assert architecture_of(config("llama", layer_types=kinds, sliding_window=128)).name == "llama"
    with pytest.raises(MalmoiError, match="windows"):
        architecture_of(config("llama", layer_types=kinds, sliding_window=127))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MalmoiError, match=r"malmoi\[gguf\]"):
        library()


def test_the_default_configuration_is_one_that_llama_cpp_knows():
    assert architecture_of(ModelConfig()).name == "qwen3"
