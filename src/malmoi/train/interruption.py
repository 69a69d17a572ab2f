"""Ctrl-C and SIGTERM, heard but obeyed at the end of the step: the run is saved and can go on later."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets `requested`; a second SIGINT interrupts at once.

    Signals belong to the main thread: elsewhere this does nothing, and Python's own behaviour stays. The handlers found
    are put back at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self._found: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._found[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator may be closed by the garbage collector of another thread, where handlers cannot be set.
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._found.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._found.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
