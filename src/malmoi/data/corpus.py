"""FILES -> DOCUMENTS: one document at a time, from whatever a person has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """The unit of learning: a text (or a conversation) that the model never reads across the end of.

    `messages` is a conversation, `({"role": "user", "content": "..."}, ...)`; where it is given, `text` is empty.
    `source`, `id` and `license` say where the document comes from, and follow it into the token file.
    """

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None
    source: str = ""
    id: str = ""
    license: str = ""
