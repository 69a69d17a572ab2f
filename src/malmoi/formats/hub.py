"""From a name to a model folder: a path on this machine, or a repository of the Hugging Face hub.

Only data is fetched: safetensors and JSON, never code or pickles.
"""

from __future__ import annotations

from pathlib import Path

from malmoi.tokens import folder

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "README.md")


def find(name: str | Path) -> Path:
    """The folder that a path or a hub name means (see `malmoi.tokens.folder.find`)."""
    return folder.find(name, WANTED, "a model is a folder (with config.json and model.safetensors)")
