"""The loss: how surprised the model is by the next token, without ever holding all the logits.

For 8,192 tokens and a vocabulary of 32,000 the logits are one gigabyte, and a plain cross-entropy holds them three
times (logits, log-probabilities, gradient). Here the head, the softmax and their gradients are worked out for a few
hundred tokens at a time: the chunk's logits become its probabilities and then its gradient in place, the gradient is at
once multiplied out into those of hidden states and head, and the chunk is forgotten. Nothing is computed twice; memory
is one chunk.

Sums, not means, are returned: a step that gathers several batches must divide by all their real targets together.

N real targets, C of them in a chunk, D hidden size, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmoi.model import fused

IGNORED = -100
TINY = 1e-30  # a probability below it is not read off the softmax
CHUNK_NUMBERS = 1 << 22  # logits worked on at a time: 16 MiB in fp32, near a desktop processor's cache
CHUNK_IN_PLACE = 1 << 25  # where one pass makes gradients of them: longer products pay, 64 MiB in bfloat16


def cross_entropy(
    model: Any, batch: Any, device: torch.device | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, int]:
    """Sum of -log p(target) in nats over the real targets of a batch, and how many those are.

    `batch` has `input_ids`, `labels` (already aligned: labels[t] is what follows position t; -100: none),
    `position_ids` and `document_ids`, each (B, T). The sum is a scalar that can be differentiated.
    """
    ids, labels, positions, documents = (
        tensor.to(device or tensor.device, non_blocking=True)
        for tensor in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)
    )
    hidden = model.hidden_states(ids, position_ids=positions, document_ids=documents)
    return token_cross_entropy(hidden, labels, model.lm_head, label_smoothing)


def token_cross_entropy(hidden: Tensor, labels: Tensor, head: Any, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
    """The same from hidden states (B, T, D) and aligned labels (B, T); `head` turns (C, D) into logits (C, V).

    With `label_smoothing` (Szegedy et al. 2016, section 7) that share of each target is spread evenly over the whole
    vocabulary. Only the gradient knows of it: the value is the plain loss, which stays comparable between runs.
    """
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    real = labels != IGNORED
    count = int(real.sum())
    if count < labels.numel():  # what is not a target costs nothing below
        hidden, labels = hidden[real], labels[real]
    plain = isinstance(head, nn.Linear) and head.bias is None and not head._forward_hooks
    if plain:
        dtype = _compute_dtype(hidden)
        total = _LinearCrossEntropy.apply(hidden.to(dtype), head.weight.to(dtype), labels, label_smoothing)
        return total, count  # type: ignore[return-value]
    total = hidden.new_zeros((), dtype=torch.float32)
    for chunk, targets in zip(hidden.split(1024), labels.split(1024), strict=True):
        logits = head(chunk).float()
        nats = F.cross_entropy(logits, targets, reduction="sum")
        if label_smoothing:
            learned = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
            nats = learned + (nats - learned).detach()  # the value of one, the gradient of the other
        total = total + nats
    return total, count


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    """Head and cross-entropy in one: hidden (N, D), weight (V, D), labels (N) -> the summed loss.

    `smoothing` is in the gradient alone; the value is the plain loss.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        weight_grad: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        in_place = (wants_hidden or wants_weight) and fused.compiled(hidden, weight)
        rows = max(256, (CHUNK_IN_PLACE if in_place else CHUNK_NUMBERS) // weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                part = slice(start, start + rows)
                targets = labels[part].unsqueeze(1)  # (C, 1)
                logits = torch.mm(hidden[part], weight.t())  # (C, V)
                if in_place:
                    total += fused.surprise(logits, labels[part], smoothing).sum()
                    slope = logits
                    if hidden_grad is not None:
                        torch.mm(slope, weight, out=hidden_grad[part])
                    if wants_weight:
                        weight_grad = _accumulate(weight_grad, slope, hidden[part])
                    continue
                logits = logits.float()
                if not wants_hidden and not wants_weight:
                    total += _surprise(logits, targets).sum()
                    continue
                slope = torch.softmax(logits, dim=1)
                chance = slope.gather(1, targets)
                rounded_off = bool((chance < TINY).any())  # its logarithm would be wrong or infinite
                total += (_surprise(logits, targets) if rounded_off else chance.log().neg()).sum()
                slope.scatter_add_(
                    1, targets, slope.new_full((), smoothing - 1.0).expand_as(targets)
                )  # minus the truth
                if smoothing:
                    slope -= smoothing / weight.shape[0]
                slope = slope.to(hidden.dtype)
                if hidden_grad is not None:
                    torch.mm(slope, weight, out=hidden_grad[part])
                if wants_weight:
                    weight_grad = _accumulate(weight_grad, slope, hidden[part])
        ctx.gradients, ctx.weight_dtype = (hidden_grad, weight_grad), weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (scale,) = gradients
        if ctx.gradients is None:
            raise RuntimeError("The gradients of this loss were taken already; they are scaled in place, once.")
        (hidden_grad, weight_grad), ctx.gradients = ctx.gradients, None
        return (
            None if hidden_grad is None else hidden_grad.mul_(scale),
            None if weight_grad is None else weight_grad.mul_(scale).to(ctx.weight_dtype),
            None,
            None,
        )


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of the targets (C, 1) from logits (C, V), however small p is."""
    return torch.logsumexp(logits, dim=1, keepdim=True) - logits.gather(1, targets)


def _accumulate(total: Tensor | None, slope: Tensor, hidden: Tensor) -> Tensor:
    """Add slope^T (V, C) x hidden (C, D) to the head's gradient (V, D): a float32 sum, whatever the product is in."""
    if total is None:
        return torch.mm(slope.t(), hidden).float()
    if slope.dtype == torch.float32:
        return total.addmm_(slope.t(), hidden)
    return total.add_(torch.mm(slope.t(), hidden))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model scores on text that it does not learn from."""

    loss: float  # nats per token
    bits_per_byte: float | None  # comparable between tokenizers; None where the batches do not count bytes
    tokens: int


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Bits that an ideal compressor led by this model would spend on each byte of UTF-8: total nats / ln 2 / bytes."""
    return nats / math.log(2) / num_bytes


@torch.no_grad()
def evaluate(
    model: Any, batches: Iterable[Any], autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> HeldOut:
    """Mean loss over all real targets of the batches, dropout off. The model's mode is left as it was found."""
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    total, tokens, num_bytes = 0.0, 0, 0
    counted = True
    try:
        for batch in batches:
            with autocast(), fused.measuring():
                nats, count = cross_entropy(model, batch, device)
            total += float(nats)
            tokens += count
            size = getattr(batch, "num_bytes", None)
            counted = counted and size is not None
            num_bytes += size or 0
    finally:
        model.train(was_training)
    loss = total / tokens if tokens else math.nan
    return HeldOut(loss, bits_per_byte(total, num_bytes) if counted and num_bytes else None, tokens)


def first_tokens(held_out: Any, tokens: int) -> list[Any]:
    """The batches to evaluate on, always the same ones: whole batches until they hold `tokens` targets.

    `held_out` is None, an iterable of batches, or an object with `batch(i)` and `steps_per_epoch(0)`.
    """
    if held_out is None:
        return []
    given = map(held_out.batch, range(held_out.steps_per_epoch(0))) if hasattr(held_out, "batch") else held_out
    chosen: list[Any] = []
    for batch in given:
        chosen.append(batch)
        tokens -= batch.num_target_tokens
        if tokens <= 0:
            break
    return chosen
