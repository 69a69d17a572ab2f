"""Randomness as a function: a draw is named by what it is for, so there is no generator state to save.

Two runs that ask for the same (seed, purpose, numbers) get the same draw, whatever happened before, whoever else is in
the batch and however many processes share the work. The key is hashed with BLAKE2b and feeds NumPy's counter-based
Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit integer that depends on every argument: fit for `torch.manual_seed` and for `generator`."""
    words = "\x1f".join((str(int(seed)), purpose, *(str(int(number)) for number in numbers)))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A NumPy generator that always starts at the same place for the same arguments."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *numbers)))


def uniform(seed: int, purpose: str, *numbers: int) -> float:
    """One draw from [0, 1) with 53 bits, straight from the hash: cheap enough for one draw a token."""
    return (key(seed, purpose, *numbers) >> 10) * 2.0**-53
