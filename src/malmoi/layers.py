"""From a configuration to a list of layers: the one place where settings become structure.

`layer_specs(config)` expands a `ModelConfig` into small frozen records, one `Layer` for each block of the network. The
model builds each record with `match`, so that a block never asks what kind of model it stands in, and a new idea is one
record here and one `case` there. Nothing here needs torch: the planner and `malmoi params` count with the same records
that the model is built from (`named_tensors`, `count_parameters`), and a test compares both with the built model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from malmoi.config import ModelConfig

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class Norm:
    """Bring vectors of `size` numbers to a common length; where `affine`, then scale (LayerNorm: and shift) each."""

    kind: Literal["rms_norm", "layer_norm"]
    size: int
    eps: float
    affine: bool = True


@dataclass(frozen=True, slots=True)
class Attention:
    """Each position gathers from earlier ones: from all of them, or from the last `window` (itself included).

    `sinks`: each head may also look at nothing, with a learned weight.
    """

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    window: int | None
    rotary: bool
    qk_norm: Norm | None  # of the queries and keys of each head
    bias: bool
    sinks: bool
    dropout: float


@dataclass(frozen=True, slots=True)
class Dense:
    """A feed-forward network for every token: `down(act(gate(x)) * up(x))`, or plain `down(act(up(x)))`.

    `limit`: gpt-oss's form of the gate, whose two sides are kept within bounds.
    """

    hidden_size: int
    size: int
    activation: Activation
    gated: bool
    bias: bool
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """`number` feed-forward networks and a router that sends each token through the `per_token` most fitting ones."""

    hidden_size: int
    number: int
    per_token: int
    expert: Dense
    router_bias: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: attention and feed-forward, each added to the residual stream.

    The norms stand before each half, on a copy of the stream; where `post_norm`, on the stream itself after each sum.
    """

    attention: Attention
    feed_forward: Dense | Experts
    norm: Norm
    dropout: float
    post_norm: bool = False


def layer_specs(config: ModelConfig) -> tuple[Layer, ...]:
    """One `Layer` for every block, first to last."""
    norm = _norm(config)
    qk_norm = Norm("rms_norm", config.head_dim, config.norm_eps, config.norm_affine) if config.qk_norm else None
    feed_forward = _feed_forward(config)
    return tuple(
        Layer(
            attention=Attention(
                hidden_size=config.hidden_size,
                num_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                window=config.sliding_window if layer_type == "sliding_attention" else None,
                rotary=config.positions == "rotary",
                qk_norm=qk_norm,
                bias=config.attention_bias,
                sinks=config.attention_sinks,
                dropout=config.attention_dropout,
            ),
            feed_forward=feed_forward,
            norm=norm,
            dropout=config.residual_dropout,
            post_norm=config.norm_placement == "post",
        )
        for layer_type in config.layer_types
    )


def final_norm(config: ModelConfig) -> Norm | None:
    """The norm between the last block and the vocabulary; None where each block ends with one ("post")."""
    return _norm(config) if config.norm_placement == "pre" else None


def _norm(config: ModelConfig) -> Norm:
    return Norm(config.norm, config.hidden_size, config.norm_eps, config.norm_affine)


def _feed_forward(config: ModelConfig) -> Dense | Experts:
    def dense(size: int) -> Dense:
        gated = config.feed_forward == "gated"
        return Dense(config.hidden_size, size, config.hidden_act, gated, config.mlp_bias, config.swiglu_limit)

    if config.num_experts == 0:
        return dense(config.intermediate_size)
    number, per_token = config.num_experts, config.num_experts_per_tok
    return Experts(config.hidden_size, number, per_token, dense(config.moe_intermediate_size), config.router_bias)


def tensors(spec: Norm | Attention | Dense | Experts | Layer | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every learned tensor of a part, by the name that it has in the built module, with its shape."""
    match spec:
        case None | Norm(affine=False):
            return
        case Norm(size=size):
            yield "weight", (size,)
            if spec.kind == "layer_norm":
                yield "bias", (size,)
        case Attention(hidden_size=width):
            queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
            if spec.sinks:
                yield "sinks", (spec.num_heads,)
            for name, out, into in (
                ("q_proj", queries, width),
                ("k_proj", keys, width),
                ("v_proj", keys, width),
                ("o_proj", width, queries),
            ):
                yield f"{name}.weight", (out, into)
                if spec.bias:
                    yield f"{name}.bias", (out,)
            yield from _inside("q_norm", spec.qk_norm)
            yield from _inside("k_norm", spec.qk_norm)
        case Dense():
            for name, out, into in _feed_forward_maps(spec):
                yield f"{name}.weight", (out, into)
                if spec.bias:
                    yield f"{name}.bias", (out,)
        case Experts(hidden_size=width, number=number):
            yield "gate.weight", (number, width)
            if spec.router_bias:
                yield "gate.bias", (number,)
            maps = _feed_forward_maps(spec.expert)
            for name, out, into in maps:
                yield f"experts.{name}", (number, out, into)
            if spec.expert.bias:
                for name, out, _ in maps:
                    yield f"experts.{name}_bias", (number, out)
        case Layer():
            yield from _inside("input_layernorm", spec.norm)
            yield from _inside("self_attn", spec.attention)
            yield from _inside("post_attention_layernorm", spec.norm)
            yield from _inside("mlp", spec.feed_forward)


def _feed_forward_maps(spec: Dense) -> tuple[tuple[str, int, int], ...]:
    """The matrices of a feed-forward network: name, outputs, inputs."""
    width, size = spec.hidden_size, spec.size
    gate = (("gate_proj", size, width),) if spec.gated else ()
    return (*gate, ("up_proj", size, width), ("down_proj", width, size))


def _inside(
    name: str, spec: Norm | Attention | Dense | Experts | Layer | None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((f"{name}.{inner}", shape) for inner, shape in tensors(spec))


def named_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every learned tensor of the model that `config` describes, without building it.

    A tied output table is the embedding itself and is not named again, as in the built model's `named_parameters()`.
    """
    table = (config.vocab_size, config.hidden_size)
    yield "model.embed_tokens.weight", table
    if config.positions == "learned":
        yield "model.embed_positions.weight", (config.max_position_embeddings, config.hidden_size)
    for index in range(len(config.ngram_sizes)):
        yield f"model.embed_ngrams.tables.{index}.weight", (config.ngram_vocab_size, config.hidden_size)
    for index, layer in enumerate(layer_specs(config)):
        yield from _inside(f"model.layers.{index}", layer)
    yield from _inside("model.norm", final_norm(config))
    if not config.tie_word_embeddings:
        yield "lm_head.weight", table


def count(spec: Norm | Attention | Dense | Experts | Layer | None) -> int:
    """How many learned numbers a part holds."""
    return sum(math.prod(shape) for _, shape in tensors(spec))


def count_parameters(config: ModelConfig) -> int:
    """The exact number of learned parameters of the model that `config` describes; tied embeddings count once."""
    return sum(math.prod(shape) for _, shape in named_tensors(config))


def count_active_parameters(config: ModelConfig) -> int:
    """The parameters that one token passes through: all of them, less the experts that it is not sent to."""
    idle = 0
    for layer in layer_specs(config):
        match layer.feed_forward:
            case Experts(number=number, per_token=per_token, expert=expert):
                idle += (number - per_token) * count(expert)
            case Dense():
                pass
    return count_parameters(config) - idle
