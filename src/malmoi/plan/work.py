"""What a model computes for one token, as a list of matrix products: the ground under FLOPs, bytes and seconds.

A transformer's work is nearly all in matrix products, so a layer is described by them: how many inputs and outputs, on
which side tensor parallelism may cut them, whether every token passes or only some (experts). The list comes from the
same layer records that the model is built from (`malmoi.layers`); DeepSeek-V3, which Malmoi only counts, has its own.

The learned numbers of all products and the rest add up to `counts.totals`, to the last one; a test checks it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from malmoi.config import ModelConfig
from malmoi.layers import Attention, Dense, Experts, Layer, count, final_norm, layer_specs
from malmoi.plan import deepseek
from malmoi.plan.counts import Totals, count_by_kind, totals


@dataclass(frozen=True, slots=True)
class Matmul:
    """`inputs` x `outputs` numbers. Tensor parallelism cuts the outputs, the inputs, or nothing.

    `parts`: the outputs of the matrices that this product joins, such as queries, keys and values; empty: it is one.
    """

    name: str
    inputs: int
    outputs: int
    cut: Literal["out", "in", "none"] = "out"
    parts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.inputs * self.outputs

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each learned matrix: what an adapter or Muon sees."""
        return [(self.inputs, outputs) for outputs in self.parts or (self.outputs,)]


@dataclass(frozen=True, slots=True)
class LayerWork:
    """One layer. `dense`: products that every token passes; `expert`: those of one of `experts`; `per_token` of them.

    `other` and `expert_other`: learned numbers outside products (norms, biases). `cached`: numbers that the key/value
    cache keeps for a token. `gated` feed-forwards have three hidden vectors, plain ones two.
    """

    dense: tuple[Matmul, ...]
    other: int
    heads: int
    key_dim: int
    value_dim: int
    kv_heads: int
    cached: int
    window: int | None
    gated: bool
    experts: int = 0
    per_token: int = 0
    expert: tuple[Matmul, ...] = ()
    expert_other: int = 0
    sinks: bool = False
    qk_norm: bool = False

    @property
    def dense_parameters(self) -> int:
        return sum(each.size for each in self.dense) + self.other

    @property
    def expert_parameters(self) -> int:
        """Of one expert."""
        return sum(each.size for each in self.expert) + self.expert_other

    @property
    def dense_hidden(self) -> int:
        """Width inside the feed-forward that every token passes; 0 where there are only experts."""
        return sum(each.inputs for each in self.dense if each.name == "feed-forward out")

    @property
    def expert_hidden(self) -> int:
        return sum(each.inputs for each in self.expert if each.name == "feed-forward out")

    def reach(self, sequence: int, causal: bool = True) -> float:
        """How many positions a token looks at on average, in a row of `sequence` tokens (half of them: causal)."""
        if not causal:
            return float(sequence)
        wide = min(self.window or sequence, sequence)
        return wide - wide * wide / (2 * sequence)

    def attention_flops(self, sequence: int, causal: bool = True) -> float:
        """Forward, one token: scores against the keys that it sees, and the values gathered by them."""
        return 2.0 * self.heads * (self.key_dim + self.value_dim) * self.reach(sequence, causal)


@dataclass(frozen=True, slots=True)
class Work:
    """A whole model. `layers` are (layer, how many in a row); `counted` the exact sums of `counts.totals`."""

    name: str
    width: int
    vocabulary: int
    layers: tuple[tuple[LayerWork, int], ...]
    tied: bool
    input_only: int  # learned numbers at the entrance besides the table: positions, n-grams
    exit_other: int  # the final norm
    counted: Totals
    context: int
    by_kind: tuple[tuple[str, int], ...] = ()

    @property
    def depth(self) -> int:
        return sum(number for _, number in self.layers)

    @property
    def table(self) -> int:
        return self.vocabulary * self.width

    @property
    def has_experts(self) -> bool:
        return any(layer.experts for layer, _ in self.layers)

    @property
    def cached(self) -> int:
        """Numbers of the key/value cache for one token."""
        return sum(layer.cached * number for layer, number in self.layers)

    def all_layers(self) -> list[LayerWork]:
        return [layer for layer, number in self.layers for _ in range(number)]


def work_of(config: ModelConfig, name: str = "model") -> Work:
    """The work of the model that a configuration describes. Equal neighbours share one record."""
    runs: list[tuple[LayerWork, int]] = []
    known: dict[Layer, LayerWork] = {}
    for spec in layer_specs(config):
        layer = known.setdefault(spec, _layer(spec)) if spec not in known else known[spec]
        if runs and runs[-1][0] == layer:
            runs[-1] = (layer, runs[-1][1] + 1)
        else:
            runs.append((layer, 1))
    width = config.hidden_size
    places = config.max_position_embeddings * width if config.positions == "learned" else 0
    return Work(
        name=name,
        width=width,
        vocabulary=config.vocab_size,
        layers=tuple(runs),
        tied=config.tie_word_embeddings,
        input_only=places + len(config.ngram_sizes) * config.ngram_vocab_size * width,
        exit_other=count(final_norm(config)),
        counted=totals(config),
        context=config.max_position_embeddings,
        by_kind=tuple((kind, found.total) for kind, found in count_by_kind(config).items() if found.total),
    )


def _layer(spec: Layer) -> LayerWork:
    attention = spec.attention
    products = list(_attention(attention))
    experts, per_token, expert, expert_other = 0, 0, (), 0
    match spec.feed_forward:
        case Dense() as feed_forward:
            products += _feed_forward(feed_forward)
            gated = feed_forward.gated
            other = count(feed_forward)
        case Experts() as mixture:
            gated = mixture.expert.gated
            experts, per_token, expert = mixture.number, mixture.per_token, tuple(_feed_forward(mixture.expert))
            expert_other = count(mixture.expert) - sum(each.size for each in expert)
            products.append(Matmul("router", mixture.hidden_size, mixture.number, "none"))
            other = count(mixture) - mixture.number * count(mixture.expert)
    other += count(attention) + 2 * count(spec.norm) - sum(each.size for each in products)
    return LayerWork(
        dense=tuple(products),
        other=other,
        heads=attention.num_heads,
        key_dim=attention.head_dim,
        value_dim=attention.head_dim,
        kv_heads=attention.num_key_value_heads,
        cached=2 * attention.num_key_value_heads * attention.head_dim,
        window=attention.window,
        gated=gated,
        experts=experts,
        per_token=per_token,
        expert=expert,
        expert_other=expert_other,
        sinks=attention.sinks,
        qk_norm=attention.qk_norm is not None,
    )


def _attention(spec: Attention) -> tuple[Matmul, ...]:
    queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    return (
        Matmul("queries, keys, values", spec.hidden_size, queries + 2 * keys, parts=(queries, keys, keys)),
        Matmul("attention output", queries, spec.hidden_size, "in"),
    )


def _feed_forward(spec: Dense) -> list[Matmul]:
    into = 2 if spec.gated else 1  # gate and up are one product in every fast implementation
    return [
        Matmul("feed-forward in", spec.hidden_size, into * spec.size, parts=into * (spec.size,)),
        Matmul("feed-forward out", spec.size, spec.hidden_size, "in"),
    ]


def deepseek_work(multi_token: bool = False) -> Work:
    """DeepSeek-V3 (671B, latent attention). `multi_token` adds its module that guesses one token further."""
    d = deepseek
    attention = (
        Matmul("queries down", d._WIDTH, d._QUERY_RANK, "none"),
        Matmul("queries up", d._QUERY_RANK, d._HEADS * (d._PLAIN + d._ROTARY)),
        Matmul("keys and values down", d._WIDTH, d._KEY_RANK + d._ROTARY, "none"),
        Matmul("keys and values up", d._KEY_RANK, d._HEADS * (d._PLAIN + d._VALUE)),
        Matmul("attention output", d._HEADS * d._VALUE, d._WIDTH, "in"),
    )

    def gated(size: int) -> tuple[Matmul, ...]:
        return (
            Matmul("feed-forward in", d._WIDTH, 2 * size, parts=(size, size)),
            Matmul("feed-forward out", size, d._WIDTH, "in"),
        )

    seen: dict[str, Any] = {
        "heads": d._HEADS,
        "key_dim": d._PLAIN + d._ROTARY,
        "value_dim": d._VALUE,
        "kv_heads": d._HEADS,
        "cached": d._KEY_RANK + d._ROTARY,
        "window": None,
        "gated": True,
    }
    norms = d._norms()
    dense = LayerWork(dense=(*attention, *gated(d._DENSE)), other=norms, **seen)
    router = Matmul("router", d._WIDTH, d._EXPERTS, "none")
    sparse = LayerWork(
        dense=(*attention, router, *gated(d._EXPERT)),  # the shared expert is a small dense feed-forward
        other=norms + d._EXPERTS,
        experts=d._EXPERTS,
        per_token=d._PER_TOKEN,
        expert=gated(d._EXPERT),
        **seen,
    )
    exact = d.deepseek_v3_totals()
    many = d._LAYERS - d._DENSE_LAYERS + multi_token
    if multi_token:
        more = d.multi_token_prediction() - (d._EXPERTS - d._PER_TOKEN) * sparse.expert_parameters
        exact = Totals(*(a + b for a, b in zip(exact, (d.multi_token_prediction(), more, more), strict=True)))
    return Work(
        name=d.NAME,
        width=d._WIDTH,
        vocabulary=d._VOCABULARY,
        layers=((dense, d._DENSE_LAYERS), (sparse, many)),
        tied=False,
        input_only=0,
        exit_other=d._WIDTH + (math.prod((2, d._WIDTH, d._WIDTH)) + 3 * d._WIDTH if multi_token else 0),
        counted=exact,
        context=131_072,
        by_kind=tuple((kind, found.total) for kind, found in d.deepseek_v3().items() if found.total),
    )


def summed(work: Work) -> int:
    """All learned numbers, added up from the parts: equal to `work.counted.total`."""
    layers = sum(
        (layer.dense_parameters + layer.experts * layer.expert_parameters) * number for layer, number in work.layers
    )
    return layers + work.table * (1 if work.tied else 2) + work.input_only + work.exit_other
