"""Finding and loading the compiled engine.

It is built by `pip install` where there is a C++ compiler, and lies beside this file. Where it is missing, everything
else of Malmoi works with torch; whoever asks for the native engine is told in one line.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError
from malmoi.native.interface import VERSION, Status, declare

VARIABLE = "MALMOI_NATIVE_LIBRARY"  # another library than the one beside this file: a sanitised build, for example
INSTRUCTIONS = "MALMOI_NATIVE_INSTRUCTIONS"  # another instruction set than the best: avx2, scalar ...
_ENDINGS = (".so", ".dylib", ".pyd", ".dll")


class NativeError(MalmoiError):
    """The native engine refused something. `status` says what kind of thing."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


def path() -> Path | None:
    """The file of the compiled engine, or None where there is none."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return next((file for file in sorted(Path(__file__).parent.glob("_engine*")) if file.suffix in _ENDINGS), None)


@functools.cache
def load() -> Any:
    """The library, ready to be called. Raises `MalmoiError` where it is missing, damaged or of another version."""
    file = path()
    if file is None:
        raise MalmoiError(
            "The native engine is not built here (no C++ compiler when Malmoi was installed). Malmoi uses torch "
            "instead; to build it: install a compiler (g++ or clang++), then pip install --force-reinstall --no-deps "
            "malmoi, or in a clone: python setup.py build_ext --inplace"
        )
    try:
        library = ctypes.CDLL(str(file))
        declare(library)
    except (OSError, AttributeError) as error:
        raise MalmoiError(f"{file}: cannot be loaded: {error}. Build the native engine again.") from None
    if library.malmoi_version() != VERSION:
        raise MalmoiError(
            f"{file}: is version {library.malmoi_version()} of the native engine, but this Malmoi needs {VERSION}. "
            f"Build it again: python setup.py build_ext --inplace"
        )
    return library


def unavailable() -> str | None:
    """Why the native engine cannot be used here, in one line; None where it can."""
    try:
        load()
    except MalmoiError as error:
        return str(error)
    return None


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that were built in and that this CPU has, best first."""
    return tuple(load().malmoi_instructions().decode().split())


def check(status: int, what: str) -> None:
    """Turn a status that is not OK into an error that begins with `what`."""
    if status != Status.OK:
        message = load().malmoi_message().decode("utf-8", "replace")
        raise NativeError(f"{what}: {message}.", Status(status))
