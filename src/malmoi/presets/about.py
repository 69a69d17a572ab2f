"""What is known about a model and what is guessed: a few sentences for every preset, in two languages.

A size on paper looks equally solid whether somebody counted it in released weights or heard it in a podcast. So each
preset says which it is, and `malmoi params` prints it above the numbers. The sentences stand in `malmoi/presets.yaml`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from malmoi.config import ModelConfig


class Preset(NamedTuple):
    """A model that has a name: how to make its configuration, and the family whose sentences it shares."""

    build: Callable[[], ModelConfig]
    family: str


class About(NamedTuple):
    """Where a preset's numbers come from. `conjecture` says what nobody published and how the gap was filled."""

    published: str
    conjecture: str


@functools.cache
def _texts() -> dict[str, dict[str, dict[str, str]]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(Path(__file__).parents[1].joinpath("presets.yaml").read_text(encoding="utf-8"), Loader=loader)


def sentences(name: str, family: str, language: str) -> About:
    """A family's sentences in "en" or "ko", and those that one member adds."""
    entries = [_texts()[key] for key in dict.fromkeys((family, name)) if key in _texts()]
    return About(
        *(" ".join(entry[part][language] for entry in entries if part in entry) for part in About._fields),
    )
