"""A decode step whose tensors always lie in the same places, so that a GPU can replay it from a recording.

At batch 1 a GPU works out a step of a small model in less time than Python needs to ask for its few hundred kernels. A
CUDA graph asks for all of them at once, but replays them with the addresses and shapes that they had when it was
recorded. So here nothing depends on who is in the batch: rows and columns are rounded up to a few shapes, what changes
from step to step (tokens, positions, block tables) is copied into one fixed tensor, and everything else, slots and
masks included, is worked out from it on the device. The keys and values are read where they lie, in the blocks of the
cache, so that a sequence may come and go between two steps.

B rows, C columns (positions that a row may see, itself last), N the longest n-gram, V vocabulary; in the cache K
key/value heads, D head size
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from malmoi.generate.backend import Integers
from malmoi.model.attention import Sight

if TYPE_CHECKING:
    from malmoi.generate.torch_backend import TorchBackend

FEWEST_COLUMNS = 128
STEPS_BEFORE_RECORDING = 8  # recording costs a few plain steps: a shape must have shown that it will be used


def shape_for(rows: int, blocks: int, block_size: int, most_blocks: int) -> tuple[int, int]:
    """The smallest recorded shape that so many rows of so many blocks fit into: powers of two, so that few are made."""
    wanted = max(blocks, -(-FEWEST_COLUMNS // block_size))
    return _power_of_two(rows), min(_power_of_two(wanted), max(most_blocks, blocks))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


class StaticStep:
    """One new token for each of up to `rows` sequences of up to `blocks` blocks; for the model it is the cache.

    Rows that are left over repeat the first one. `recorder` turns the computation into something that can be replayed;
    without one every call computes.
    """

    def __init__(
        self,
        backend: TorchBackend,
        rows: int,
        blocks: int,
        recorder: Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]] | None = None,
    ) -> None:
        config, device = backend.model.config, backend.model.device
        self.backend, self.recorder, self.calls = backend, recorder, 0
        self.earlier = max(config.ngram_sizes, default=1) - 1  # tokens before this one that the model looks up
        # for each row: its token, its position, the tokens before it, its table
        self.host = torch.zeros(rows, 2 + self.earlier + blocks, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.given = torch.zeros_like(self.host, device=device)
        self.columns = torch.arange(1 - blocks * backend.block_size, 1, device=device)  # (C,) how far back each is
        self.token_ids: torch.Tensor | None = None  # what the model asks a cache for
        self.run = self._compute

    def __call__(
        self, tokens: Integers, positions: Integers, tables: Integers, before: NDArray[np.int64]
    ) -> torch.Tensor:
        """Tokens (S,) at positions (S,), block tables (S, blocks), the `earlier` tokens before (S, N - 1): (S, V).

        The logits are overwritten by the next call.
        """
        S, split = len(tokens), 2 + self.earlier
        whole = self.host.numpy()
        whole[:S, 0], whole[:S, 1], whole[:S, 2:split] = tokens, positions, before
        width = min(tables.shape[1], whole.shape[1] - split)  # a table may be wider than what these rows use
        whole[:S, split : split + width] = tables[:, :width]
        whole[S:] = whole[0]
        self.given.copy_(self.host, non_blocking=True)
        self.calls += 1
        if self.recorder is not None and self.calls == STEPS_BEFORE_RECORDING:
            self.run = self.recorder(self._compute)
        return self.run()[:S]

    def _compute(self) -> torch.Tensor:
        """The whole step as a function of `given`, without a look at any value: (B, V)."""
        model, size, split = self.backend.model, self.backend.block_size, 2 + self.earlier
        positions = self.given[:, 1:2]
        places = positions + self.columns  # (B, C) below zero: before the sequence began
        seen = places.clamp(min=0)  # what is not seen reads the first position, which holds numbers and not noise
        self.slots = self.given[:, split:].gather(1, seen // size) * size + seen % size
        if self.earlier:
            self.token_ids = self.given[:, 2:split]
        sight = Sight(1, len(self.columns) - 1, model.model.windows, self.given.device, places >= 0)
        hidden = model.model(self.given[:, :1], positions, sight, self)
        return model.logits(model.lm_head(hidden))[:, 0]

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values (B, K, 1, D); everything that the rows see (B, K, C, D)."""
        found: list[torch.Tensor] = []
        for memory, new in zip(self.backend.memory(layer, keys), (keys, values), strict=True):
            memory.index_copy_(0, self.slots[:, -1], new[:, :, 0])
            seen = memory.index_select(0, self.slots.flatten())
            found.append(seen.view(*self.slots.shape, *memory.shape[1:]).transpose(1, 2))
        return found[0], found[1]


class GraphRecorder:
    """Records computations as CUDA graphs, which share one pool of memory: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries choose their kernels and take their workspaces before it counts
                for _ in range(2):
                    compute()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                logits = compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay
