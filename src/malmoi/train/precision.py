"""Which numbers to compute in: bfloat16 where it is faster on this machine, float32 elsewhere.

Weights, their gradients' sum and optimizer state are float32 always. In bfloat16 the forward and backward pass read a
rounded copy of the weights (Micikevicius et al. 2018, without the loss scaling that float16 would need):

- on a GPU through torch's autocast;
- on a CPU through a *working copy* of the model whose hidden matrices and norms are bfloat16, so that activations are
  too and nothing is cast between layers (autocast casts at every layer, which at a million parameters costs more than
  the faster products gain). The embedding table is not copied: it stays the model's own, in float32, because thousands
  of small gradients are added up in a row of it, and a bfloat16 sum would lose them.

`dtype` means:

    float32   everything in float32
    bfloat16  as above; refused where the processor has no instructions for it (it would be emulated, slowly)
    auto      bfloat16 on a GPU that has it and on a CPU with AVX512-BF16, AMX or Arm's BF16; float32 elsewhere

With `torch_compile` the blocks of the module that learns are compiled. That module is then always a second one over the
same weights, so that the model itself stays as it was for everything else: writing texts, being watched, being saved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from malmoi.config import MalmoiError, TrainConfig
from malmoi.model.block import Block

COMPILER = "inductor"  # torch's own; blocks are alike, so they share what it makes of the first one


@dataclass(frozen=True, slots=True)
class Precision:
    """What the forward and backward pass compute in, and what Muon's orthogonalisation does."""

    compute: torch.dtype
    muon: torch.dtype
    device_type: str
    torch_compile: bool = False
    copies: WeakKeyDictionary[nn.Module, nn.Module] = field(default_factory=WeakKeyDictionary, repr=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a forward pass; a new one for each use."""
        if self.compute == torch.float32 or self.device_type == "cpu":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.compute)

    def working(self, model: nn.Module) -> nn.Module:
        """The module to run forward: the model, or its working copy with the weights as they are now."""
        rounded = self.compute != torch.float32 and self.device_type == "cpu"
        if not rounded and not self.torch_compile:
            return model
        if model not in self.copies:
            work = working_copy(model, self.compute) if rounded else copy_over(model, model.parameters())
            if self.torch_compile:
                compile_blocks(work)
            self.copies[model] = work
        work = self.copies[model]
        with torch.no_grad():
            for ours, theirs in copied_parameters(model, work):
                theirs.copy_(ours)
        return work.train(model.training)

    def gather(self, model: nn.Module, work: nn.Module) -> None:
        """Add the working copy's gradients to the model's and clear them; after each backward pass."""
        for ours, theirs in copied_parameters(model, work):
            if theirs.grad is None:
                continue
            if ours.grad is None:
                ours.grad = theirs.grad.to(ours.dtype)
            else:
                ours.grad.add_(theirs.grad)
            theirs.grad = None

    def forget_gradients(self, model: nn.Module) -> None:
        """Clear what a step that broke off left in the working copy."""
        if model in self.copies:
            for _, theirs in copied_parameters(model, self.copies[model]):
                theirs.grad = None


def copy_over(model: nn.Module, parameters: Iterable[torch.Tensor]) -> nn.Module:
    """A second module that shares these of the model's parameters and has its own of the others, without gradients."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in parameters}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # not to be copied
    work = copy.deepcopy(model, shared)
    for parameter, gradient in gradients:
        parameter.grad = gradient
    return work


def compile_blocks(module: nn.Module) -> None:
    """From its next forward pass on every block is compiled; parameters and their names stay what they are."""
    for block in module.modules():
        if isinstance(block, Block):
            block.compile(backend=COMPILER)


def working_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A second module over the same weights: embedding tables shared, everything else rounded to `dtype`."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    work, shared = copy_over(model, tables), {id(table) for table in tables}
    for module in work.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))
    for parameter in work.parameters():
        if id(parameter) not in shared:
            parameter.data = parameter.data.to(dtype)
    return work


def copied_parameters(model: nn.Module, work: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(model's, copy's) for every parameter that the two do not share."""
    pairs = zip(model.parameters(), work.parameters(), strict=True)
    return [(ours, theirs) for ours, theirs in pairs if ours is not theirs]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Does the device multiply bfloat16 in hardware?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch >= 2.10
    if any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")):
        return True
    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(probe() for probe in probes if probe is not None)


def resolve(config: TrainConfig, device: torch.device) -> Precision:
    """Apply the rule above. Raises `MalmoiError` for an explicit bfloat16 on a machine without it."""
    fast = has_fast_bfloat16(device)
    if config.dtype == "bfloat16" and not fast:
        raise MalmoiError(
            f"dtype: bfloat16 was asked for, but this machine's {device.type} has no instructions for it. "
            f"Use dtype: auto, which takes it where it helps, or float32."
        )
    dtype = torch.bfloat16 if fast and config.dtype != "float32" else torch.float32
    return Precision(dtype, dtype, device.type, config.torch_compile)
