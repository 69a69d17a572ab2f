"""The tests of the native engine need it built; where it is not, they are skipped and say why."""

import numpy as np
import pytest

from malmoi.native.core import NativeModel
from malmoi.native.library import instruction_sets, unavailable

MISSING = unavailable()
SETS = () if MISSING else instruction_sets()


def pytest_collection_modifyitems(items):
    for item in items:
        if MISSING and "/native/" in item.path.as_posix() and "without_the_engine" not in item.name:
            item.add_marker(pytest.mark.skip(reason=MISSING))


def whole(model: NativeModel, ids, block: int = 0) -> np.ndarray:
    """The logits of every position of one sequence, read in one call into the cache's blocks from `block` on."""
    length = len(ids)
    tables = np.arange(block, block + -(-length // model.block_size))[None]
    return model.step(ids, np.arange(length), np.zeros(length, int), tables, np.arange(length))
