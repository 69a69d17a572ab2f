"""What does a model see, and what does it draw? Both counted, by rules and not by another model.

Words are compared with the words that are right; a picture of the Village is read by the deterministic reader of its
own renderer's shapes (`malmoi.data.village.reader`), so that "two red circles and a big blue house at the top" is
drawn or it is not. Where a name is to be chosen among several, the model's own probabilities choose.

Pictures and prompts of many tasks are read and written together; batching changes nothing in what is written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from malmoi import randomness
from malmoi.config import GenerationConfig, MalmoiError
from malmoi.data.village import pictures as village_pictures
from malmoi.data.village.reader import read
from malmoi.data.village.sight_words import PLACES, a_thing
from malmoi.data.village.sights import Scene
from malmoi.evaluate.village import share
from malmoi.generate.engine import Engine, generate
from malmoi.generate.pictures import GUIDANCE, TEMPERATURE, text_alone
from malmoi.generate.request import Request
from malmoi.tokens.interleave import encode_parts
from malmoi.tokens.picture import Picture

if TYPE_CHECKING:
    from malmoi.data.village.pictures import PictureExample
    from malmoi.generate.backend import Backend
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

BATCH = 64  # pictures read or drawn together


def describe(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    asked: Sequence[tuple[Picture, str]],
    max_new_tokens: int = 96,
) -> list[str]:
    """What the model says after each picture and prompt, greedily."""
    known = _images(tokenizer)
    said: list[str] = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        rows = encode_parts(tokenizer, list(itertools.chain.from_iterable(part)))
        prompts = [[*rows[2 * i], *rows[2 * i + 1]] for i in range(len(part))]
        made = generate(
            model,
            prompts,
            tokenizer=tokenizer,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            logit_bias=text_alone(known),
            eos_token_id=tokenizer.eos_token_id,
        )
        assert made.texts is not None
        said += [text.strip() for text in made.texts]
    return said


def draw(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    texts: Sequence[str],
    *,
    seed: int = 0,
    guidance_scale: float = GUIDANCE,
    temperature: float = TEMPERATURE,
) -> list[np.ndarray]:
    """One sampled picture (S, S, 3) uint8 for each text; equal texts get different ones."""
    known = _images(tokenizer)
    assert tokenizer.image_tokenizer is not None
    ids = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    config = GenerationConfig(
        do_sample=True, temperature=temperature, guidance_scale=guidance_scale, max_new_tokens=known.grid**2 + 1
    )
    requests = [
        Request([*row, known.begin, known.size], config.replace(seed=randomness.key(seed, "drawing", number)))
        for number, row in enumerate(ids)
    ]
    rows: list[list[int]] = [[] for _ in requests]
    for token in Engine(model, tokenizer).stream(requests):
        if token.error is not None:
            raise token.error
        rows[token.request].append(token.id)
    codes = np.array([row[:-1] for row in rows], dtype=np.int64) - known.first
    return list(tokenizer.image_tokenizer.decode_pixels(codes))


@torch.inference_mode()
def choose(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, picture: Picture, prompt: str, names: Sequence[str]
) -> np.ndarray:
    """The model's log-probability of each name as what follows a picture and a prompt, its end included."""
    _images(tokenizer)
    head = list(itertools.chain.from_iterable(encode_parts(tokenizer, [picture, prompt])))
    rows = [[*row, tokenizer.eos_token_id] for row in tokenizer.encode_batch(list(names), add_special_tokens=False)]
    longest = max(map(len, rows))
    ids = torch.tensor([head + row + [row[-1]] * (longest - len(row)) for row in rows])  # what follows is not seen
    logits = model(ids.to(model.device), logits_to_keep=longest + 1).logits[:, :-1].float().log_softmax(-1)
    chances = logits.gather(-1, ids[:, len(head) :, None].to(model.device))[..., 0]
    real = torch.arange(longest) < torch.tensor([[len(row)] for row in rows])
    return (chances.cpu() * real).sum(-1).numpy()


def _images(tokenizer: GPT4Tokenizer) -> Any:
    if tokenizer.images is None or tokenizer.image_tokenizer is None:
        raise MalmoiError("This model knows only text. Train one with pictures: see docs/pictures.md.")
    return tokenizer.images


# ---- names


def same_name(said: str, name: str) -> bool:
    """Whether what was said is the name, letter case and white space apart."""
    return " ".join(said.split()).casefold() == " ".join(name.split()).casefold()


def has_keyword(said: str, name: str, keywords: Iterable[str]) -> bool:
    """Whether one of a thing's keywords, or its name, occurs in what was said, as whole words."""
    words = f" {' '.join(_WORD.findall(said.casefold()))} "
    wanted = [" ".join(_WORD.findall(keyword.casefold())) for keyword in (name, *keywords)]
    return any(f" {keyword} " in words for keyword in wanted if keyword)


_WORD = re.compile(r"\w+")


# ---- the Village's pictures


def scenes(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    n: int = 50,
    seed: int = 0,
    *,
    split: str = "held_out",
    tasks: Iterable[str] = village_pictures.TASKS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Exact answers to `n` examples of each of the Village's picture tasks in each language.

    Returns plain data: `rows`, one a task and language, with `n`, `correct`, `exact` and its 95 % interval, and
    `things`, the share of things that are right (a caption's phrases, a drawing's things; of a question the answer).
    """
    rows = []
    for task in tasks:
        for language in village_pictures.LANGUAGES:
            examples = village_pictures.examples(task, language, n, seed=seed, split=split)
            judge = _drawn if task == "draw" else _said
            right, things = zip(*judge(model, tokenizer, examples), strict=True)
            rows.append({"task": task, "language": language, **share(n, sum(right)), "things": float(np.mean(things))})
            if progress is not None:
                progress(f"{task} {language}: {rows[-1]['exact']:.0%}")
    return {"rows": rows, "seed": seed, "split": split}


def _said(model: Any, tokenizer: Any, examples: Sequence[PictureExample]) -> list[tuple[bool, float]]:
    asked = [(e.picture, e.prompt + (" " if e.task == "question" else "")) for e in examples]
    answers = describe(model, tokenizer, asked, max_new_tokens=160)
    return [
        (
            answer == e.answer,
            phrases(answer, e.scene, e.language) if e.task == "describe" else float(answer == e.answer),
        )
        for answer, e in zip(answers, examples, strict=True)
    ]


def _drawn(model: Any, tokenizer: Any, examples: Sequence[PictureExample]) -> list[tuple[bool, float]]:
    made = draw(model, tokenizer, [e.answer for e in examples])
    return [drawn_right(pixels, e.scene) for pixels, e in zip(made, examples, strict=True)]


def phrases(said: str, scene: Scene, language: str) -> float:
    """The share of a scene's things that a caption names with shape, colour, size and place."""
    folded = said.casefold()
    named = 0
    for sight in scene:
        thing, place = a_thing(language, sight), PLACES[sight.place][language]
        named += (f"{place} {thing}" if language == "ko" else f"{thing} {place}").casefold() in folded
    return named / len(scene)


def drawn_right(pixels: np.ndarray, scene: Scene) -> tuple[bool, float]:
    """Whether a picture shows exactly a scene, and the share of the scene's things that it shows."""
    seen = read(pixels)
    return seen.shows(scene), sum(sight in seen.scene for sight in scene) / len(scene)
