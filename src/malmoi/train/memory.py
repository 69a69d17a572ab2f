"""When a step does not fit into memory: the same step in smaller pieces.

An optimizer step adds up gradients over micro-batches and divides by all their targets together, so cutting a
micro-batch by rows changes nothing but rounding: half the rows at a time need about half the memory for activations and
take the same number of updates. (Dropout draws other masks for other shapes, and experts balance their load within a
piece; both are equal in distribution, not in bits.)
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.progress import Progress

T = TypeVar("T")

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


def within_memory(learn: Callable[[], T], config: TrainConfig, progress: Progress, halved: Callable[..., None]) -> T:
    """`learn()`; where memory does not suffice, the same with twice as many pieces (`progress.pieces`), and so on.

    `halved` is told each time: the step, pieces, rows of a piece and pieces of a step. Raises `MalmoiError` where a
    piece is a single row, or where several processes would have to agree.
    """
    while True:
        try:
            return learn()
        except OutOfMemoryInLearning as error:
            progress.pieces *= 2
            rows = config.per_device_train_batch_size // progress.pieces
            if rows < 1 or (torch.distributed.is_available() and torch.distributed.is_initialized()):
                raise MalmoiError(
                    f"There is not enough memory for one step, and its batches cannot be cut further ({error}). Try a "
                    "smaller per_device_train_batch_size (with more gradient_accumulation_steps), a smaller "
                    "sequence_length, or a smaller model."
                ) from error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            steps = config.gradient_accumulation_steps * progress.pieces
            halved(step=progress.step + 1, pieces=progress.pieces, rows=rows, steps=steps)


def keep_memory() -> bool:
    """Let the C library keep what is freed, in one heap that only grows, on Linux with glibc.

    A step asks for the same hundred tensors again and again. By default glibc takes each large one from the system and
    gives it back, and the system clears it, 4 KiB at a time (docs/results/train.md has what that costs). What is freed
    stays with the process, which suits one that trains and then ends. False: not done, nothing has changed.
    `MALMOI_KEEP_MEMORY=0` in the environment leaves it out, for comparison.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MALMOI_KEEP_MEMORY") == "0":
        return False
    c = ctypes.CDLL(None)
    if not hasattr(c, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_max, never = -1, -4, -1  # glibc's names for what mallopt changes
    return bool(c.mallopt(mmap_max, 0) and c.mallopt(trim_threshold, never))
