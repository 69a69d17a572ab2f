"""Blocks of the cache: who holds them, which can be found again, which go first when room is needed.

A block is held by as many sequences as name it; held by none it is free. A block that is full can be *remembered* under
a key made of all tokens up to its end: another sequence that begins with the same tokens finds it and need not read
them again. The key of a block is a hash of its own tokens and of the key of the block before it, so that equal keys
mean an equal past, and of a salt at the root: sequences with different salts (two customers, say) never find each
other's blocks, and cannot learn from the time that an answer takes what others have asked. A remembered block that
nobody holds stays until its place is needed, the one longest unused first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


def root_key(salt: str) -> bytes:
    """What the first block's key is chained to."""
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def chained_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block: 128 bits, so that two different pasts do not meet in one key."""
    return hashlib.blake2b(before + np.asarray(tokens, dtype="<i4").tobytes(), digest_size=16).digest()


class BlockPool:
    """`num_blocks` blocks, numbered from 0; low numbers are given out first, so that memory can grow as it is used."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.holders: list[int] = []  # sequences that name each block, of those that were ever taken
        self._free: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered and held by nobody, longest unused first
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        return self.num_blocks - len(self.holders) + len(self._free) + len(self._idle)

    def take(self) -> int:
        """A block for new contents; what it remembered is forgotten. Look at `available` before."""
        if self._free:
            block = self._free.pop()
        elif len(self.holders) < self.num_blocks:
            block = len(self.holders)
            self.holders.append(0)
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self.holders[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more sequence names the block."""
        self._idle.pop(block, None)
        self.holders[block] += 1

    def release(self, block: int) -> None:
        """One sequence less names the block."""
        self.holders[block] -= 1
        if self.holders[block] == 0:
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def remember(self, block: int, key: bytes) -> None:
        """The block is full and will not change; under `key` it can be found. The first block of a key keeps it."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def find(self, key: bytes) -> int | None:
        return self._block_of.get(key)
