"""Models by name: Malmoi's own dial, the GPT family from 117 million to 170 trillion, and the open models beside it.

`preset(name)` returns a `ModelConfig`, which costs nothing: a model of any size can be described, counted
(`malmoi params`) and planned on a laptop. What is published about it and what is guessed, `about(name)` says.
"""

from __future__ import annotations

from malmoi.config import MalmoiError, ModelConfig, nearest
from malmoi.presets import dial, open_weights, openai
from malmoi.presets.about import About, Preset, sentences
from malmoi.presets.dial import SIZES, size, train_defaults
from malmoi.presets.open_weights import llama2, llama31, mistral_7b, mixtral_8x7b, qwen3
from malmoi.presets.openai import gpt1, gpt2, gpt3, gpt4, gpt4_rumoured, gpt_oss

__all__ = [
    "NAMES",
    "SIZES",
    "About",
    "about",
    "gpt1",
    "gpt2",
    "gpt3",
    "gpt4",
    "gpt4_rumoured",
    "gpt_oss",
    "llama2",
    "llama31",
    "mistral_7b",
    "mixtral_8x7b",
    "preset",
    "qwen3",
    "size",
    "train_defaults",
]

_PRESETS: dict[str, Preset] = {**dial.PRESETS, **openai.PRESETS, **open_weights.PRESETS}
_OTHER_NAMES = {"gpt2-small": "gpt2", "gpt3": "gpt3-175b"}
NAMES: tuple[str, ...] = tuple(_PRESETS)


def preset(name: str) -> ModelConfig:
    """A model by one name, such as `nano`, `gpt2-xl`, `gpt3-175b` or `gpt-oss-20b`; all of them: `NAMES`.

    Raises `MalmoiError` with the nearest known name.
    """
    return _PRESETS[_known(name)].build()


def about(name: str, language: str = "en") -> About:
    """What is published about a model and what is conjecture, in "en" or "ko"."""
    known = _known(name)
    return sentences(known, _PRESETS[known].family, language)


def _known(name: str) -> str:
    known = _OTHER_NAMES.get(name, name)
    if known not in _PRESETS:
        raise MalmoiError(f"There is no preset '{name}'.{nearest(name, NAMES)} All of them: malmoi params --list.")
    return known
