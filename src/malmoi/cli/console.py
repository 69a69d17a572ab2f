"""How the command line prints: one console, one JSON form, numbers as people read them, settings explained.

In a terminal, tables and colours; in a pipe, plain text of a steady width; rich itself respects `NO_COLOR`.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError, texts

PIPE_WIDTH = 160
MARK = re.compile(r"\{(\w+)\.(\w+)\}")


def console(stderr: bool = False) -> Any:
    """A rich console on stdout or stderr as they are now."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """A value as JSON for people to read; numbers that JSON cannot hold (NaN, infinity) become null."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, Path) else value


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Any:
    """A table whose number columns stand to the right. A heading that begins with `>` marks such a column."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def count(number: float) -> str:
    """1234567 -> '1,234,567'."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """1234567 -> '1.23 M'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def energy(joules: float) -> str:
    """1234 -> '1.23 kJ'; 0.0012 -> '1.2 mJ'."""
    if abs(joules) >= 1e3:
        return f"{short(joules)}J"
    return f"{joules:.3g} J" if abs(joules) >= 1 or not joules else f"{joules * 1e3:.3g} mJ"


def duration(seconds: float) -> str:
    """125 -> '2:05'; 4000 -> '1:06:40'."""
    whole = max(int(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def language() -> str:
    """The person's language as the environment tells it: 'ko' or 'en'."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "ko" if value.lower().startswith("ko") else "en"
    return "en"


def setting(record: str, field: str) -> str:
    """What a setting is, for the help of its option: a mark in the place of the text, which `with_settings` puts there.

    The texts are many and take longer to read than a short command takes to run, so only a help page reads them.
    """
    return f"{{{record}.{field}}}"


def with_settings(text: str) -> str:
    """A help text with the marks of `setting` replaced, from the one place where settings are explained."""
    from rich.markup import escape

    return MARK.sub(lambda found: escape(texts()[found[1]][found[2]]["en"]["what"].strip()), text)


# What a model writes is text, never a command to the terminal: control characters are shown as pictures of themselves.
_SHOWN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_SHOWN |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def write(text: str) -> None:
    """Write at once what a model said: exactly in a pipe, harmlessly in a terminal."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def harmless(text: str) -> str:
    """The text with control characters, such as the one that begins a terminal's commands, made visible."""
    return text.translate(_SHOWN)


def read_stdin() -> str:
    """Standard input as text; broken UTF-8 is named by its byte."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalmoiError(
            f"standard input: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8. Convert it first."
        ) from None
