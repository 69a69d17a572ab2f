"""What a person typed in `malmoi chat`, for the arrow keys of the next conversation.

    $MALMOI_HISTORY, else $XDG_STATE_HOME/malmoi/chat_history, else ~/.local/state/malmoi/chat_history

is the file (the XDG base directories' place for "actions history"). It holds the person's own lines, never an answer,
and only the person may read it. `MALMOI_HISTORY` set to nothing keeps none, and a pipe never has one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malmoi.cli.console import console

VARIABLE = "MALMOI_HISTORY"
LINES = 1_000


def path() -> Path | None:
    """Where the history is kept; None where it shall not be."""
    own = os.environ.get(VARIABLE)
    if own is not None:
        return Path(own).expanduser() if own else None
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    return folder / "malmoi" / "chat_history"


@contextlib.contextmanager
def kept(file: Path | None) -> Iterator[None]:
    """The arrow keys, where the platform has them; with a `file` they know the lines of earlier conversations, and this
    one's are added to it at the end. A disk that refuses costs the history, not the conversation."""
    try:
        readline: Any = importlib.import_module("readline")
    except ImportError:
        yield
        return
    if file is not None:
        readline.clear_history()
        with contextlib.suppress(OSError):  # none yet, or it cannot be read: writing it says so
            readline.read_history_file(file)
    try:
        yield
    finally:
        if file is not None:
            _write(readline, file)


def _write(readline: Any, file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # nobody else's, from the first moment on
        file.chmod(0o600)
        readline.set_history_length(LINES)
        readline.write_history_file(file)
    except OSError as error:
        why = (
            f"({file}: the history cannot be kept: {error.strerror or error}. Without one: {VARIABLE}= malmoi chat ...)"
        )
        console(stderr=True).print(why, style="dim", markup=False)
