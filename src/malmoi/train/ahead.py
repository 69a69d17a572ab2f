"""Batches made one step ahead, for a GPU: it computes while the processor puts the next rows together.

A batch is a pure function of its number, so making it early changes nothing; one that is made and then not needed (the
run ends, the step is done again in smaller pieces) is forgotten. On a processor this would not pay: a batch takes half
a millisecond beside a step of hundreds, and the thread would take a core from the step.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from malmoi.train.memory import Piece


class Ahead:
    """`take(numbers)` gives the batches of a step and lets a thread make as many more, those of the next one.

    On a machine with a GPU they lie in pinned memory, from which they travel without anybody waiting.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.made: dict[int, Future[Piece]] = {}

    def take(self, numbers: range) -> list[Piece]:
        made = [self.made.get(number) or self.thread.submit(self._make, number) for number in numbers]
        found = [future.result() for future in made]
        following = range(numbers.stop, numbers.stop + len(numbers))
        self.made = {number: self.thread.submit(self._make, number) for number in following}
        return found

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)

    def _make(self, number: int) -> Piece:
        batch = self.batches.batch(number)
        tensors = (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)
        if torch.cuda.is_available():
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        return Piece(*tensors, num_target_tokens=batch.num_target_tokens)
