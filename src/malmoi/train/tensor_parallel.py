"""Tensor and sequence parallelism: the matrices of a layer, and between them the tokens of a row, cut among processes.

Attention and feed-forward are pairs of products with something in between that works on each head or neuron by itself:

    x (all tokens) -> [q k v | gate up: cut by outputs] -> own heads, own neurons -> [o | down: cut by inputs] -> sums

The first product is cut by its outputs and the second by its inputs (Shoeybi et al. 2019, Megatron-LM), so that nothing
has to be exchanged in between; the partial results are added up at the end. In the same exchange the tokens of the row
are dealt out: each process keeps T / tensor of them for the residual stream, the norms, the vocabulary and the loss
(Korthikanti et al. 2022), and they are gathered again before the next pair of products.

What works on single tokens (embedding tables, norms, routers and experts, head) is therefore not cut: each process
applies all of it to its own tokens, and the gradients are added up over the processes afterwards (`is_cut`).

B batch, T tokens, D hidden size
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from malmoi.model.attention import Attention
from malmoi.model.block import Block
from malmoi.model.feedforward import FeedForward
from malmoi.model.gpt import Decoder

TOKENS = 1  # the dimension of (B, T, ...) along which a row is cut


def cut(decoder: Decoder, blocks: list[Block], mesh: DeviceMesh) -> None:
    """Cut the blocks' matrices over a mesh of one axis, and make `decoder` embed only this process's own tokens."""
    for block in blocks:
        parallelize_module(block, mesh, _plan(block))
        _keep_own_heads(block.self_attn, mesh)
    for table in (decoder.embed_tokens, decoder.embed_positions):
        if isinstance(table, nn.Embedding):
            table.register_forward_pre_hook(_own_only(mesh))
    if decoder.embed_ngrams is not None:  # these look back over their neighbours' tokens
        decoder.embed_ngrams.register_forward_hook(_own_result(mesh))


def _own_only(mesh: DeviceMesh) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
    return lambda _module, given: (own_tokens(given[0], mesh),)


def _own_result(mesh: DeviceMesh) -> Callable[[nn.Module, Any, Any], Tensor]:
    return lambda _module, _given, found: own_tokens(found, mesh)


def _plan(block: Block) -> dict[str, ParallelStyle]:
    """Which part of a block is cut how, for torch's `parallelize_module`."""
    # self_attn is called with (x, turn, sight, cache): only x is gathered
    plan: dict[str, ParallelStyle] = {
        "self_attn": PrepareModuleInput(
            input_layouts=(Shard(TOKENS), None, None, None),  # pyright: ignore[reportArgumentType]
            desired_input_layouts=(Replicate(), None, None, None),  # pyright: ignore[reportArgumentType]
        ),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(TOKENS)),
    }
    plan |= {f"self_attn.{name}": ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj")}
    if isinstance(block.mlp, FeedForward):
        plan["mlp"] = PrepareModuleInput(input_layouts=(Shard(TOKENS),), desired_input_layouts=(Replicate(),))
        plan["mlp.up_proj"] = ColwiseParallel()
        plan["mlp.down_proj"] = RowwiseParallel(output_layouts=Shard(TOKENS))
        if block.mlp.gate_proj is not None:
            plan["mlp.gate_proj"] = ColwiseParallel()
    return plan


def _keep_own_heads(attention: Attention, mesh: DeviceMesh) -> None:
    """Tell an attention layer that it has only its share of the heads, and of what belongs to heads."""
    spec, parts = attention.spec, mesh.size()
    attention.spec = dataclasses.replace(
        spec, num_heads=spec.num_heads // parts, num_key_value_heads=spec.num_key_value_heads // parts
    )
    if attention.sinks is not None:
        attention.sinks = nn.Parameter(distribute_tensor(attention.sinks.data, mesh, [Shard(0)]))
        attention.forward = _with_own_sinks(attention)


def _with_own_sinks(attention: Attention) -> Callable[..., Tensor]:
    """The layer's forward pass, reading its own heads' sinks as the plain numbers that its formulas want."""
    inner = attention.forward

    def forward(*given: Any, **named: Any) -> Tensor:
        cut_sinks = attention._parameters["sinks"]
        assert isinstance(cut_sinks, DTensor)
        attention._parameters["sinks"] = cut_sinks.to_local()  # pyright: ignore[reportArgumentType]
        try:
            return inner(*given, **named)
        finally:
            attention._parameters["sinks"] = cut_sinks  # pyright: ignore[reportArgumentType]

    return forward


def own_tokens(tokens: Tensor, mesh: DeviceMesh) -> Tensor:
    """This process's part of (B, T): T / tensor consecutive columns."""
    return tokens.chunk(mesh.size(), dim=TOKENS)[mesh.get_local_rank()]


def is_cut(parameter: Tensor, mesh: DeviceMesh) -> bool:
    """Whether a process of the tensor axis holds only its part; else it holds all and applies it to its own tokens."""
    names = (parameter.device_mesh.mesh_dim_names or ()) if isinstance(parameter, DTensor) else ()
    return any(name in names for name in mesh.mesh_dim_names or ())
