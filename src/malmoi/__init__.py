"""Malmoi (말모이): a whole GPT that one person can own.

The public names load on first use, so that `import malmoi` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "GPT4LMHeadModel": "malmoi.model.gpt",
    "GPT4Tokenizer": "malmoi.tokens.tokenizer",
    "ModelConfig": "malmoi.config",
    "TrainConfig": "malmoi.config",
    "GenerationConfig": "malmoi.config",
    "Recipe": "malmoi.config",
    "MalmoiError": "malmoi.config",
    "TokenTrace": "malmoi.generate.trace",
}

if TYPE_CHECKING:
    from malmoi.config import GenerationConfig, MalmoiError, ModelConfig, Recipe, TrainConfig
    from malmoi.generate.trace import TokenTrace
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

__all__ = [
    "GPT4LMHeadModel",
    "GPT4Tokenizer",
    "GenerationConfig",
    "MalmoiError",
    "ModelConfig",
    "Recipe",
    "TokenTrace",
    "TrainConfig",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'malmoi' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
