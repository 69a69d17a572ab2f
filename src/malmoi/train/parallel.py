"""A finished model changed from outside so that many processes share it, in one order that is the same for every job:

    1  pipeline     keep only this process's layers                         (pipeline_parallel.py)
    2  experts      keep only this process's experts; tokens travel         (expert_parallel.py)
    3  tensor       cut the matrices of the layers that are left            (tensor_parallel.py)
    4  recompute    forget activations that the way back can make again
    5  shard        slice every weight that is left over the processes that read other rows (FSDP2), copies included

Each step works on what the one before left, and none of them changes what is computed: losses and weights are those of
one process up to the rounding of sums. The model's code knows nothing of this.

Sharding is always applied, on a grid of (replicate, shard) that may be 1 x 1: one way for gradients to be added up.
What FSDP does not know of is added up in `Parts.sync`: tensors that the tensor axis holds whole, experts that live on
one process in several, and an embedding table that two ends of a pipeline share.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from malmoi.config import ParallelConfig
from malmoi.model.block import Block
from malmoi.model.experts import Experts
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train import expert_parallel, tensor_parallel
from malmoi.train.layout import Layout
from malmoi.train.pipeline_parallel import Stage, split

AXES = ("pipeline", "replicate", "outer", "expert", "tensor")  # outer x expert = shard
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
DEAR = (  # what selective recomputation keeps: the products with weights, and attention where one kernel does it
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
)


@dataclass
class Parts:
    """What a process holds of a model after `parallelize`."""

    model: GPT4LMHeadModel  # cut down; its parameters have the names of the whole model's
    stages: dict[int, Stage]
    mesh: DeviceMesh
    grid: Layout
    experts: set[str] = field(default_factory=set)  # names of parameters cut over the expert axis
    whole: set[str] = field(default_factory=set)  # names of those that every process of the tensor axis holds whole
    tie: Any = None  # the group of the two processes that hold one embedding table

    def group(self, *axes: str) -> Any:
        """The processes that differ from this one along these axes only."""
        return axis(self.mesh, *axes).get_group()

    def saved_name(self, name: str) -> str:
        """A parameter's name in the whole model: a tied head is the embedding table."""
        return TABLE if name == HEAD and self.model.config.tie_word_embeddings else name

    @torch.no_grad()
    def sync(self) -> None:
        """Add up the gradients that FSDP leaves partial. Afterwards each is that of the whole batch."""
        named = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for parameter in named.values():
            if parameter.grad is None:  # an expert that nobody chose, on this process
                parameter.grad = torch.zeros_like(parameter)
        gradients = {name: local(parameter.grad) for name, parameter in named.items() if parameter.grad is not None}
        experts = [gradients[name] for name in gradients if name in self.experts]
        _add_up(experts, self.group("replicate", "outer", "tensor"))
        if self.grid.tensor > 1:
            _add_up([g for name, g in gradients.items() if name in self.whole - self.experts], self.group("tensor"))
        if self.tie is not None:
            shared = [gradients[name] for name in (TABLE, HEAD) if name in gradients]
            _add_up(shared, self.tie)

    def reshard(self) -> None:
        """Let go of gathered weights, as after a way back; a measurement has none."""
        for stage in self.stages.values():
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def share(self, name: str, parameter: Tensor) -> float:
        """1 / (how many processes of the job hold each number of this tensor).

        Sums over parameters are taken on every process, weighted by this, and added up over all of them.
        """
        parts = 1
        if isinstance(parameter, DTensor):
            for dim, place in enumerate(parameter.placements):
                parts *= 1 if place.is_replicate() else parameter.device_mesh.size(dim)
        parts *= self.grid.expert if name in self.experts else 1
        holders = self.grid.rows * self.grid.tensor / parts
        return 1 / (holders * (2 if self.tie is not None and name in (TABLE, HEAD) else 1))

    def as_sharded(self, name: str, parameter: Tensor, numbers: Tensor) -> Tensor:
        """`numbers`, which lie as this process's part of `parameter` does, as a part of the whole tensor."""
        if isinstance(parameter, DTensor):
            mesh, places, shape = parameter.device_mesh, parameter.placements, parameter.shape
        elif name in self.experts:
            mesh, places = self.mesh["expert"], (Shard(0),)
            shape = torch.Size((numbers.shape[0] * self.grid.expert, *numbers.shape[1:]))
        else:
            return numbers
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(numbers, mesh, places, run_check=False, shape=shape, stride=stride)


def local(tensor: Tensor) -> Tensor:
    """The numbers that this process holds, as a plain tensor over the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _add_up(tensors: list[Tensor], group: Any) -> None:
    """All-reduce in one exchange."""
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors or dist.get_world_size(group) == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat, group=group)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def build_mesh(grid: Layout, device_type: str) -> DeviceMesh:
    """The processes as a grid with the axes `AXES`; the derived axes `axis` asks for are made here, once, by all."""
    sizes = (grid.pipeline, grid.replicate, grid.shard // grid.expert, grid.expert, grid.tensor)
    mesh = init_device_mesh(device_type, sizes, mesh_dim_names=AXES)
    for axes in (("outer", "expert"), ("replicate", "outer", "tensor"), AXES[1:]):
        axis(mesh, *axes)
    return mesh


def axis(mesh: DeviceMesh, *axes: str) -> DeviceMesh:
    """One axis, or several laid end to end as one."""
    if len(axes) == 1:
        return mesh[axes[0]]
    return mesh[axes]._flatten("_".join(axes))


def parallelize(
    model: GPT4LMHeadModel,
    grid: Layout,
    parallel: ParallelConfig,
    mesh: DeviceMesh,
    dtype: torch.dtype = torch.float32,
) -> Parts:
    """Change `model` in place as the head of this file says; `dtype` is what is computed in. All processes must call it
    with the same weights.
    """
    balance = None
    if model.config.num_experts:
        balance = expert_parallel.Balance(axis(mesh, *AXES[1:]).get_group())
    parts = Parts(model, split(model, grid, mesh["pipeline"].get_local_rank(), balance), mesh, grid)
    parts.tie = _tie(model, grid, mesh)
    blocks = [block for stage in parts.stages.values() for block in stage.blocks()]
    mixtures = [block.mlp for block in blocks if isinstance(block.mlp, Experts)]
    own = set()
    for layer in mixtures if grid.expert > 1 else ():
        own |= set(expert_parallel.cut(layer, mesh["expert"]))
    if balance is not None:
        for layer in mixtures:
            balance.watch(layer)
    if grid.tensor > 1:
        for stage in parts.stages.values():
            tensor_parallel.cut(stage.decoder, stage.blocks(), mesh["tensor"])
    named = dict(model.named_parameters())
    parts.experts = {name for name, parameter in named.items() if parameter in own}
    parts.whole = {name for name, parameter in named.items() if not tensor_parallel.is_cut(parameter, mesh["tensor"])}
    for block in blocks:
        recompute(block, parallel.activation_checkpointing)
    _shard(parts.stages.values(), own, mesh, dtype)
    return parts


def _tie(model: GPT4LMHeadModel, grid: Layout, mesh: DeviceMesh) -> Any:
    """The group of the pipeline's two ends, where they share a table and this process is one of them."""
    if not model.config.tie_word_embeddings or grid.pipeline == 1:
        return None
    found, size = None, grid.rows * grid.tensor
    for place in range(size):  # every process must take part in making every group
        ends = [place, (grid.pipeline - 1) * size + place]
        group = dist.new_group(ends)
        found = group if mesh.get_rank() in ends else found
    return found


def recompute(block: Block, how: str) -> None:
    """Let the way back compute a block's activations a second time instead of keeping them."""
    if how == "none":
        return
    more: dict[str, Any] = {}
    if how == "selective":
        more["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_the_dear)
    block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **more)


def _keep_the_dear(_context: Any, operation: Any, *_given: Any, **_named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in DEAR else CheckpointPolicy.PREFER_RECOMPUTE


def _rows_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The grid (replicate, shard) of the processes that read different rows."""
    if mesh["expert"].size() == 1:
        return mesh["replicate", "outer"]
    axis(mesh, "outer", "expert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a derived axis beside an original one is asked for by name, which will change
        return mesh["replicate", "outer_expert"]


def _shard(stages: Iterable[Stage], apart: set[nn.Parameter], mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Slice weights over the shard axis: gathered for one block at a time, gradients added up over all rows."""
    rounded = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    how: dict[str, Any] = {
        "mesh": _rows_mesh(mesh),
        "mp_policy": rounded,
        "ignored_params": apart,
    }
    for stage in stages:
        for block in stage.blocks():
            fully_shard(block, **how)
        fully_shard(stage, **how)
        for module in stage.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)  # the loss is divided by the whole batch's targets already
