"""The ladder: shapes keep their proportions, lengths fill the budget, what cannot be said is said."""

import itertools
import re

import pytest

from malmoi import presets
from malmoi.config import ModelConfig
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.plan import ladder


@pytest.mark.parametrize("name", ["nano", "micro", "mini", "small", "gpt2", "gpt-oss-20b"])
def test_sizes_keep_the_shape(name):
    top = presets.preset(name)
    sizes = ladder.sizes(top)
    counts = [ladder.parameters(config) for config in sizes]
    assert sizes[-1] == top
    assert counts == sorted(set(counts))
    assert len(sizes) >= 4
    for config in sizes[len(sizes) // 2 :]:
        assert config.hidden_size / config.num_hidden_layers == pytest.approx(
            top.hidden_size / top.num_hidden_layers, rel=0.5
        )
        assert config.intermediate_size / config.hidden_size == pytest.approx(
            top.intermediate_size / top.hidden_size, rel=0.2
        )
        assert config.num_attention_heads % config.num_key_value_heads == 0


def test_small_shapes_can_be_built_and_counted():
    for config in ladder.sizes(presets.size("nano")):
        assert GPT4LMHeadModel(config).num_parameters() == count_parameters(config) == ladder.parameters(config)


def test_an_input_table_of_its_own_is_not_counted():
    tied, untied = (ModelConfig(vocab_size=1000, tie_word_embeddings=tie) for tie in (True, False))
    assert ladder.parameters(tied) == ladder.parameters(untied)


def test_lengths_fill_the_budget_and_lie_two_to_three_times_apart():
    costs = [1e-5, 2e-5, 4e-5]
    for seconds in (20, 30, 60, 600):
        lengths = ladder.lengths(costs, seconds, 256, 10**9)
        assert len(lengths) == ladder.LENGTHS
        assert min(lengths) >= ladder.LEAST_STEPS * 256
        assert all(tokens % 256 == 0 for tokens in lengths)
        assert all(1.95 < longer / shorter < 3.05 for shorter, longer in itertools.pairwise(lengths))
        assert sum(costs) * sum(lengths) <= seconds
    assert sum(costs) * sum(lengths) > 0.9 * 600


def test_no_text_is_read_more_than_four_times():
    assert max(ladder.lengths([1e-6], 3600, 256, 50_000)) <= 4 * 50_000


def test_too_little_time_and_too_little_text_are_told_apart():
    assert ladder.lengths([1e-4] * 3, 5, 256, 10**9) is None
    said = str(ladder.refusal([1e-4] * 3, 5, 256, 10**9))
    enough = 60 * int(re.search(r"--budget (\d+)min", said).group(1))
    assert ladder.lengths([1e-4] * 3, enough, 256, 10**9) is not None
    assert ladder.lengths([1e-6] * 3, 3600, 256, 1000) is None
    assert "too little text" in str(ladder.refusal([1e-6] * 3, 3600, 256, 1000))
