"""Where a tokenizer lies: a folder on this machine, or a repository of the Hugging Face hub.

A tokenizer is data, never code: JSON, and one template that is run in a sandbox. Everything that can be wrong with its
files (missing, unreadable, not JSON) becomes one sentence for the person who named the folder. Files are written aside
and moved into place, so that a full disk or a killed process leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "image_tokenizer/*",
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_UNPUBLISHED = re.compile(r"(openai/)?(chat)?gpt-?(3|4|5|6)([.o-].*)?", re.IGNORECASE)


def locate(name: str | Path) -> Path:
    """The local folder of a tokenizer: a folder, its `tokenizer.json` (or `vocab.json`), or a hub name."""
    path = Path(name).expanduser()
    if path.name in ("tokenizer.json", "vocab.json") and path.is_file():
        return path.parent
    return find(name, TOKENIZER_FILES, "a tokenizer is a folder that holds tokenizer.json")


def find(name: str | Path, wanted: Sequence[str], expected: str) -> Path:
    """The folder that a path or a hub name means; a hub name is downloaded, or found in the cache, on the way.

    A folder that exists always wins. The hub is reached only through `huggingface_hub` (extra `hub`), which respects
    `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`; only files that match `wanted` are fetched. `expected` says what a file
    in the folder's place should have been. Raises `MalmoiError` when there is neither, with what to do.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if path.exists():
        raise MalmoiError(f"{path}: is a file, but {expected}.")
    if _UNPUBLISHED.fullmatch(text):
        raise MalmoiError(
            f"'{text}' cannot be loaded: its weights were never published, so nobody outside its maker can run it. "
            f"Use a model that you trained (`malmoi quickstart` makes one in runs/quickstart/model), or one whose "
            f"weights are public, such as 'openai-community/gpt2' or 'Qwen/Qwen3-0.6B'."
        )
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text
    if looks_local or not _HUB_NAME.fullmatch(text):
        raise MalmoiError(f"{path}: there is no such folder.")
    return _download(text, wanted)


def _download(name: str, wanted: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MalmoiError(
            f"There is no folder '{name}'. If it is a name on the Hugging Face hub, install what fetches it: "
            f'pip install "malmoi[hub]".'
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as error:  # the hub's errors share no base class: offline, missing, gated, no disk
        reason = str(error).strip().partition("\n")[0]
        raise MalmoiError(
            f"There is no folder '{name}', and the Hugging Face hub did not give it either: {reason} Check the "
            f"spelling and the network (with HF_HUB_OFFLINE=1 only what is already downloaded is found)."
        ) from None


def read_text(path: Path) -> str:
    """A UTF-8 file as text; every failure names the file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file.") from None
    except UnicodeDecodeError as error:
        raise MalmoiError(f"{path}: is not UTF-8 text (byte {error.start}). The file is damaged.") from None
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise MalmoiError(
            f"{path}: is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}). "
            f"The file is damaged or cut short; take it again from where it came."
        ) from None
    except RecursionError:
        raise MalmoiError(f"{path}: is not valid JSON: it is nested too deeply.") from None
    if not isinstance(value, dict):
        raise MalmoiError(f"{path}: must hold a JSON object, but holds {type(value).__name__}.")
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to the disk, then moved into place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
