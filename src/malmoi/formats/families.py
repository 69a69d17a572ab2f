"""What Hugging Face calls things: one table for each family of models that a folder may hold.

A `Family` says which of our settings are the same in all its models (`fixed`), under which names `config.json` keeps
the others (`settings`), what it must not ask for because we would compute something else (`refused`), and under which
names the weights lie (`tensors`; empty: the same names as ours). Everything is data; `to_config`, `from_config`,
`to_tensors` and `from_tensors` read the tables in either direction.

A model belongs to the first family that can say everything about its structure; what a family cannot say about
anything else (dropout, for example) is kept under the key "malmoi", which other programs ignore. A structure that no
family knows is written in our own names (`malmoi`), which only Malmoi opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from malmoi.config import MalmoiError, ModelConfig, nearest
from malmoi.layers import final_norm, layer_specs

EXTRA = "malmoi"  # the key of config.json that holds what the family's own keys cannot


@dataclass(frozen=True, slots=True)
class Rename:
    """One tensor of theirs and the ones of ours that it holds, one after another along the output dimension.

    `{i}` stands for the number of a layer. `transposed`: theirs is (in, out), as GPT-2's Conv1D keeps it.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` of Hugging Face maps onto `ModelConfig` and onto our parameter names."""

    model_type: str
    architecture: str
    fixed: Mapping[str, Any]
    settings: Mapping[str, str]  # ours -> theirs
    written: Mapping[str, Any] = field(default_factory=dict)  # keys that are always written
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # key -> the values that we can compute
    spellings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # ours -> {their value: our value}
    tensors: tuple[Rename, ...] = ()
    prefix: str = ""  # some published folders leave it out
    ignored: tuple[str, ...] = ()  # endings of tensors that are no parameters (masks, tables)


_SAME = ("vocab_size", "tie_word_embeddings", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
_MODERN_SETTINGS = {
    name: name
    for name in (
        *_SAME,
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "max_position_embeddings", "hidden_act", "attention_bias", "attention_dropout"),
        "rope_parameters",
    )
} | {"norm_eps": "rms_norm_eps"}
_MODERN = {"norm": "rms_norm", "positions": "rotary", "feed_forward": "gated"}


def _gpt2_tensors() -> Iterable[Rename]:
    yield Rename("transformer.wte.weight", ("model.embed_tokens.weight",))
    yield Rename("transformer.wpe.weight", ("model.embed_positions.weight",))
    yield Rename("lm_head.weight", ("lm_head.weight",))
    for part in ("weight", "bias"):
        yield Rename(f"transformer.ln_f.{part}", (f"model.norm.{part}",))
        ours, theirs, turned = "model.layers.{i}.", "transformer.h.{i}.", part == "weight"
        yield Rename(f"{theirs}ln_1.{part}", (f"{ours}input_layernorm.{part}",))
        yield Rename(f"{theirs}ln_2.{part}", (f"{ours}post_attention_layernorm.{part}",))
        fused = tuple(f"{ours}self_attn.{name}_proj.{part}" for name in "qkv")
        yield Rename(f"{theirs}attn.c_attn.{part}", fused, turned)
        yield Rename(f"{theirs}attn.c_proj.{part}", (f"{ours}self_attn.o_proj.{part}",), turned)
        yield Rename(f"{theirs}mlp.c_fc.{part}", (f"{ours}mlp.up_proj.{part}",), turned)
        yield Rename(f"{theirs}mlp.c_proj.{part}", (f"{ours}mlp.down_proj.{part}",), turned)


FAMILIES: tuple[Family, ...] = (
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        fixed={**_MODERN, "qk_norm": True, "mlp_bias": False, "num_experts": 0},
        settings={**_MODERN_SETTINGS, "layer_types": "layer_types", "sliding_window": "sliding_window"},
    ),
    Family(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        fixed={**_MODERN, "qk_norm": True, "mlp_bias": False},
        settings={
            **_MODERN_SETTINGS,
            "num_experts": "num_experts",
            "num_experts_per_tok": "num_experts_per_tok",
            "moe_intermediate_size": "moe_intermediate_size",
            "router_aux_loss_coef": "router_aux_loss_coef",
        },
        written={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": None},
        refused={
            "norm_topk_prob": (True,),
            "decoder_sparse_step": (1, None),
            "mlp_only_layers": ([], None),
            "use_sliding_window": (False, None),
        },
    ),
    Family(
        "llama",
        "LlamaForCausalLM",
        fixed={**_MODERN, "qk_norm": False, "num_experts": 0},
        settings={**_MODERN_SETTINGS, "mlp_bias": "mlp_bias"},
        refused={"pretraining_tp": (1, None)},
        ignored=("rotary_emb.inv_freq",),
    ),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        fixed={
            "norm": "layer_norm",
            "positions": "learned",
            "feed_forward": "plain",
            "qk_norm": False,
            "attention_bias": True,
            "mlp_bias": True,
            "num_experts": 0,
        },
        settings={
            **{name: name for name in _SAME},
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation_function",
            "embedding_dropout": "embd_pdrop",
            "attention_dropout": "attn_pdrop",
            "residual_dropout": "resid_pdrop",
        },
        refused={
            "scale_attn_weights": (True, None),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "add_cross_attention": (False, None),
        },
        spellings={"hidden_act": {"gelu_new": "gelu_pytorch_tanh"}},
        tensors=tuple(_gpt2_tensors()),
        prefix="transformer.",
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
)
_OWN = Family("malmoi", "GPT4LMHeadModel", fixed={}, settings={name: name for name in ModelConfig.model_fields})
_BY_TYPE = {family.model_type: family for family in (*FAMILIES, _OWN)}
# a setting that a folder leaves out has transformers' default, where that differs from ours
_THEIR_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": False},
    "qwen3_moe": {"tie_word_embeddings": False, "norm_topk_prob": False},
    "llama": {"tie_word_embeddings": False},
    "gpt2": {
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
    },
}


def family_of(config: ModelConfig) -> Family:
    """The first family that can say everything about the structure of this model."""
    for family in FAMILIES:
        if all(getattr(config, name) == value for name, value in family.fixed.items()):
            try:
                if _structure(from_config(_say(family, config))) == _structure(config):
                    return family
            except MalmoiError:
                continue
    return _OWN


def _structure(config: ModelConfig) -> tuple[Any, ...]:
    """All that decides a model's logits, apart from its weights."""
    plain = config.replace(attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0)
    turning = (config.rope_parameters, config.max_position_embeddings) if config.positions == "rotary" else None
    tied = config.tie_word_embeddings
    return layer_specs(plain), final_norm(config), config.vocab_size, tied, turning, config.max_position_embeddings


def _say(family: Family, config: ModelConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    said = {"architectures": [family.architecture], "model_type": family.model_type, **family.written}
    for ours, theirs in family.settings.items():
        spelled = {our: their for their, our in family.spellings.get(ours, {}).items()}
        said[theirs] = spelled.get(values[ours], values[ours]) if ours in family.spellings else values[ours]
    if "layer_types" in family.settings:
        said["use_sliding_window"] = "sliding_attention" in config.layer_types
    return said


def to_config(config: ModelConfig) -> dict[str, Any]:
    """What `config.json` says about a model, in its family's names; the rest under `EXTRA`."""
    family = family_of(config)
    said = _say(family, config)
    understood = from_config(said).model_dump(mode="json")
    rest = {name: value for name, value in config.model_dump(mode="json").items() if understood[name] != value}
    return {**said, EXTRA: {"config": rest}} if rest else said


def from_config(said: Mapping[str, Any]) -> ModelConfig:
    """A `config.json` as a `ModelConfig`.

    Raises `MalmoiError` for a family that is not known, a setting that we would compute differently, or a bad value.
    """
    family = family_named(said)
    said = {**_THEIR_DEFAULTS.get(family.model_type, {}), **said}
    for key, allowed in family.refused.items():
        if key in said and said[key] not in allowed:
            raise MalmoiError(f"{key}={said[key]!r} is not supported for model_type '{family.model_type}'.")
    said = _older_names(said)
    values: dict[str, Any] = dict(family.fixed)
    for ours, theirs in family.settings.items():
        if said.get(theirs) is not None:
            value = said[theirs]
            spelled = family.spellings.get(ours, {})
            values[ours] = spelled.get(value, value) if isinstance(value, str) else value
    if isinstance(values.get("eos_token_id"), list):  # the first ends a text; generation_config.json has them all
        values["eos_token_id"] = values["eos_token_id"][0] if values["eos_token_id"] else None
    extra = said.get(EXTRA) if isinstance(said.get(EXTRA), Mapping) else {}
    values |= extra.get("config", {}) if extra else {}
    return ModelConfig(**values)


def family_named(said: Mapping[str, Any]) -> Family:
    """The family that a `config.json` names as its `model_type`."""
    name = said.get("model_type")
    if name not in _BY_TYPE:
        given = f"model_type '{name}' is not a family that Malmoi knows" if name else "there is no model_type"
        near = nearest(str(name), _BY_TYPE) if name else ""
        raise MalmoiError(f"{given}.{near} Known families: {', '.join(_BY_TYPE)}.")
    return _BY_TYPE[name]


def _older_names(said: Mapping[str, Any]) -> dict[str, Any]:
    """Bring spellings of older transformers versions to today's: rope_theta, layer types, the number of experts."""
    said = dict(said)
    rope = dict(said.get("rope_parameters") or {})
    scaling = said.get("rope_scaling") or {}
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        raise MalmoiError(f"rope_type '{kind}' is not supported; known: 'default'.")
    said["rope_parameters"] = {"rope_theta": rope.get("rope_theta") or said.get("rope_theta") or 10_000.0}
    if said.get("num_experts") is None and said.get("num_local_experts") is not None:
        said["num_experts"] = said["num_local_experts"]
    if said.get("use_sliding_window") is False:
        said["sliding_window"] = None
    depth, first = said.get("num_hidden_layers"), said.get("max_window_layers", 28)
    if said.get("use_sliding_window") and not said.get("layer_types") and isinstance(depth, int):
        said["layer_types"] = ["full_attention" if i < first else "sliding_attention" for i in range(depth)]
    return said


def to_tensors(family: Family, state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Our state dictionary under the family's names."""
    if not family.tensors:
        return dict(state)
    theirs: dict[str, torch.Tensor] = {}
    for name, ours, transposed in _renamed(family, layers):
        if all(part in state for part in ours):
            whole = torch.cat([state[part] for part in ours])
            theirs[name] = whole.t() if transposed else whole
    return theirs


def match(family: Family, held: Iterable[str], expected: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Which tensor of a folder is which expected one (by the family's names), and the names that nobody expected."""
    wanted, found, extra = set(expected), {}, []
    for name in held:
        full = name if name in wanted else family.prefix + name  # some folders leave the prefix out
        if full in wanted:
            found[full] = name
        elif not any(name.endswith(ending) for ending in family.ignored):
            extra.append(name)
    return found, sorted(extra)


def from_tensors(
    family: Family, theirs: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], layers: int
) -> dict[str, torch.Tensor]:
    """The family's tensors under our names; `shapes` (ours) say where a fused one is cut."""
    if not family.tensors:
        return dict(theirs)
    ours: dict[str, torch.Tensor] = {}
    for name, parts, transposed in _renamed(family, layers):
        if name in theirs:
            whole = theirs[name].t() if transposed else theirs[name]
            pieces = whole.split([shapes[part][0] for part in parts])
            ours |= {part: piece.contiguous() for part, piece in zip(parts, pieces, strict=True)}
    return ours


def _renamed(family: Family, layers: int) -> Iterable[tuple[str, tuple[str, ...], bool]]:
    for rule in family.tensors:
        numbers = range(layers) if "{i}" in rule.theirs else range(1)
        for i in numbers:
            yield rule.theirs.format(i=i), tuple(part.format(i=i) for part in rule.ours), rule.transposed
