"""Which numbers to compute in: bfloat16 where it is faster on this machine, float32 elsewhere.

Weights and optimizer state are float32 always; bfloat16 is an autocast of the matrix products (Micikevicius et al.
2018, without the loss scaling that float16 would need). `dtype` means:

    float32   everything in float32
    bfloat16  matrix products in bfloat16; refused where the processor has no instructions for it (it would be emulated,
    slowly) auto      on a GPU with bfloat16: bfloat16. On a CPU with AVX512-BF16, AMX or Arm's BF16: bfloat16 from 10
    million
              parameters (below, the casts cost more than the products gain), and for Muon's products at any size
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from malmoi.config import MalmoiError, TrainConfig

WORTH_CASTING = 10_000_000  # parameters


@dataclass(frozen=True, slots=True)
class Precision:
    """What the forward and backward pass compute in, and what Muon's orthogonalisation does."""

    compute: torch.dtype
    muon: torch.dtype
    device_type: str

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a forward pass; a new one for each use."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.compute)


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


def resolve(config: TrainConfig, num_parameters: int, device: torch.device) -> Precision:
    """Apply the rule above. Raises `MalmoiError` for an explicit bfloat16 on a machine without it."""
    fast = has_fast_bfloat16(device)
    if config.dtype == "bfloat16":
        if not fast:
            raise MalmoiError(
                f"dtype: bfloat16 was asked for, but this machine's {device.type} has no instructions for it. "
                f"Use dtype: auto, which takes it where it helps, or float32."
            )
        return Precision(torch.bfloat16, torch.bfloat16, device.type)
    if config.dtype == "float32" or not fast:
        return Precision(torch.float32, torch.float32, device.type)
    large = num_parameters >= WORTH_CASTING or device.type == "cuda"
    return Precision(torch.bfloat16 if large else torch.float32, torch.bfloat16, device.type)
