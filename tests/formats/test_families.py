"""Names and settings of other programs: every table reads back what it writes; what we cannot compute is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError, RopeParameters
from malmoi.formats import families
from malmoi.presets import gpt2, size
from small_models import build, configs


@settings(max_examples=60, deadline=None)
@given(configs, st.sampled_from((0.0, 0.1)), st.sampled_from((0.02, 0.3)), st.booleans())
def test_a_config_survives_the_journey(config, dropout, scale, attention_bias):
    config = config.replace(residual_dropout=dropout, initializer_range=scale, attention_bias=attention_bias)
    assert families.from_config(families.to_config(config)) == config


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (size("nano"), "qwen3"),
        (size("nano").replace(residual_dropout=0.1, initializer_range=0.1), "qwen3"),
        (size("nano").replace(layer_types=("sliding_attention",) * 3, sliding_window=8), "qwen3"),
        (size("nano").replace(num_experts=4), "qwen3_moe"),
        (size("nano").replace(qk_norm=False), "llama"),
        (gpt2(), "gpt2"),
        (gpt2().replace(qk_norm=True), "malmoi"),
        (gpt2().replace(num_key_value_heads=3), "malmoi"),  # GPT-2 cannot say this
        (size("nano").replace(norm="layer_norm"), "malmoi"),
        (size("nano").replace(num_experts=4, layer_types=("sliding_attention",) * 3, sliding_window=8), "malmoi"),
    ],
)
def test_a_model_belongs_to_the_family_that_can_say_it(config, family):
    said = families.to_config(config)
    assert said["model_type"] == families.family_of(config).model_type == family
    assert families.from_config(said) == config


def test_only_what_the_family_cannot_say_stands_under_our_key():
    assert families.EXTRA not in families.to_config(size("nano"))
    said = families.to_config(size("nano").replace(residual_dropout=0.1))
    assert said[families.EXTRA] == {"config": {"residual_dropout": 0.1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen4"}, "'qwen4' is not a family that Malmoi knows. Did you mean 'qwen3'"),
        ({"model_type": None}, "there is no model_type. Known families: qwen3, qwen3_moe, llama, mistral, mixtral"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type 'dynamic' is not supported; known: default, linear"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
        ({"hidden_size": "wide"}, "hidden_size must be a whole number"),
        ({"hidden_act": "swish7"}, "hidden_act must be"),
    ],
)
def test_a_config_that_we_cannot_compute_is_refused(changes, message):
    with pytest.raises(MalmoiError, match=message):
        families.from_config(families.to_config(size("nano")) | changes)


YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = YARN | {"original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_theta": 5e5}, {"rope_theta": 5e5}),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_scaling": YARN}, YARN | {"original_max_position_embeddings": 256}),  # as there: from the context
        (
            {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}},
            YARN | {"original_max_position_embeddings": 256},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "factor": 3.0, "type": None}},
            {},
        ),  # what is idle there is idle here
        ({"rope_scaling": {"type": "default"}}, {}),
    ],
)
def test_rotary_positions_of_every_age(changes, expected):
    said = families.to_config(size("nano"))
    for key in ("rope_parameters", "rope_scaling", "rope_theta"):
        del said[key]
    found = families.from_config(said | {"max_position_embeddings": 256} | changes).rope_parameters
    assert found == RopeParameters(**{"rope_theta": 1e4} | expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.1}},
            "llama_4_scaling_beta",
        ),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor=0.25"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, r"for each kind of layer \(full_attention\)"),
        ({"rope_parameters": [1]}, "must be a record of settings"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type 'linear' needs factor"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "rope_type 'llama3' needs low_freq_factor"),
    ],
)
def test_rotary_positions_that_we_do_not_compute(changes, message):
    with pytest.raises(MalmoiError, match=message):
        families.from_config(families.to_config(size("nano")) | changes)


def test_older_programs_find_the_rotary_positions_too():
    plain = families.to_config(size("nano"))
    assert plain["rope_theta"] == plain["rope_parameters"]["rope_theta"]
    assert plain["rope_scaling"] is None
    said = families.to_config(size("nano").replace(rope_parameters=LONG))
    assert said["rope_scaling"] == LONG  # 4.x warns of a theta in here


@pytest.mark.parametrize("changes", [{"norm_topk_prob": False}, {"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}])
def test_a_routing_that_we_do_not_compute_is_refused(changes):
    said = families.to_config(size("nano").replace(num_experts=4))
    with pytest.raises(MalmoiError, match=f"{next(iter(changes))}=.* is not supported for model_type 'qwen3_moe'"):
        families.from_config(said | changes)


def test_older_spellings_are_understood():
    said = families.to_config(size("nano"))
    del said["rope_parameters"], said["layer_types"], said["use_sliding_window"]
    old = said | {"rope_theta": 5e5, "rope_scaling": None, "sliding_window": 4096, "use_sliding_window": False}
    assert families.from_config(old).rope_parameters.rope_theta == 5e5
    assert families.from_config(old).sliding_window is None
    some = old | {"use_sliding_window": True, "max_window_layers": 2}
    assert families.from_config(some).layer_types == ("full_attention",) * 2 + ("sliding_attention",)
    moe = families.to_config(size("nano").replace(num_experts=4))
    moe["num_local_experts"] = moe.pop("num_experts")
    assert families.from_config(moe).num_experts == 4


def test_a_bare_gpt2_config_has_the_defaults_of_transformers():
    said = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 32}
    config = families.from_config(said)
    assert (config.norm_eps, config.hidden_act, config.residual_dropout) == (1e-5, "gelu_pytorch_tanh", 0.1)
    assert config.intermediate_size == 256


def test_several_ends_of_text():
    said = families.to_config(size("nano")) | {"eos_token_id": [5, 7]}
    assert families.from_config(said).eos_token_id == 5


def test_gpt2_keeps_queries_keys_and_values_in_one_transposed_matrix():
    model = build("gpt2")
    theirs = families.to_tensors(families.family_of(model.config), model.state_dict(), 2)
    attention = model.model.layers[1].self_attn
    fused = theirs["transformer.h.1.attn.c_attn.weight"]
    assert fused.shape == (32, 96)
    assert torch.equal(fused[:, 32:64], attention.k_proj.weight.t())


def test_names_without_a_prefix_and_masks_that_are_no_weights():
    gpt = families.family_named({"model_type": "gpt2"})
    expected = ["transformer.wte.weight", "transformer.h.0.ln_1.weight"]
    found, extra = families.match(gpt, ["wte.weight", "h.0.ln_1.weight", "h.0.attn.bias", "odd"], expected)
    assert found == {"transformer.wte.weight": "wte.weight", "transformer.h.0.ln_1.weight": "h.0.ln_1.weight"}
    assert extra == ["odd"]
