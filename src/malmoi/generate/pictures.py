"""Words to a picture, a picture to words: the two calls behind `malmoi draw` and `malmoi describe`.

Both are plain continuations of the one stream. To draw is to write on after a text and a picture's beginning; to
describe is to write on after a picture (and perhaps the beginning of a text, such as "English: ").
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from malmoi.config import MalmoiError
from malmoi.generate import engine
from malmoi.tokens.interleave import ImageIds, encode_parts
from malmoi.tokens.picture import Picture

if TYPE_CHECKING:
    from PIL import Image

    from malmoi.generate.backend import Backend
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

GUIDANCE = 3.0
TEMPERATURE = 0.8  # one wrong code among 64 is a blot, so a picture is drawn a little colder than it is likely


def draw(
    model: GPT4LMHeadModel | Backend, tokenizer: GPT4Tokenizer, text: str, *, n: int = 1, **settings: Any
) -> list[Image.Image]:
    """`n` pictures of a text, sampled; `settings` are those of `generate` (`seed`, `temperature`, `guidance_scale`).

    Raises `MalmoiError` where the model knows no pictures.
    """
    known = _images(tokenizer)
    prompt = [*tokenizer.encode(text, add_special_tokens=False), known.begin, known.size]
    settings = {"temperature": TEMPERATURE, "guidance_scale": GUIDANCE, **settings}
    made = engine.generate(
        model, prompt, tokenizer=tokenizer, num_return_sequences=n, max_new_tokens=known.grid**2 + 1, **settings
    )
    codes = np.array([row[:-1] for row in made.new_tokens]) - known.first
    assert tokenizer.image_tokenizer is not None
    return [tokenizer.image_tokenizer.decode(grid) for grid in codes]


def describe(
    model: GPT4LMHeadModel | Backend, tokenizer: GPT4Tokenizer, picture: Picture, prompt: str = "", **settings: Any
) -> str:
    """What the model says to a picture, after `prompt` (a question, or the beginning of an answer); greedy unless
    `settings` ask for more."""
    known = _images(tokenizer)
    ids = list(itertools.chain.from_iterable(encode_parts(tokenizer, [picture, prompt] if prompt else [picture])))
    settings = {"temperature": 0, **settings, "logit_bias": text_alone(known, settings.get("logit_bias"))}
    made = engine.generate(model, ids, tokenizer=tokenizer, **settings)
    assert made.texts is not None
    return made.texts[0].strip()


def text_alone(known: ImageIds, bias: Mapping[int, float] | None = None) -> dict[int, float]:
    """A `logit_bias` with which no picture is begun."""
    return {**(bias or {}), known.begin: -1e9}


def _images(tokenizer: GPT4Tokenizer) -> ImageIds:
    if tokenizer.images is None or tokenizer.image_tokenizer is None:
        raise MalmoiError("This model knows only text. Train one with pictures: see docs/pictures.md.")
    return tokenizer.images
