"""The command line: one word for everything that Malmoi does, and no stack trace for a person's mistake.

`main` is what `malmoi` runs. It holds the policy that every verb shares, so that no verb has to think of it:

- a `MalmoiError` prints its text on stderr and exits 1; a mistake in the command line itself exits 2 and names the
  nearest word; Ctrl-C exits 130; a reader that went away (`malmoi data village | head`) is no error;
- `MALMOI_DEBUG=1` shows the stack trace all the same;
- a verb's module, and with it torch, loads only when the verb is called: `malmoi --help` answers at once;
- threads that wait for each other soon go to sleep instead of spinning: on a machine where something else runs too,
  torch's threads otherwise keep the cores from the very thread they wait for, and a step takes many times as long;
- Python looks for objects that hold each other after ten thousand new ones, not after seven hundred: a command that
  opens a vocabulary of fifty thousand entries would otherwise look through all of it again and again.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

# How long a thread spins before it sleeps: turns of a loop (some ten microseconds), and milliseconds.
PATIENCE = {"GOMP_SPINCOUNT": "6000", "KMP_BLOCKTIME": "0"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    _write_utf8()
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)  # read when torch loads its OpenMP library, GNU's or LLVM's
    if arguments is None:  # the process is ours
        gc.set_threshold(10_000, 10, 10)
        atexit.register(gc.freeze)  # the process ends: Python need not look through all that it holds once more
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return _say("Stopped.", 130)
    except BrokenPipeError:
        # The reader left. Python would complain once more when it flushes at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("MALMOI_DEBUG"):
            raise
        return _say(*_explained(error))


def _run(arguments: list[str]) -> int:
    import typer

    from malmoi.cli.verbs import program

    usage_error: Any = typer.BadParameter.__mro__[1]  # click's or typer's own, according to typer's version
    try:
        result = program().main(args=arguments, prog_name="malmoi", standalone_mode=False)
        sys.stdout.flush()
    except usage_error as error:
        from malmoi.cli.verbs import usage_message

        return _say(usage_message(error), 2)
    except typer.Abort:
        return _say("Stopped.", 130)
    except typer.Exit as leave:
        return leave.exit_code
    except SystemExit as leave:  # typer and rich, when the reader of a pipe has left
        return leave.code if isinstance(leave.code, int) else 0
    return result if isinstance(result, int) else 0


def _explained(error: Exception) -> tuple[str, int]:
    """What to print for an error, and the exit code."""
    from malmoi.config import MalmoiError

    if isinstance(error, MalmoiError):
        return str(error), 1
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}.", 1
    if isinstance(error, MemoryError):
        return "There is not enough memory for this. Try a smaller --size, batch or sequence length.", 1
    return (
        f"Malmoi made a mistake of its own ({type(error).__name__}: {error}). "
        "Run the command again with MALMOI_DEBUG=1 in the environment to see where, and please report it.",
        70,
    )


def _say(message: str, code: int) -> int:
    if message:
        print(message, file=sys.stderr)
    return code


def _write_utf8() -> None:
    """Hangul must not stop a program because a pipe's encoding lacks it (Windows, LANG=C)."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
        if hasattr(stream, "reconfigure") and encoding != "utf8":
            stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
