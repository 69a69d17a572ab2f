"""Which of llama.cpp's networks computes a model, and where our parameters lie in it: data, one entry a network.

A GGUF file's first value names an *architecture*: a network that llama.cpp has written out by hand. There is no free
choice of structure beside it, so `ARCHITECTURES` says what each can compute (`needs`) and what its tensors hold
(`tensors`). A model that none of them computes exactly is refused in a sentence; nothing is bent to fit.

Source: https://github.com/ggml-org/llama.cpp/tree/master/src/models (one file a network)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from malmoi.config import MalmoiError, ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel

_SWIGLU_LIMIT = 7.0  # written into llama.cpp


def library() -> Any:
    """The `gguf` package, or an error that names the extra."""
    try:
        import gguf
    except ImportError:
        raise MalmoiError('GGUF files need one more package: pip install "malmoi[gguf]".') from None
    return gguf


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network of llama.cpp: its name, the values of our settings that it computes, its tensors and ours.

    `tensors` goes from the `gguf` package's `MODEL_TENSOR` names to ours without endings; several of ours lie one after
    another. `interleaved`: its rotary positions turn neighbouring numbers.
    """

    name: str
    needs: Mapping[str, tuple[Any, ...]]
    tensors: Mapping[str, tuple[str, ...]]
    interleaved: bool = False


_LAYER = "model.layers.{i}."


def _tensors(**ours: str) -> dict[str, tuple[str, ...]]:
    """The tensors of a network: those around the layers are the same everywhere. A space parts names of ours."""
    around = {"TOKEN_EMBD": "model.embed_tokens", "OUTPUT_NORM": "model.norm", "OUTPUT": "lm_head"}
    inside = {
        name: " ".join(part if part.startswith("model.") else _LAYER + part for part in parts.split())
        for name, parts in ours.items()
    }
    return {name: tuple(parts.split()) for name, parts in {**around, **inside}.items()}


_NORMS = {"ATTN_NORM": "input_layernorm", "FFN_NORM": "post_attention_layernorm"}
_ATTENTION = {f"ATTN_{part.upper()}": f"self_attn.{part}_proj" for part in "qkv"} | {"ATTN_OUT": "self_attn.o_proj"}
_QK_NORMS = {"ATTN_Q_NORM": "self_attn.q_norm", "ATTN_K_NORM": "self_attn.k_norm"}
_DENSE = {"FFN_GATE": "mlp.gate_proj", "FFN_UP": "mlp.up_proj", "FFN_DOWN": "mlp.down_proj"}
_EXPERTS = {"FFN_GATE_INP": "mlp.gate"} | {
    f"FFN_{part.upper()}_EXP": f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")
}
_PLAIN = {"norm_placement": ("pre",), "norm_affine": (True,)}
_MODERN = {
    **_PLAIN,
    "norm": ("rms_norm",),
    "positions": ("rotary",),
    "feed_forward": ("gated",),
    "hidden_act": ("silu",),
}
_SIMPLE = {"attention_sinks": (False,), "router_bias": (False,), "swiglu_limit": (None,), "windows": ("none",)}
_ROPE = ("default", "linear", "yarn")
_NO_BIAS = {"attention_bias": (False,), "mlp_bias": (False,)}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "qwen3",
        {**_MODERN, **_SIMPLE, **_NO_BIAS, "qk_norm": (True,), "experts": (False,), "rope_type": _ROPE},
        _tensors(**_NORMS, **_ATTENTION, **_QK_NORMS, **_DENSE),
    ),
    Architecture(
        "qwen3moe",
        {**_MODERN, **_SIMPLE, **_NO_BIAS, "qk_norm": (True,), "experts": (True,), "rope_type": _ROPE},
        _tensors(**_NORMS, **_ATTENTION, **_QK_NORMS, **_EXPERTS),
    ),
    Architecture(  # Llama and Mistral
        "llama",
        {**_MODERN, **_SIMPLE, "qk_norm": (False,), "experts": (False,), "rope_type": (*_ROPE, "llama3")},
        _tensors(**_NORMS, **_ATTENTION, **_DENSE),
        interleaved=True,
    ),
    Architecture(  # Mixtral
        "llama",
        {
            **_MODERN,
            **_SIMPLE,
            "qk_norm": (False,),
            "experts": (True,),
            "mlp_bias": (False,),
            "rope_type": (*_ROPE, "llama3"),
        },
        _tensors(**_NORMS, **_ATTENTION, **_EXPERTS),
        interleaved=True,
    ),
    Architecture(
        "gpt2",
        {
            **_PLAIN,
            **_SIMPLE,
            "norm": ("layer_norm",),
            "positions": ("learned",),
            "feed_forward": ("plain",),
            "hidden_act": ("gelu_pytorch_tanh",),
            "attention_bias": (True,),
            "mlp_bias": (True,),
            "qk_norm": (False,),
            "experts": (False,),
            "heads_fill_hidden_size": (True,),
        },
        _tensors(
            **_NORMS,
            ATTN_QKV="self_attn.q_proj self_attn.k_proj self_attn.v_proj",
            ATTN_OUT="self_attn.o_proj",
            FFN_UP="mlp.up_proj",
            FFN_DOWN="mlp.down_proj",
            POS_EMBD="model.embed_positions",
        ),
    ),
    Architecture(
        "gpt-oss",
        {
            **_MODERN,
            "qk_norm": (False,),
            "experts": (True,),
            "attention_sinks": (True,),
            "router_bias": (True,),
            "attention_bias": (True,),
            "mlp_bias": (True,),
            "swiglu_limit": (_SWIGLU_LIMIT,),
            "rope_type": _ROPE,
            "windows": ("every second layer, from the first",),
        },
        _tensors(
            ATTN_NORM="input_layernorm",
            ATTN_POST_NORM="post_attention_layernorm",
            **_ATTENTION,
            **_EXPERTS,
            ATTN_SINKS="self_attn.sinks",
        ),
    ),
)


def traits(config: ModelConfig) -> dict[str, Any]:
    """A model's settings, and what follows from several of them, as `needs` asks for them."""
    windows = [
        kind == "sliding_attention" and (config.sliding_window or 0) < config.max_position_embeddings
        for kind in config.layer_types
    ]
    alternating = [i % 2 == 0 for i in range(len(windows))]
    said = "every second layer, from the first" if windows == alternating else "of another order"
    return {
        **{name: getattr(config, name) for name in type(config).model_fields},
        "windows": said if any(windows) else "none",
        "experts": config.num_experts > 0,
        "rope_type": config.rope_parameters.rope_type,
        "heads_fill_hidden_size": config.num_attention_heads * config.head_dim == config.hidden_size,
    }


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that computes this model. Raises `MalmoiError` with what stands against the nearest one."""
    held = traits(config)
    wrong = {
        i: [(name, allowed) for name, allowed in architecture.needs.items() if held[name] not in allowed]
        for i, architecture in enumerate(ARCHITECTURES)
    }
    kin = [i for i in wrong if held["experts"] in ARCHITECTURES[i].needs["experts"]]
    best = min(kin, key=lambda i: len(wrong[i]))
    if not wrong[best]:
        return ARCHITECTURES[best]
    against = ", ".join(
        f"{name} is {held[name]} where it computes {' or '.join(map(str, allowed))}" for name, allowed in wrong[best]
    )
    raise MalmoiError(
        f"llama.cpp has no network for this model, so no GGUF file can say it: the nearest, "
        f"'{ARCHITECTURES[best].name}', differs ({against}). `malmoi export --to hf` writes it for the programs that "
        f"can open it."
    )


def table(architecture: Architecture, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Their tensor names -> ours, for a model of this configuration; every parameter of ours is in it exactly once."""
    gguf = library()
    left = set(shapes(config))
    names: dict[str, tuple[str, ...]] = {}
    for key, stems in architecture.tensors.items():
        theirs = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR[key]]
        for i in range(config.num_hidden_layers) if "{bid}" in theirs else range(1):
            for ending, spellings in (("weight", (".weight", "")), ("bias", (".bias", "_bias"))):
                for spelling in spellings:
                    parts = tuple(stem.format(i=i) + spelling for stem in stems)
                    if left.issuperset(parts):
                        names[f"{theirs.format(bid=i)}.{ending}"] = parts
                        left -= set(parts)
    if left:
        raise MalmoiError(f"GGUF's '{architecture.name}' has no place for {', '.join(sorted(left)[:5])}.")
    return names


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Our parameters of a model of this configuration and their shapes; a shared table counts as the input's."""
    with torch.device("meta"):
        state = GPT4LMHeadModel(config).state_dict()
    return {
        name: tensor.shape
        for name, tensor in state.items()
        if name != "lm_head.weight" or not config.tie_word_embeddings
    }
