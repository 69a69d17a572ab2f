"""Small models of every kind, for the tests of all rooms."""

from hypothesis import strategies as st

from malmoi.config import ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel

BASE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
}
GPT2 = {
    "norm": "layer_norm",
    "positions": "learned",
    "feed_forward": "plain",
    "hidden_act": "gelu_pytorch_tanh",
    "qk_norm": False,
    "attention_bias": True,
    "mlp_bias": True,
}
KINDS = {
    "modern": {},
    "gpt2": GPT2 | {"num_key_value_heads": 4},
    "windows": {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 5},
    "experts": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt1": GPT2 | {"num_key_value_heads": 4, "norm_placement": "post"},
    "gpt-oss": {
        "qk_norm": False,
        "attention_sinks": True,
        "attention_bias": True,
        "mlp_bias": True,
        "layer_types": ("sliding_attention", "full_attention"),
        "sliding_window": 5,
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "router_bias": True,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12},
    },
    "ngrams": {"ngram_sizes": (2, 3), "ngram_vocab_size": 40},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 1},
}


def build(kind: str, seed: int = 3, **changes) -> GPT4LMHeadModel:
    """A model whose weights are large enough for its logits to differ visibly."""
    model = GPT4LMHeadModel(ModelConfig(**BASE | KINDS[kind] | {"initializer_range": 0.2} | changes)).eval()
    model.initialize(seed)
    return model


# any configuration whose numbers fit together, small enough to build at once
configs = st.builds(
    lambda heads, width, kv, layers, experts, **rest: ModelConfig(
        num_attention_heads=heads * kv,
        num_key_value_heads=kv,
        hidden_size=heads * kv * width * 2,
        num_hidden_layers=layers,
        num_experts=experts,
        **rest,
    ),
    heads=st.integers(1, 3),
    kv=st.integers(1, 3),
    width=st.integers(1, 5),
    layers=st.integers(1, 4),
    experts=st.sampled_from((0, 2, 5)),
    norm=st.sampled_from(("rms_norm", "layer_norm")),
    norm_placement=st.sampled_from(("pre", "post")),
    norm_affine=st.booleans(),
    attention_sinks=st.booleans(),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    router_bias=st.booleans(),
    positions=st.sampled_from(("rotary", "learned")),
    feed_forward=st.sampled_from(("gated", "plain")),
    qk_norm=st.booleans(),
    rope_parameters=st.builds(dict, rope_theta=st.floats(1, 1e7)),
)
