"""Counted to the last parameter: how many numbers a model learns, of which kind, a token's share, the bytes.

Nothing is built for it. `malmoi.layers.named_tensors` lists every tensor with its shape; here each gets its kind, and
the rest is sums. That takes milliseconds, for 170 trillion parameters as for a million.

**Active** is a word with two meanings, and published numbers use both. Every token is multiplied with the attention,
with *its* experts and with the output table; of the input table it only reads one row. gpt-oss's model card therefore
leaves the input table out of "active" (3.61 of 20.91 billion), Mixtral's announcement counts it in (12.9 of 46.7
billion). `Totals` has both. A tied table is the output table too and counts in both.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from malmoi.config import ModelConfig
from malmoi.layers import named_tensors

Kind = Literal["positional", "attention", "feed_forward", "expert", "norm", "embedding", "head"]
KINDS: tuple[Kind, ...] = ("positional", "attention", "feed_forward", "expert", "norm", "embedding", "head")

# Bits a weight of each way of writing matrices down, and the numbers that share one scale of `scale` bits.
_GROUP = 32
_QUANTISED = {"int8": (8, 16), "int4": (4, 16), "mxfp4": (4, 8)}  # bits of a weight, bits of its group's scale

FORMATS: dict[str, str] = {
    "fp32": "4 bytes for every number",
    "bf16": "2 bytes for every number",
    "int8": "matrices in 8 bits, a 16-bit scale for every 32 weights (8.5 bits a weight); the rest in bf16",
    "int4": "matrices in 4 bits, a 16-bit scale for every 32 weights (4.5 bits a weight); the rest in bf16",
    "mxfp4": "experts' matrices in 4 bits, an 8-bit scale for every 32 weights (4.25 bits a weight, as gpt-oss); "
    "the rest in bf16",
}


class Count(NamedTuple):
    """How many parameters there are, and how many of them one token passes."""

    total: int
    active: int


class Tensor(NamedTuple):
    """Equal tensors of all layers on one line: `model.layers.*.mlp.up_proj.weight`, 12 copies."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    copies: int
    parameters: int  # of all copies
    active: int
    matrix: bool  # a weight matrix or a stack of them; otherwise a bias, a norm or attention sinks


class Totals(NamedTuple):
    """A model's parameters, and both meanings of the active ones."""

    total: int
    active: int
    active_without_input_embedding: int


def kind_of(name: str) -> Kind:
    """The kind of a learned tensor by its name in the model.

    `norm` includes the norms of queries and keys; `expert` includes the router, which exists only where experts do;
    `attention` includes sinks; `embedding` includes tables of n-grams.
    """
    if name.startswith("lm_head."):
        return "head"
    if name.startswith("model.embed_"):
        return "positional" if ".embed_positions." in name else "embedding"
    if "norm" in name:
        return "norm"
    if ".self_attn." in name:
        return "attention"
    return "expert" if ".mlp.gate." in name or ".mlp.experts." in name else "feed_forward"


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Every learned tensor, those that are equal in all layers on one line, in the order of the model."""
    copies: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, shape in named_tensors(config):
        key = (re.sub(r"\.layers\.\d+\.", ".layers.*.", name), shape)
        copies[key] = copies.get(key, 0) + 1
    listed = []
    for (name, shape), number in copies.items():
        size = math.prod(shape) * number
        one_of_many = ".mlp.experts." in name
        used = size // config.num_experts * config.num_experts_per_tok if one_of_many else size
        matrix = len(shape) > 1 and not name.endswith("bias")
        listed.append(Tensor(name, shape, kind_of(name), number, size, used, matrix))
    return tuple(listed)


def count_by_kind(config: ModelConfig) -> dict[Kind, Count]:
    """Total and active parameters of each kind; a kind that the model lacks counts zero.

    A tied output table is the embedding itself: it counts under `embedding`, and `head` is zero.
    """
    counts = dict.fromkeys(KINDS, Count(0, 0))
    for tensor in tensors(config):
        total, active = counts[tensor.kind]
        counts[tensor.kind] = Count(total + tensor.parameters, active + tensor.active)
    return counts


def totals(config: ModelConfig) -> Totals:
    """The sums over all kinds. See this module's text for the two meanings of "active"."""
    counts = count_by_kind(config)
    active = sum(count.active for count in counts.values())
    table = config.vocab_size * config.hidden_size
    only_read = counts["embedding"].active - (table if config.tie_word_embeddings else 0)
    return Totals(sum(count.total for count in counts.values()), active, active - only_read)


def storage(config: ModelConfig) -> dict[str, int]:
    """Bytes of the weights alone in each of `FORMATS`; "mxfp4" only where there are experts.

    Groups of 32 lie along a matrix's rows; a row's last group may be shorter and still has its scale. int8 and int4 are
    what llama.cpp calls Q8_0 and Q4_0, for every matrix, the tables of tokens included.
    """
    listed = tensors(config)
    total = sum(tensor.parameters for tensor in listed)
    sizes = {"fp32": 4 * total, "bf16": 2 * total}
    for name, (bits, scale) in _QUANTISED.items():
        chosen = [tensor for tensor in listed if tensor.matrix]
        if name == "mxfp4":
            chosen = [tensor for tensor in chosen if ".mlp.experts." in tensor.name]
        rest = total - sum(tensor.parameters for tensor in chosen)
        if chosen:
            sizes[name] = 2 * rest + sum(_packed(tensor, bits, scale) for tensor in chosen)
    return sizes


def _packed(tensor: Tensor, bits: int, scale: int) -> int:
    row = tensor.shape[-1]
    groups = -(-row // _GROUP)
    return tensor.parameters // row * -(-(row * bits + groups * scale) // 8)
