"""What the engine needs of a model: rows of tokens in, logits out, over a cache that lies in blocks.

The engine decides which tokens are read and where their keys and values lie; a backend computes. The cache is cut into
blocks of `block_size` positions, as an operating system cuts memory into pages (Kwon et al., "Efficient Memory
Management for Large Language Model Serving with PagedAttention", 2023): a sequence's table names the blocks that hold
its positions 0 to block_size - 1, block_size to 2 * block_size - 1, and so on. Whoever holds the table holds the past:
two sequences with a common beginning simply name the same blocks.

One call does everything. A prompt being read, a sequence getting its next token and a guess being checked differ only
in how many rows they bring and which of their logits are wanted.

R rows (one token each), S sequences, W wanted rows, V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]


class Backend(Protocol):
    """A model with a cache in blocks. The engine calls it from one thread, one call at a time.

    Two attributes are read where they exist: `generation_config`, the model's own settings, and `batch_invariant`,
    true if the logits of a row are the same to the bit whatever else is in the call.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def block_size(self) -> int:
        """Positions in a block."""
        ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def max_position(self) -> int:
        """Positions that a sequence can have at most."""
        ...

    def step(
        self, tokens: Integers, positions: Integers, sequences: Integers, block_tables: Integers, wanted: Integers
    ) -> NDArray[Any]:
        """Read R tokens, write their keys and values into the cache, give the logits (W, V) of the `wanted` rows.

        Row r is the token `tokens[r]` at `positions[r]` of the sequence whose blocks are
        `block_tables[sequences[r]]` (S, blocks of the longest; what a table does not use holds 0). Rows of one sequence
        stand in rising position, without gaps; each attends to all earlier positions of its sequence and itself, those
        of the same call included. No two sequences of a call write into the same block. Logits are float32 (float64
        where the model computes in it).
        """
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of a block: a sequence parts from another within it."""
        ...


class FunctionBackend:
    """A made-up model: the next token's logits are a function of all tokens so far.

    It computes nothing else, so that engines and servers can be tried and tested exactly and quickly. The past is read
    back from the blocks it was written to, as a real model would read it: a block that was lost, shared wrongly or
    copied late changes the logits.
    """

    def __init__(
        self,
        function: Callable[[tuple[int, ...]], Any],
        vocab_size: int,
        *,
        block_size: int = 4,
        num_blocks: int = 256,
        max_position: int = 512,
    ) -> None:
        self.function, self.vocab_size = function, vocab_size
        self.block_size, self.num_blocks, self.max_position = block_size, num_blocks, max_position
        self.held = np.full((num_blocks, block_size), -1, dtype=np.int64)
        self.calls: list[tuple[int, int]] = []  # rows and wanted rows of each step

    def step(
        self, tokens: Integers, positions: Integers, sequences: Integers, block_tables: Integers, wanted: Integers
    ) -> NDArray[np.float32]:
        self.calls.append((len(tokens), len(wanted)))
        blocks, places = np.divmod(positions, self.block_size)
        self.held[block_tables[sequences, blocks], places] = tokens
        logits = np.empty((len(wanted), self.vocab_size), dtype=np.float32)
        for number, row in enumerate(wanted):
            past = self.held[block_tables[sequences[row]]].ravel()[: positions[row] + 1]
            logits[number] = self.function(tuple(past.tolist()))
        return logits

    def copy_block(self, source: int, target: int) -> None:
        self.held[target] = self.held[source]
