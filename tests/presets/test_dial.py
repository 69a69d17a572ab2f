"""The dial: every claimed number is the built model's number."""

import re

import pytest
import torch

from malmoi.cli.pipeline import resolve
from malmoi.config import MalmoiError, Recipe
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.presets import dial


def claimed():
    return {name: int(count.replace(",", "")) for name, count in re.findall(r"\| (\w+) +\| ([\d,]+)", dial.__doc__)}


@pytest.mark.parametrize("name", dial.SIZES)
def test_the_table_of_the_docstring_is_true(name):
    with torch.device("meta"):
        model = GPT4LMHeadModel(dial.size(name))
    assert claimed()[name] == model.num_parameters() == count_parameters(dial.size(name))


@pytest.mark.parametrize(
    ("name", "about"),
    [("nano", 1e6), ("micro", 5e6), ("mini", 20e6), ("small", 125e6), ("medium", 350e6), ("large", 800e6)],
)
def test_sizes_are_about_what_their_names_promise(name, about):
    assert count_parameters(dial.size(name)) == pytest.approx(about, rel=0.1)


def test_bigger_names_are_bigger_and_learn_more_carefully():
    counts = [count_parameters(dial.size(name)) for name in dial.SIZES]
    assert counts == sorted(counts)
    defaults = [dial.train_defaults(name) for name in dial.SIZES]
    for rate in ("learning_rate", "matrix_learning_rate"):
        rates = [getattr(config, rate) for config in defaults]
        assert rates == sorted(rates, reverse=True)
    batches = [
        config.sequence_length * config.per_device_train_batch_size * config.gradient_accumulation_steps
        for config in defaults
    ]
    assert batches == sorted(batches)


@pytest.mark.parametrize("name", dial.SIZES)
def test_training_rows_fit_the_context(name):
    assert dial.train_defaults(name).sequence_length <= dial.size(name).max_position_embeddings


def test_an_adamw_that_moves_all_weights_takes_smaller_steps():
    with_muon, alone = dial.train_defaults("nano"), dial.train_defaults("nano", "adamw")
    assert alone.optimizer == "adamw" and alone.learning_rate == dial.LARGEST_ADAMW_RATE < with_muon.learning_rate
    assert dial.train_defaults("large", "adamw").learning_rate == dial.train_defaults("large").learning_rate
    asked = {"data": {"sources": [{"path": "village"}]}, "size": "nano"}
    rate = dial.LARGEST_ADAMW_RATE
    assert resolve(Recipe(**asked, train={"optimizer": "adamw"})).train.learning_rate == rate
    assert resolve(Recipe(**asked, train={"optimizer": "adamw", "learning_rate": 1e-4})).train.learning_rate == 1e-4
    assert resolve(Recipe(**asked)).train == with_muon


def test_vocabulary_of_a_known_tokenizer():
    assert dial.size("nano", vocab_size=777).vocab_size == 777
    assert dial.size("nano", vocab_size=777).hidden_size == dial.size("nano").hidden_size


@pytest.mark.parametrize(("call", "near"), [(dial.size, "nano"), (dial.train_defaults, "nano")])
def test_an_unknown_size_names_the_nearest(call, near):
    with pytest.raises(MalmoiError, match=f"Did you mean '{near}'"):
        call("nanno")
