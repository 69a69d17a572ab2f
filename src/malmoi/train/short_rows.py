"""Short rows first: for the first updates every row is cut into two, so that a batch is as large but half as long.

What a model learns first (which letters, which words follow which) stands within a few tokens; attention over long
rows only costs then. Lengths that grow during a run steady its beginning too (Li, Zhang & He 2022, "The
stability-efficiency dilemma", arXiv:2108.06084). Here one cut is all: the same tokens in the same order, the same
number of them in each update.

B rows, T tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from malmoi.config import TrainConfig
from malmoi.train.memory import Piece
from malmoi.train.schedule import steps_of


def shortened(batches: Sequence[Any], step: int, config: TrainConfig, max_steps: int) -> list[Any]:
    """The batches of update number `step` (0 is the first), their rows cut while `short_rows_steps` last."""
    if config.sequence_length % 2 or step >= steps_of(config.short_rows_steps, max_steps):
        return list(batches)
    return [_cut(batch) for batch in batches]


def _cut(batch: Any) -> Piece:
    """(B, T) -> (2B, T/2). Positions go on counting in the second halves; what they follow is out of their sight."""
    tensors = (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)
    return Piece(
        *(tensor.reshape(2 * tensor.shape[0], -1) for tensor in tensors), num_target_tokens=batch.num_target_tokens
    )
