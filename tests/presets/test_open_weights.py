"""Llama, Mistral, Mixtral, Qwen3: the numbers of the released weights."""

import re

import pytest

from malmoi.config import MalmoiError
from malmoi.layers import count_active_parameters, count_parameters
from malmoi.presets import open_weights

# Llama and Mixtral: parameter counts shown beside the weights on the Hugging Face hub (Llama 2: closed form).
COUNTS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
}
# Qwen3: billions in all and without embeddings, as the model cards on the Hugging Face hub state them
QWEN3 = {
    "0.6b": (0.6, 0.44),
    "1.7b": (1.7, 1.4),
    "4b": (4.0, 3.6),
    "8b": (8.2, 6.95),
    "14b": (14.8, 13.2),
    "32b": (32.8, 31.2),
    "30b-a3b": (30.5, 29.9),
    "235b-a22b": (235, 234),
}


@pytest.mark.parametrize(("name", "published"), COUNTS.items())
def test_the_published_number_of_parameters(name, published):
    assert count_parameters(open_weights.PRESETS[name].build()) == published


@pytest.mark.parametrize(("size", "published"), QWEN3.items())
def test_qwen3_agrees_with_its_model_cards(size, published):
    config = open_weights.qwen3(size)
    total = count_parameters(config)
    tables = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    for mine, theirs in zip((total, total - tables), published, strict=True):
        digits = len(str(theirs).replace(".", "").lstrip("0"))
        assert float(f"{mine / 1e9:.{digits}g}") == theirs


def test_what_a_token_passes():
    assert count_active_parameters(open_weights.mixtral_8x7b()) == 12_879_925_248  # "12.9B active"
    assert count_active_parameters(open_weights.qwen3("30b-a3b")) == pytest.approx(3.3e9, rel=0.02)
    assert count_active_parameters(open_weights.qwen3("235b-a22b")) == pytest.approx(22e9, rel=0.01)


@pytest.mark.parametrize(
    "build", [open_weights.llama2, open_weights.llama31, open_weights.mistral_7b, open_weights.qwen3]
)
def test_counts_in_the_docstrings_are_true(build):
    mine = {count_parameters(entry.build()) for entry in open_weights.PRESETS.values()}
    said = {int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3}){2,}", build.__doc__)}
    assert said
    assert said <= mine


def test_long_contexts():
    assert open_weights.llama31().rope_parameters.rope_type == "llama3"
    assert set(open_weights.mistral_7b().layer_types) == {"sliding_attention"}
    assert set(open_weights.mixtral_8x7b().layer_types) == {"full_attention"}


def test_an_unknown_size_of_a_family_names_the_nearest():
    with pytest.raises(MalmoiError, match="Did you mean '405b'"):
        open_weights.llama31("450b")
