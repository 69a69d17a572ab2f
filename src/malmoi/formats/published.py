"""The families of models that folders hold: one table each, and nothing but tables.

A `Family` says which of our settings are the same in all its models (`fixed`), under which names `config.json` keeps
the others (`settings`), what a folder means that leaves one out (`defaults`), what it must not ask for because we would
compute something else (`refused`), and where names or layouts of the weights differ from ours (`tensors`).
`malmoi.formats.families` reads the tables in either direction; a new family is a new table.

Where the facts are from: the configuration and model classes of Hugging Face transformers 5.23, and the keys of the
folders that it writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from malmoi.config import ModelConfig
from malmoi.formats.renaming import Rename


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` of Hugging Face maps onto `ModelConfig` and onto our parameter names."""

    model_type: str
    architecture: str
    fixed: Mapping[str, Any]
    settings: Mapping[str, str]  # ours -> theirs
    defaults: Mapping[str, Any] = field(default_factory=dict)  # theirs -> what a folder that leaves it out means
    written: Mapping[str, Any] = field(default_factory=dict)  # keys that are always written
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # key -> the values that we can compute
    spellings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # ours -> {their value: our value}
    experts: bool = False  # every feed-forward is a mixture of experts; without: none is
    # which layers look through a sliding window: none; all, if one is set; those that layer_types lists, and where it
    # is left out, the ones from max_window_layers on, if use_sliding_window says so ("later"), or every other one
    windows: Literal["none", "all", "later", "alternating"] = "none"
    tensors: tuple[Rename, ...] = ()  # what is not named here has the same name as ours
    prefix: str = ""  # some published folders leave it out
    ignored: tuple[str, ...] = ()  # endings of tensors that are no parameters (masks, tables)
    mxfp4: bool = False  # the experts' matrices may be stored as MXFP4 blocks


_SAME = ("vocab_size", "tie_word_embeddings", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
_ACTIVATIONS = {  # of several spellings for one of ours the first is written
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh",
}
_TABLES = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids")  # stored by old versions

# ------------------------------------------------------------------ llama and those that descend from it

_LLAMA = {
    name: name
    for name in (
        *_SAME,
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "max_position_embeddings", "hidden_act", "attention_dropout", "rope_parameters"),
    )
} | {"norm_eps": "rms_norm_eps"}
_BIAS = {"attention_bias": "attention_bias"}
_LISTED = {"layer_types": "layer_types", "sliding_window": "sliding_window"}
_EXPERTS = {"num_experts_per_tok": "num_experts_per_tok", "router_aux_loss_coef": "router_aux_loss_coef"}
_LOCAL_EXPERTS = _EXPERTS | {"num_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"}
_MODERN = {"norm": "rms_norm", "positions": "rotary", "feed_forward": "gated", "qk_norm": False}
_MODERN_DEFAULTS = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "hidden_act": "silu"}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}  # of the sentencepiece vocabularies
_NO_BIAS = {"attention_bias": (False, None), "mlp_bias": (False, None)}  # the classes do not even read them


def _an_expert_each(theirs: str, gate: str, up: str, down: str) -> Iterable[Rename]:
    for ours, name in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
        yield Rename(
            f"model.layers.{{i}}.{theirs}.experts.{{e}}.{name}.weight", (f"model.layers.{{i}}.mlp.experts.{ours}",)
        )


def _gpt_oss_tensors() -> Iterable[Rename]:
    mlp = "model.layers.{i}.mlp."
    for part in ("weight", "bias"):
        yield Rename(f"{mlp}router.{part}", (f"{mlp}gate.{part}",))
    for part in ("", "_bias"):
        pair = (f"{mlp}experts.gate_proj{part}", f"{mlp}experts.up_proj{part}")
        turned = not part
        yield Rename(f"{mlp}experts.gate_up_proj{part}", pair, turned, interleaved=True, stacked=True)
        yield Rename(f"{mlp}experts.down_proj{part}", (f"{mlp}experts.down_proj{part}",), turned, stacked=True)


# ------------------------------------------------------------------ OpenAI's first two

_OPENAI = {
    **{name: name for name in _SAME},
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
}
_OPENAI_FIXED = {
    "norm": "layer_norm",
    "positions": "learned",
    "feed_forward": "plain",
    "qk_norm": False,
    "attention_bias": True,
    "mlp_bias": True,
}
_OPENAI_DEFAULTS = {"layer_norm_epsilon": 1e-5, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}


def _openai_tensors(tokens: str, positions: str, norm: str | None) -> Iterable[Rename]:
    yield Rename(f"transformer.{tokens}.weight", ("model.embed_tokens.weight",))
    yield Rename(f"transformer.{positions}.weight", ("model.embed_positions.weight",))
    for part in ("weight", "bias"):
        if norm:
            yield Rename(f"transformer.{norm}.{part}", (f"model.norm.{part}",))
        ours, theirs, turned = "model.layers.{i}.", "transformer.h.{i}.", part == "weight"
        yield Rename(f"{theirs}ln_1.{part}", (f"{ours}input_layernorm.{part}",))
        yield Rename(f"{theirs}ln_2.{part}", (f"{ours}post_attention_layernorm.{part}",))
        fused = tuple(f"{ours}self_attn.{name}_proj.{part}" for name in "qkv")
        yield Rename(f"{theirs}attn.c_attn.{part}", fused, turned)
        yield Rename(f"{theirs}attn.c_proj.{part}", (f"{ours}self_attn.o_proj.{part}",), turned)
        yield Rename(f"{theirs}mlp.c_fc.{part}", (f"{ours}mlp.up_proj.{part}",), turned)
        yield Rename(f"{theirs}mlp.c_proj.{part}", (f"{ours}mlp.down_proj.{part}",), turned)


# ------------------------------------------------------------------ the families

FAMILIES: tuple[Family, ...] = (
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        fixed={**_MODERN, "qk_norm": True},
        settings={**_LLAMA, **_BIAS, **_LISTED},
        defaults={**_MODERN_DEFAULTS, "head_dim": 128, "num_key_value_heads": 32},
        spellings={"hidden_act": _ACTIVATIONS},
        windows="later",
        ignored=_TABLES,
    ),
    Family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        fixed={**_MODERN, "qk_norm": True},
        settings={
            **_LLAMA,
            **_BIAS,
            **_EXPERTS,
            "num_experts": "num_experts",
            "moe_intermediate_size": "moe_intermediate_size",
        },
        defaults={
            **_MODERN_DEFAULTS,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "router_aux_loss_coef": 0.001,
            "norm_topk_prob": False,
        },
        written={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": None},
        refused={
            "norm_topk_prob": (True,),
            "decoder_sparse_step": (1, None),
            "mlp_only_layers": ([], None),
            "use_sliding_window": (False, None),
        },
        spellings={"hidden_act": _ACTIVATIONS},
        experts=True,
        tensors=tuple(_an_expert_each("mlp", "gate_proj", "up_proj", "down_proj")),
        ignored=_TABLES,
    ),
    Family(
        "llama",
        "LlamaForCausalLM",
        fixed=_MODERN,
        settings={**_LLAMA, **_BIAS, "mlp_bias": "mlp_bias"},
        defaults={**_MODERN_DEFAULTS, **_ENDS},
        refused={"pretraining_tp": (1, None)},
        spellings={"hidden_act": _ACTIVATIONS},
        ignored=_TABLES,
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        fixed=_MODERN,
        settings=_LLAMA,
        defaults={**_MODERN_DEFAULTS, **_ENDS, "sliding_window": 4096, "num_key_value_heads": 8},
        refused=_NO_BIAS,
        spellings={"hidden_act": _ACTIVATIONS},
        windows="all",
        ignored=_TABLES,
    ),
    Family(
        "mixtral",
        "MixtralForCausalLM",
        fixed=_MODERN,
        settings={**_LLAMA, **_LOCAL_EXPERTS},
        defaults={
            **_MODERN_DEFAULTS,
            **_ENDS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.001,
        },
        refused=_NO_BIAS,
        spellings={"hidden_act": _ACTIVATIONS},
        experts=True,
        windows="all",
        tensors=(
            Rename("model.layers.{i}.block_sparse_moe.gate.weight", ("model.layers.{i}.mlp.gate.weight",)),
            *_an_expert_each("block_sparse_moe", "w1", "w3", "w2"),
        ),
        ignored=_TABLES,
    ),
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        fixed={**_MODERN, "mlp_bias": True, "attention_sinks": True, "router_bias": True, "hidden_act": "silu"},
        settings={
            **{ours: theirs for ours, theirs in _LLAMA.items() if ours != "hidden_act"},  # the class does not read it
            **_BIAS,
            **_LISTED,
            **_LOCAL_EXPERTS,
            "swiglu_limit": "swiglu_limit",
        },
        defaults={
            **_MODERN_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "router_aux_loss_coef": 0.001,
            "head_dim": 64,
            "attention_bias": True,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
        },
        written={"hidden_act": "silu", "swiglu_alpha": 1.702},
        refused={"swiglu_alpha": (1.702, None)},
        experts=True,
        windows="alternating",
        tensors=tuple(_gpt_oss_tensors()),
        mxfp4=True,
    ),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        fixed=_OPENAI_FIXED,
        settings={**_OPENAI, "intermediate_size": "n_inner", "hidden_act": "activation_function"},
        defaults={**_OPENAI_DEFAULTS, "activation_function": "gelu_new"},
        refused={
            "scale_attn_weights": (True, None),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "add_cross_attention": (False, None),
        },
        spellings={"hidden_act": {"gelu_new": "gelu_pytorch_tanh", **_ACTIVATIONS}},
        tensors=tuple(_openai_tensors("wte", "wpe", "ln_f")),
        prefix="transformer.",
        ignored=_TABLES,
    ),
    Family(
        "openai-gpt",
        "OpenAIGPTLMHeadModel",
        fixed={**_OPENAI_FIXED, "norm_placement": "post"},  # and the feed-forward is always 4 x as wide
        settings={**_OPENAI, "hidden_act": "afn"},
        defaults={**_OPENAI_DEFAULTS, "afn": "gelu"},
        spellings={"hidden_act": {"gelu": "gelu_pytorch_tanh", **_ACTIVATIONS}},  # its "gelu" is the tanh form
        tensors=tuple(_openai_tensors("tokens_embed", "positions_embed", None)),
        prefix="transformer.",
        ignored=_TABLES,
    ),
)
OWN = Family("malmoi", "GPT4LMHeadModel", fixed={}, settings={name: name for name in ModelConfig.model_fields})
