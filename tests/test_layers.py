"""Layer specs follow the configuration; the tensors listed without building are the built ones."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import ModelConfig
from malmoi.layers import Dense, Experts, count_active_parameters, count_parameters, layer_specs, named_tensors
from malmoi.model.gpt import GPT4LMHeadModel
from small_models import configs


@settings(max_examples=25, deadline=None)
@given(configs, st.booleans(), st.booleans(), st.booleans(), st.integers(2, 50))
def test_counted_is_built(config, tied, attention_bias, mlp_bias, vocabulary):
    config = config.replace(
        tie_word_embeddings=tied, attention_bias=attention_bias, mlp_bias=mlp_bias, vocab_size=vocabulary
    )
    with torch.device("meta"):
        model = GPT4LMHeadModel(config)
    assert [(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()] == list(named_tensors(config))
    assert count_parameters(config) == model.num_parameters()


def test_windows_follow_the_layer_types():
    config = ModelConfig(
        num_hidden_layers=3,
        layer_types=("sliding_attention", "full_attention", "sliding_attention"),
        sliding_window=7,
    )
    assert [layer.attention.window for layer in layer_specs(config)] == [7, None, 7]


def test_a_window_without_sliding_layers_changes_nothing():
    assert layer_specs(ModelConfig(sliding_window=7)) == layer_specs(ModelConfig())


def test_dense_and_experts():
    assert layer_specs(ModelConfig())[0].feed_forward == Dense(768, 2048, "silu", gated=True, bias=False)
    mixed = ModelConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64)
    assert layer_specs(mixed)[0].feed_forward == Experts(768, 8, 2, Dense(768, 64, "silu", gated=True, bias=False))


def test_active_parameters_leave_out_the_idle_experts():
    dense = ModelConfig()
    assert count_active_parameters(dense) == count_parameters(dense)
    mixed = ModelConfig(num_hidden_layers=3, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64)
    idle = 3 * 6 * (3 * 768 * 64)
    assert count_parameters(mixed) - count_active_parameters(mixed) == idle
