"""The dial: every claimed number is the built model's number."""

import re

import pytest
import torch

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel


def claimed():
    return {name: int(count.replace(",", "")) for name, count in re.findall(r"\| (\w+) +\| ([\d,]+)", presets.__doc__)}


@pytest.mark.parametrize("name", presets.SIZES)
def test_the_table_of_the_docstring_is_true(name):
    with torch.device("meta"):
        model = GPT4LMHeadModel(presets.size(name))
    assert claimed()[name] == model.num_parameters() == count_parameters(presets.size(name))


@pytest.mark.parametrize(
    ("name", "about"),
    [("nano", 1e6), ("micro", 5e6), ("mini", 20e6), ("small", 125e6), ("medium", 350e6), ("large", 800e6)],
)
def test_sizes_are_about_what_their_names_promise(name, about):
    assert count_parameters(presets.size(name)) == pytest.approx(about, rel=0.1)


def test_bigger_names_are_bigger_and_learn_more_carefully():
    counts = [count_parameters(presets.size(name)) for name in presets.SIZES]
    assert counts == sorted(counts)
    defaults = [presets.train_defaults(name) for name in presets.SIZES]
    for rate in ("learning_rate", "matrix_learning_rate"):
        rates = [getattr(config, rate) for config in defaults]
        assert rates == sorted(rates, reverse=True)
    batches = [
        config.sequence_length * config.per_device_train_batch_size * config.gradient_accumulation_steps
        for config in defaults
    ]
    assert batches == sorted(batches)


@pytest.mark.parametrize("name", presets.SIZES)
def test_training_rows_fit_the_context(name):
    assert presets.train_defaults(name).sequence_length <= presets.size(name).max_position_embeddings


@pytest.mark.parametrize(
    ("name", "published"),
    [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)],
)
def test_gpt2_has_the_published_number_of_parameters(name, published):
    assert count_parameters(presets.gpt2(name)) == published
    assert f"{published:,}" in presets.gpt2.__doc__


def test_vocabulary_of_a_known_tokenizer():
    assert presets.size("nano", vocab_size=777).vocab_size == 777
    assert presets.size("nano", vocab_size=777).hidden_size == presets.size("nano").hidden_size


def test_preset_knows_both_kinds():
    assert presets.preset("mini") == presets.size("mini")
    assert presets.preset("gpt2") == presets.preset("gpt2-small") == presets.gpt2()
    assert presets.preset("gpt2-xl") == presets.gpt2("xl")


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: presets.size("nanno"), "nano"),
        (lambda: presets.train_defaults("smal"), "small"),
        (lambda: presets.gpt2("meduim"), "medium"),
        (lambda: presets.preset("gtp2"), "gpt2"),
    ],
)
def test_an_unknown_name_names_the_nearest(call, near):
    with pytest.raises(MalmoiError, match=f"Did you mean '{near}'"):
        call()
