"""From a configuration to a list of layers: the one place where settings become structure.

`layer_specs(config)` expands a `ModelConfig` into small frozen records, one `Layer` for each block of the network. The
model builds each record with `match`, so that a block never asks what kind of model it stands in, and a new idea is one
record here and one `case` there. Nothing here needs torch: the planner and `malmoi params` count with the same records
that the model is built from (`count_parameters`), and a test holds the two counts equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from malmoi.config import ModelConfig

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class Norm:
    """Bring vectors of `size` numbers to a common length, then scale (and, for LayerNorm, shift) each number."""

    kind: Literal["rms_norm", "layer_norm"]
    size: int
    eps: float


@dataclass(frozen=True, slots=True)
class Attention:
    """Each position gathers from earlier ones: from all of them, or from the last `window` (itself included)."""

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    window: int | None
    rotary: bool
    qk_norm: bool
    bias: bool
    norm_eps: float
    dropout: float


@dataclass(frozen=True, slots=True)
class Dense:
    """A feed-forward network for every token: `down(act(gate(x)) * up(x))`, or plain `down(act(up(x)))`."""

    hidden_size: int
    size: int
    activation: Activation
    gated: bool
    bias: bool


@dataclass(frozen=True, slots=True)
class Experts:
    """`number` feed-forward networks and a router that sends each token through the `per_token` most fitting ones."""

    hidden_size: int
    number: int
    per_token: int
    expert: Dense


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: norm, attention, norm, feed-forward, each half added to the residual stream."""

    attention: Attention
    feed_forward: Dense | Experts
    norm: Norm
    dropout: float


def layer_specs(config: ModelConfig) -> tuple[Layer, ...]:
    """One `Layer` for every block, first to last."""
    norm = final_norm(config)
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
                qk_norm=config.qk_norm,
                bias=config.attention_bias,
                norm_eps=config.norm_eps,
                dropout=config.attention_dropout,
            ),
            feed_forward=feed_forward,
            norm=norm,
            dropout=config.residual_dropout,
        )
        for layer_type in config.layer_types
    )


def final_norm(config: ModelConfig) -> Norm:
    """The norm between the last block and the vocabulary; the blocks' own norms have the same form."""
    return Norm(config.norm, config.hidden_size, config.norm_eps)


def _feed_forward(config: ModelConfig) -> Dense | Experts:
    def dense(size: int) -> Dense:
        return Dense(config.hidden_size, size, config.hidden_act, config.feed_forward == "gated", config.mlp_bias)

    if config.num_experts == 0:
        return dense(config.intermediate_size)
    return Experts(
        config.hidden_size, config.num_experts, config.num_experts_per_tok, dense(config.moe_intermediate_size)
    )


def count(spec: Norm | Attention | Dense | Experts | Layer) -> int:
    """How many learned numbers a part holds."""
    match spec:
        case Norm(kind="layer_norm", size=size):
            return 2 * size
        case Norm(size=size):
            return size
        case Attention():
            queries = spec.num_heads * spec.head_dim
            pairs = 2 * spec.num_key_value_heads * spec.head_dim
            weights = spec.hidden_size * (2 * queries + pairs)
            biases = queries + pairs + spec.hidden_size if spec.bias else 0
            return weights + biases + (2 * spec.head_dim if spec.qk_norm else 0)
        case Dense():
            inward = 2 if spec.gated else 1
            weights = (inward + 1) * spec.hidden_size * spec.size
            return weights + (inward * spec.size + spec.hidden_size if spec.bias else 0)
        case Experts():
            return spec.hidden_size * spec.number + spec.number * count(spec.expert)
        case Layer():
            return count(spec.attention) + count(spec.feed_forward) + 2 * count(spec.norm)


def count_parameters(config: ModelConfig) -> int:
    """The exact number of learned parameters of the model that `config` describes, without building it.

    Tied embeddings are counted once, as in the built model.
    """
    tables = 1 if config.tie_word_embeddings else 2
    embeddings = tables * config.vocab_size * config.hidden_size
    if config.positions == "learned":
        embeddings += config.max_position_embeddings * config.hidden_size
    return embeddings + sum(count(layer) for layer in layer_specs(config)) + count(final_norm(config))


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
