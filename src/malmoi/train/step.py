"""One step: batches in, new weights and a loss out. The whole of learning stands in this file.

The loop calls nothing but this function to learn, so another implementation of it (a fused native program, say) can
take its place: it must leave the weights, the optimizer state and the result that this one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.train.loss import cross_entropy
from malmoi.train.memory import OutOfMemoryInLearning, is_out_of_memory
from malmoi.train.optimizer import Optimizers
from malmoi.train.precision import Precision


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step saw."""

    loss: float  # mean over the real targets, nats
    grad_norm: float  # of all gradients together, before clipping
    targets: int  # real targets learned from
    tokens: int  # positions read: targets, what is only given, padding
    applied: bool  # False: not finite, a spike, or no target; weights and optimizers are untouched


StepFunction = Callable[..., StepResult]  # with optimizer_step's signature


def optimizer_step(
    model: Any,
    optimizer: Optimizers,
    micro_batches: Sequence[Any],
    *,
    learning_rate_factor: float,
    max_grad_norm: float,
    precision: Precision,
    seed: int,
    step: int,
    loss_limit: float = math.inf,
    label_smoothing: float = 0.0,
) -> StepResult:
    """Accumulate the gradients of `micro_batches`, clip, update.

    The loss is divided by the real targets of all micro-batches together, so that cutting a batch into pieces changes
    nothing but rounding, however unevenly the targets fall. Dropout draws from (seed, step, micro-batch). A loss above
    `loss_limit` or one that is not finite leaves weights and optimizers as they are.

    Raises `OutOfMemoryInLearning` when forward or backward find no memory, `MalmoiError` when the compiler that
    `torch_compile` asks for fails: nothing has changed then.
    """
    targets = sum(batch.num_target_tokens for batch in micro_batches)
    try:
        loss = gather_gradients(model, micro_batches, targets, precision, (seed, step), label_smoothing)
    except Exception as error:
        optimizer.zero_grad()
        precision.forget_gradients(model)
        if precision.torch_compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            why = " ".join(str(error).strip().splitlines()[:2])  # the second line is what the first one announces
            raise MalmoiError(
                f"train.torch_compile: torch's compiler could not do it here ({why}). "
                f"Set it to false: the same is computed without it, only slower on a GPU."
            ) from error
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryInLearning(str(error)) from error
    norm = optimizer.grad_norm()
    mean, grad_norm = torch.stack([loss, norm]).tolist()  # the step's one wait for the device
    applied = math.isfinite(mean) and math.isfinite(grad_norm) and mean <= loss_limit and targets > 0
    if applied:
        if max_grad_norm and grad_norm > max_grad_norm:
            optimizer.scale_gradients(max_grad_norm / (grad_norm + 1e-6))
        optimizer.set_learning_rate_factor(learning_rate_factor)
        optimizer.step()
    optimizer.zero_grad()
    tokens = sum(batch.input_ids.numel() for batch in micro_batches)
    return StepResult(mean, grad_norm, targets, tokens, applied)


def gather_gradients(
    model: Any,
    micro_batches: Sequence[Any],
    targets: int,
    precision: Precision,
    place: tuple[int, int],
    label_smoothing: float,
) -> torch.Tensor:
    """Forward and backward over all micro-batches: gradients in the parameters, the mean loss as a scalar tensor."""
    device = next(iter(model.parameters())).device
    loss = torch.zeros((), device=device)
    seed, step = place
    work: Any = precision.working(model)
    for index, batch in enumerate(micro_batches):
        seed_torch(device, randomness.key(seed, "dropout", step, index))
        with precision.autocast():
            nats, count = cross_entropy(work, batch, device, label_smoothing)
        part = nats / max(targets, 1)
        balance = work.auxiliary_loss() if hasattr(work, "auxiliary_loss") else None
        objective = part if balance is None else part + balance * (count / max(targets, 1))
        objective.backward()
        precision.gather(model, work)
        loss += part.detach()
    return loss


def seed_torch(device: torch.device, seed: int) -> None:
    """Set the generators that a step on this device draws from.

    `torch.manual_seed` sets those of every kind of device, also of kinds that are not there, and notes for each who
    asked: a third of a millisecond, where this takes a microsecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).manual_seed(seed)
