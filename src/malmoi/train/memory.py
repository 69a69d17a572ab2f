"""When a step does not fit into memory: the same step in smaller pieces.

An optimizer step adds up gradients over micro-batches and divides by all their targets together, so cutting a
micro-batch by rows changes nothing but rounding: half the rows at a time need about half the memory for activations and
take the same number of updates. (Dropout draws other masks for other shapes, and experts balance their load within a
piece; both are equal in distribution, not in bits.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class OutOfMemoryInLearning(Exception):  # noqa: N818  (an event that the loop answers, not an error of a person)
    """The forward or backward pass found no memory; weights and optimizers are untouched, gradients are cleared."""


def is_out_of_memory(error: BaseException) -> bool:
    """Does an exception mean that memory is used up? torch says it in several ways, one a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a batch: all that learning reads."""

    input_ids: Any
    labels: Any
    position_ids: Any
    document_ids: Any
    num_target_tokens: int


def in_pieces(batches: Sequence[Any], pieces: int) -> list[Any]:
    """Each batch cut by rows into `pieces` parts as equal as can be; fewer where it has fewer rows."""
    if pieces == 1:
        return list(batches)
    cut: list[Any] = []
    for batch in batches:
        tensors = (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)
        parts = min(pieces, len(batch.input_ids))
        for rows in zip(*(torch.tensor_split(tensor, parts) for tensor in tensors), strict=True):
            cut.append(Piece(*rows, num_target_tokens=int((rows[1] != -100).sum())))
    return cut
