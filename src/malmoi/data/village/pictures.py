"""The Village's eyes: pictures with captions, questions about them, and captions to draw, all with a right answer.

    scenes:20000        as a source's path: so many documents

Every document is a function of (seed, split, number): a scene is drawn by chance, painted, and told in one of three
languages as one of three tasks. `describe`: the picture is given, the caption is learned. `question`: picture and
question are given. `draw`: the caption comes first, and everything is learned. Training documents hold no held-out pair
of colour and shape, not even in a question; a held-out example is *about* one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from malmoi import randomness
from malmoi.config import MalmoiError, nearest
from malmoi.data.captions import LABELS, LANGUAGES, Captioned, describing, drawing
from malmoi.data.corpus import Document
from malmoi.data.village import sight_words as words
from malmoi.data.village.held_out import is_held_out
from malmoi.data.village.painter import SHIFT, paint
from malmoi.data.village.scenes import Draw
from malmoi.data.village.sights import COLOURS, SHAPES, Scene, Sight, draw_scene
from malmoi.tokens.picture import Picture

TASKS = ("draw", "describe", "question")
WEIGHTS = (0.4, 0.3, 0.3)
SPLITS = ("train", "held_out")
LICENSE = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class PictureExample:
    """A task with its right answer: a scene, its picture, a prompt, an answer (of "draw": the caption to draw from)."""

    task: str
    language: str
    scene: Scene
    picture: Picture
    prompt: str
    answer: str


def documents(argument: str, seed: int = 0) -> Iterator[Document]:
    """`argument` training documents (a number, as in `scenes:20000`)."""
    if not argument.isdecimal() or int(argument) < 1:
        raise MalmoiError(f"scenes:{argument}: after 'scenes:' comes a number of documents, as in scenes:20000.")
    for index in range(int(argument)):
        draw = Draw(randomness.key(seed, "village pictures train", index))
        roll = draw.random()
        task = "draw" if roll < WEIGHTS[0] else "describe" if roll < WEIGHTS[0] + WEIGHTS[1] else "question"
        example = _example(draw, task, draw.pick(LANGUAGES))
        name = f"scenes/train/{seed}/{index}"
        if task == "question":
            parts = (example.picture, example.prompt + " ", example.answer)
            yield Document(parts=parts, given=((0, 2),), id=f"{name}/question/{example.language}", license=LICENSE)
            continue
        item = Captioned(example.picture, {example.language: example.answer}, name, LICENSE)
        yield describing(item, example.language) if task == "describe" else drawing(item, example.language, seed)


def examples(task: str, language: str, n: int, seed: int = 0, split: str = "held_out") -> list[PictureExample]:
    """`n` examples of a task in a language that no training document holds: in "held_out" each is about a held-out pair
    of colour and shape, in "train" none is (new scenes of known pairs). Raises `MalmoiError` for unknown names."""
    for value, known, what in ((task, TASKS, "task"), (language, LANGUAGES, "language"), (split, SPLITS, "split")):
        if value not in known:
            raise MalmoiError(f"Pictures have no {what} '{value}'.{nearest(value, known)} Known: {', '.join(known)}.")
    purpose = f"village pictures examples {task} {language} {split}"
    return [
        _example(Draw(randomness.key(seed, purpose, index), split == "held_out"), task, language) for index in range(n)
    ]


def _example(draw: Draw, task: str, language: str) -> PictureExample:
    scene = draw_scene(draw)
    shifts = tuple((draw.between(-SHIFT, SHIFT), draw.between(-SHIFT, SHIFT)) for _ in scene)
    picture = Picture.of(paint(scene, shifts))
    if task != "question":
        return PictureExample(task, language, scene, picture, LABELS[language], words.caption(language, scene))
    prompt, answer = _question(draw, language, scene)
    return PictureExample(task, language, scene, picture, prompt, answer)


def _question(draw: Draw, language: str, scene: Scene) -> tuple[str, str]:
    """A question that the scene answers; of a held-out scene one about a held-out pair."""
    about = draw.pick([sight for sight in scene if sight.held_out] if draw.held_out else scene)
    kinds = ["count", "what"]
    if sum(sight.shape == about.shape for sight in scene) == 1:
        kinds.append("colour")
    if _count(scene, about.shape, about.colour) == 1:
        kinds.append("where")
    kind = draw.pick(kinds)
    if kind == "what":
        return words.what_is(language, about.place), words.a_thing(language, about)
    if kind == "colour":
        return words.which_colour(language, about.shape), words.colour_name(language, about)
    if kind == "where":
        return words.where(language, about), words.PLACES[about.place][language]
    return _counting(draw, language, scene, about)


def _counting(draw: Draw, language: str, scene: Scene, about: Sight) -> tuple[str, str]:
    """How many of a shape, or of a shape in a colour; one time in six of something that may not be there."""
    shape, colour = about.shape, about.colour
    if not draw.held_out and draw.chance(1 / 6):
        shape, colour = draw.pick(SHAPES), draw.pick(COLOURS)
        if is_held_out("sight", colour, shape):
            colour = ""
    elif not draw.held_out and draw.chance(0.4):
        colour = ""
    count = _count(scene, shape, colour)
    return words.how_many(language, shape, colour), words.number(language, shape, count)


def _count(scene: Scene, shape: str, colour: str) -> int:
    return sum(sight.shape == shape and colour in ("", sight.colour) for sight in scene)
