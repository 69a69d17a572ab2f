"""From a configuration to what the native engine needs: its sizes, and every tensor with its role.

The engine knows both layouts of the house (GPT-2's and the modern one), dense and with experts. A setting that it does
not know is an error that names it, so that the caller can fall back to torch, and never a model that is computed
differently: whatever is added to `ModelConfig` later is unknown here until it is added to the lists below.

Only plain numbers and strings are read, so that a quantised folder opens without torch and without the configuration's
own class.

E experts, M hidden size of a feed-forward network
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from malmoi.config import MalmoiError
from malmoi.native.interface import ACTIVATIONS, SHAPE_COUNTS, SHAPE_FACTORS, SHAPE_SWITCHES

FREQUENCIES = "rotary.frequencies"  # the one tensor that is no parameter: how fast each pair of a head turns

_SETTINGS = {
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "max_position_embeddings", "positions", "rope_parameters", "norm", "norm_eps"),
    *("norm_placement", "norm_affine", "qk_norm", "attention_sinks", "feed_forward", "hidden_act", "swiglu_limit"),
    *("attention_bias", "mlp_bias", "tie_word_embeddings", "layer_types", "sliding_window", "num_experts"),
    *("num_experts_per_tok", "moe_intermediate_size", "router_bias"),
}
_WITHOUT_EFFECT = {  # on the logits of a finished model
    *("router_aux_loss_coef", "embedding_dropout", "attention_dropout", "residual_dropout", "initializer_range"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "ngram_vocab_size"),
}
_NEUTRAL: Mapping[str, Any] = {
    "ngram_sizes": (),
    "image_token_id": None,
}  # settings that are not computed here, and what turns them off


class UnsupportedModelError(MalmoiError):
    """The native engine does not compute such a model; the torch engine does."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model: its role in the engine, its layer (-1 outside), its name and shape.

    A "matrix" (E, outputs, inputs) or (outputs, inputs) is stored packed; a "router" is one that stays float32; a
    "vector" is stored as it is.
    """

    role: str
    layer: int
    name: str
    shape: tuple[int, ...]
    form: Literal["matrix", "router", "vector"]


@dataclass(frozen=True, slots=True)
class Description:
    """`values`: the fields of `ShapeStruct` by name; `windows`: of each layer, 0 for all positions."""

    values: Mapping[str, float]
    windows: tuple[int, ...]

    def __getitem__(self, name: str) -> int:
        return int(self.values[name])


def describe(settings: Mapping[str, Any], rotary_factor: float = 1.0) -> Description:
    """Read the settings of a `ModelConfig` (its `model_dump()`, or the same from a JSON file).

    `rotary_factor` comes with the frequencies (`malmoi.model.position.frequencies`). Raises `UnsupportedModelError`
    for what the engine does not compute, `MalmoiError` for settings that are missing or make no sense.
    """
    for name, value in settings.items():
        if name in _NEUTRAL and (value is None or (isinstance(value, list | tuple) and tuple(value) == _NEUTRAL[name])):
            continue
        if name not in _SETTINGS and name not in _WITHOUT_EFFECT:
            raise UnsupportedModelError(f"The native engine does not know the setting {name}={value!r:.80}.")
    missing = sorted(_SETTINGS - set(settings))
    if missing:
        raise MalmoiError(f"The model's settings lack {', '.join(missing)}.")
    try:
        values, windows = _values(settings, rotary_factor), _windows(settings)
    except MalmoiError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise MalmoiError(f"The model's settings make no sense: {error}.") from None
    assert set(values) == {*SHAPE_COUNTS, *SHAPE_SWITCHES, *SHAPE_FACTORS}
    return Description(values, windows)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> int:
    if value not in known:
        raise UnsupportedModelError(f"The native engine does not know {name}={value!r:.80}; it knows {known}.")
    return known.index(value)


def _values(s: Mapping[str, Any], rotary_factor: float) -> dict[str, float]:
    experts = int(s["num_experts"])
    limit = s["swiglu_limit"]
    return {
        "vocabulary": int(s["vocab_size"]),
        "width": int(s["hidden_size"]),
        "layers": int(s["num_hidden_layers"]),
        "heads": int(s["num_attention_heads"]),
        "shared_heads": int(s["num_key_value_heads"]),
        "head_size": int(s["head_dim"]),
        "hidden": int(s["moe_intermediate_size"] if experts else s["intermediate_size"]),
        "positions": int(s["max_position_embeddings"]),
        "experts": experts,
        "experts_per_token": int(s["num_experts_per_tok"]) if experts else 0,
        "rotary": _one_of("positions", s["positions"], ("learned", "rotary")),
        "layer_norm": _one_of("norm", s["norm"], ("rms_norm", "layer_norm")),
        "norm_affine": int(bool(s["norm_affine"])),
        "post_norm": _one_of("norm_placement", s["norm_placement"], ("pre", "post")),
        "qk_norm": int(bool(s["qk_norm"])),
        "gated": _one_of("feed_forward", s["feed_forward"], ("plain", "gated")),
        "activation": _one_of("hidden_act", s["hidden_act"], ACTIVATIONS),
        "attention_bias": int(bool(s["attention_bias"])),
        "mlp_bias": int(bool(s["mlp_bias"])),
        "router_bias": int(bool(experts and s["router_bias"])),
        "sinks": int(bool(s["attention_sinks"])),
        "tied": int(bool(s["tie_word_embeddings"])),
        "norm_eps": float(s["norm_eps"]),
        "rotary_factor": float(rotary_factor),
        "limit": 0.0 if limit is None else float(limit),
        "reserved": 0.0,
    }


def _windows(s: Mapping[str, Any]) -> tuple[int, ...]:
    kinds = ("full_attention", "sliding_attention")
    window = 0 if s["sliding_window"] is None else int(s["sliding_window"])
    windows = tuple(window if _one_of("layer_types", kind, kinds) else 0 for kind in s["layer_types"])
    if len(windows) != int(s["num_hidden_layers"]):
        raise ValueError(f"layer_types names {len(windows)} layers of {s['num_hidden_layers']}")
    return windows


def tensors(d: Description) -> Iterator[Tensor]:
    """Every tensor that the engine reads for such a model, by the names of `malmoi.layers.named_tensors`."""
    width = d["width"]
    yield Tensor("embedding", -1, "model.embed_tokens.weight", (d["vocabulary"], width), "matrix")
    if not d["tied"]:
        yield Tensor("head", -1, "lm_head.weight", (d["vocabulary"], width), "matrix")
    if d["rotary"]:
        yield Tensor("frequencies", -1, FREQUENCIES, (d["head_size"] // 2,), "vector")
    else:
        yield Tensor("positions", -1, "model.embed_positions.weight", (d["positions"], width), "vector")
    if not d["post_norm"]:
        yield from _norm(d, "final_norm", -1, "model.norm")
    for layer in range(d["layers"]):
        yield from _layer(d, layer)


def _norm(d: Description, role: str, layer: int, name: str) -> Iterator[Tensor]:
    if d["norm_affine"]:
        yield Tensor(role, layer, f"{name}.weight", (d["width"],), "vector")
        if d["layer_norm"]:
            yield Tensor(f"{role}_bias", layer, f"{name}.bias", (d["width"],), "vector")


def _layer(d: Description, layer: int) -> Iterator[Tensor]:
    stem = f"model.layers.{layer}"
    queries, shared, width = d["heads"] * d["head_size"], d["shared_heads"] * d["head_size"], d["width"]
    yield from _norm(d, "first_norm", layer, f"{stem}.input_layernorm")
    yield from _norm(d, "second_norm", layer, f"{stem}.post_attention_layernorm")
    for role, name, shape in (
        ("query", "q_proj", (queries, width)),
        ("key", "k_proj", (shared, width)),
        ("value", "v_proj", (shared, width)),
        ("output", "o_proj", (width, queries)),
    ):
        yield Tensor(role, layer, f"{stem}.self_attn.{name}.weight", shape, "matrix")
        if d["attention_bias"]:
            yield Tensor(f"{role}_bias", layer, f"{stem}.self_attn.{name}.bias", shape[:1], "vector")
    if d["qk_norm"] and d["norm_affine"]:
        yield Tensor("query_norm", layer, f"{stem}.self_attn.q_norm.weight", (d["head_size"],), "vector")
        yield Tensor("key_norm", layer, f"{stem}.self_attn.k_norm.weight", (d["head_size"],), "vector")
    if d["sinks"]:
        yield Tensor("sinks", layer, f"{stem}.self_attn.sinks", (d["heads"],), "vector")
    yield from _feed_forward(d, layer, f"{stem}.mlp")


def _feed_forward(d: Description, layer: int, stem: str) -> Iterator[Tensor]:
    width, hidden, experts = d["width"], d["hidden"], d["experts"]
    if experts:
        yield Tensor("router", layer, f"{stem}.gate.weight", (experts, width), "router")
        if d["router_bias"]:
            yield Tensor("router_bias", layer, f"{stem}.gate.bias", (experts,), "vector")
    for role, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden))):
        if role == "gate" and not d["gated"]:
            continue
        name = f"{stem}.experts.{role}_proj" if experts else f"{stem}.{role}_proj.weight"
        bias = f"{stem}.experts.{role}_proj_bias" if experts else f"{stem}.{role}_proj.bias"
        many = (experts,) if experts else ()
        yield Tensor(role, layer, name, (*many, *shape), "matrix")
        if d["mlp_bias"]:
            yield Tensor(f"{role}_bias", layer, bias, (*many, shape[0]), "vector")
