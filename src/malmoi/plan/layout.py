"""How a training is cut over devices: the sizes of all axes, and the rules by which they must divide.

    data      other rows of the batch (ZeRO stage: what of the states is sliced over these devices)
    tensor    each matrix cut; with `sequence_parallel` the tokens between matrices too
    pipeline  consecutive layers; `interleave` pieces of them on each device shorten the wait
    context   each row of tokens cut
    expert    experts dealt out over data x context x tensor neighbours

The product of data, tensor, pipeline and context is the number of devices. Those that talk most (tensor, then context,
then data) are neighbours in one node; pipeline stages lie farthest apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from malmoi.config import MalmoiError
from malmoi.plan.work import Work

Recompute = Literal["none", "selective", "full"]
Overlap = Literal["none", "data", "tensor", "expert"]
OVERLAPS: tuple[Overlap, ...] = ("none", "data", "tensor", "expert")
Precision = Literal["fp32", "fp16", "bf16", "fp8"]
MOST_TOKENS = 1e18


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained with: everything of a run that is not the model, the machine or the layout.

    `scores`: attention writes its table of scores (before FlashAttention, 2022). `overlap`: what communication the
    software hides behind computing; each word includes those before it. `recipe`: "mixed" keeps 16-bit weights beside
    fp32 ones in the optimizer (Megatron), "autocast" fp32 weights and gradients alone (our own loop, torch.autocast).
    """

    batch: int  # rows of an update, all devices together
    sequence: int
    precision: Precision = "bf16"
    optimizer: Literal["adamw", "muon"] = "adamw"
    scores: bool = False
    dropout: bool = False
    overlap: Overlap = "tensor"
    gradient_bytes: int = 4
    lora_rank: int = 0  # 0: all weights learn
    recipe: Literal["mixed", "autocast"] = "mixed"

    @property
    def tokens(self) -> int:
        """Of one update."""
        return self.batch * self.sequence

    def hides(self, what: Overlap) -> bool:
        """Is this kind of communication behind computing?"""
        return OVERLAPS.index(self.overlap) >= OVERLAPS.index(what)

    @property
    def bytes(self) -> int:
        """Of an activation."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes of the axes, rows at a time, and what is computed twice."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    interleave: int = 1
    context: int = 1
    expert: int = 1
    zero: int = 1
    micro_batch: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"

    @property
    def devices(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    def pieces(self, training: Training) -> int:
        """Micro-batches of an update on one device."""
        return max(training.batch // (self.data * self.micro_batch), 1)

    def __str__(self) -> str:
        words = [f"data {self.data} (ZeRO-{self.zero})"]
        words += [f"tensor {self.tensor}{' + sequence' if self.sequence_parallel else ''}"] if self.tensor > 1 else []
        turns = f" x {self.interleave} interleaved" if self.interleave > 1 else ""
        words += [f"pipeline {self.pipeline}{turns}"] if self.pipeline > 1 else []
        words += [f"context {self.context}"] if self.context > 1 else []
        words += [f"expert {self.expert}"] if self.expert > 1 else []
        words += [f"micro-batch {self.micro_batch}", f"recompute {self.recompute}"]
        return ", ".join(words)


def check(layout: Layout, work: Work, training: Training, devices: int | None = None) -> None:
    """Raise `MalmoiError`, naming the two numbers, where a layout does not divide what it cuts."""
    if devices is not None and layout.devices != devices:
        raise MalmoiError(
            f"data {layout.data} x tensor {layout.tensor} x pipeline {layout.pipeline} x context {layout.context} = "
            f"{layout.devices} devices, but there are {devices}. Make the product equal."
        )
    layer = work.layers[-1][0]
    _divides("tensor", layout.tensor, "attention heads", layer.heads)
    kv, tensor = layer.kv_heads, layout.tensor
    if kv % tensor and tensor % kv:
        _divides("tensor", tensor, "key/value heads", kv)
    if layout.interleave > 1 and layout.pipeline == 1:
        raise MalmoiError(f"interleave = {layout.interleave} needs a pipeline of more than one stage.")
    stages = layout.pipeline * layout.interleave
    if stages > work.depth:
        raise MalmoiError(f"pipeline x interleave = {stages} is more than the model's {work.depth} layers.")
    if layout.interleave > 1:
        _divides("pipeline x interleave", stages, "layers", work.depth)
        _divides("pipeline (interleaved)", layout.pipeline, "micro-batches of an update", layout.pieces(training))
    _divides("data x micro-batch", layout.data * layout.micro_batch, "the batch's rows", training.batch)
    _divides("context", layout.context, "the sequence length", training.sequence)
    if layout.expert > 1 and not work.has_experts:
        raise MalmoiError(f"expert = {layout.expert}, but {work.name} has no experts.")
    if work.has_experts:
        _divides("expert", layout.expert, "experts", layer.experts)
        _divides("expert", layout.expert, "data x context x tensor", layout.data * layout.context * layout.tensor)


def _divides(axis: str, parts: int, what: str, whole: int) -> None:
    if parts < 1 or whole % parts:
        fitting = [number for number in range(1, min(whole, 4096) + 1) if whole % number == 0]
        near = sorted(sorted(fitting, key=lambda number: abs(number - parts))[:3])
        raise MalmoiError(f"{axis} = {parts} does not divide {what} = {whole}. Near it would do: {near}.")


def divisors(whole: int) -> list[int]:
    """All of them, ascending."""
    small = [number for number in range(1, int(whole**0.5) + 1) if whole % number == 0]
    return sorted({*small, *(whole // number for number in small)})
