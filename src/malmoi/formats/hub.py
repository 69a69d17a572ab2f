"""From a name to a folder: a path on this machine, or a repository of the Hugging Face hub.

The hub is reached only when a name is not a folder, and only through `huggingface_hub` (extra `hub`), which respects
`HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN`. Only data is fetched: safetensors and JSON, never code or pickles.
"""

from __future__ import annotations

import re
from pathlib import Path

from malmoi.config import MalmoiError

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "README.md")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_UNPUBLISHED = re.compile(r"(openai/)?(chat)?gpt-?(3|4|5|6)([.o-].*)?", re.IGNORECASE)


def find(name: str | Path) -> Path:
    """The folder that a path or a hub name means; a hub name is downloaded, or found in the cache, on the way.

    Raises `MalmoiError` when there is neither, with what to do.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if path.exists():
        raise MalmoiError(f"{path}: is a file, but a model is a folder (with config.json and model.safetensors).")
    if _UNPUBLISHED.fullmatch(text):
        raise MalmoiError(
            f"'{text}' cannot be loaded: its weights were never published, so nobody outside its maker can run it. "
            f"Use a model that you trained (`malmoi quickstart` makes one in runs/quickstart/model), or one whose "
            f"weights are public, such as 'openai-community/gpt2' or 'Qwen/Qwen3-0.6B'."
        )
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text
    if looks_local or not _HUB_NAME.fullmatch(text):
        raise MalmoiError(f"{path}: there is no such folder.")
    return _download(text)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MalmoiError(
            f"There is no folder '{name}'. If it is a name on the Hugging Face hub, install what fetches it: "
            f'pip install "malmoi[hub]".'
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's errors share no base class: offline, missing, gated, no disk
        reason = str(error).strip().partition("\n")[0]
        raise MalmoiError(
            f"There is no folder '{name}', and the Hugging Face hub did not give it either: {reason} Check the "
            f"spelling and the network (with HF_HUB_OFFLINE=1 only what is already downloaded is found)."
        ) from None
