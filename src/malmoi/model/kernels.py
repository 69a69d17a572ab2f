"""The compiled steps of `fused.cpp`, if this installation has them: `LIBRARY` is None where no compiler was at hand.

They are called with addresses and sizes (ctypes), so they need nothing from torch when they are built. Their threads
are torch's own: the OpenMP library that torch has loaded is looked up in the process and asked to run the loops, since
two such libraries side by side would fight over the cores. Where it can't be found, they run on one thread.

`MALMOI_KERNELS=0` in the environment leaves them out, for comparison.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

VERSION = 2  # malmoi_fused_version: the library and this file describe the same functions
_POINTER, _SIZE, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_P, _S = [_POINTER], [_SIZE]
# Argument types in the order of fused.cpp; the first says whether numbers are bfloat16, the last how many threads.
_SIGNATURES: dict[str, list[type]] = {
    "malmoi_norm": [_INT, *_P * 4, *_S * 2, _FLOAT, _INT],
    "malmoi_norm_back": [_INT, *_P * 7, *_S * 2, _INT],
    "malmoi_heads": [_INT, _POINTER, _SIZE, *_P * 3, _SIZE, *_P * 2, *_S * 4, _FLOAT, _INT],
    "malmoi_heads_back": [_INT, *_P * 2, _SIZE, *_P * 3, _SIZE, *_P * 4, *_S * 4, _INT],
    "malmoi_gate": [_INT, *_P * 3, _SIZE, _INT],
    "malmoi_gate_back": [_INT, *_P * 5, _SIZE, _INT],
    "malmoi_softmax": [_INT, *_P * 2, *_S * 7, _FLOAT, _INT],
    "malmoi_softmax_back": [_INT, *_P * 2, *_S * 4, _FLOAT, _INT],
    "malmoi_surprise": [_INT, *_P * 3, *_S * 2, _FLOAT, _INT],
}


def load() -> ctypes.CDLL | None:
    """The library with its signatures and threads set, or None."""
    if os.environ.get("MALMOI_KERNELS") == "0":
        return None
    ending = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("_fused" + ending)))
        if library.malmoi_fused_version() != VERSION:  # built from other sources than these: torch's operations then
            return None
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError):  # not built, or for another machine, or by another version
        return None
    library.malmoi_fused_threads.argtypes = [_POINTER]
    library.malmoi_fused_threads(_parallel())
    return library


def _parallel() -> int | None:
    """The address of GOMP_parallel in the OpenMP library of this process; None if there is none to be found.

    It is GNU's entry point ("run this function on so many threads"); LLVM's and Intel's libraries offer it on Linux.
    """
    if not sys.platform.startswith("linux") or not torch.backends.openmp.is_available():
        return None
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    # torch's own copy first: another package may have brought one of its own
    paths = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if "omp" in line.rpartition("/")[2]}
    for path in sorted(paths, key=lambda path: ("torch" not in path, path)):
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


LIBRARY = load()
