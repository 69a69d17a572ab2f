"""The Village's tasks: documents to learn from, examples to be examined on.

Document i is a pure function of (seed, split, i), so several processes can make disjoint ranges of one corpus. Its task
and language follow from the mixture's weights; `WEIGHTS` is the default.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from malmoi import randomness
from malmoi.config import MalmoiError, nearest
from malmoi.data.corpus import Document
from malmoi.data.village import arithmetic, dialogue, questions, stories, translation
from malmoi.data.village.scenes import Draw

LANGUAGES: tuple[str, ...] = ("ko", "en", "fr")
DIRECTIONS: tuple[str, ...] = translation.DIRECTIONS
TASKS: tuple[str, ...] = ("story", "translation", "question1", "question2", "question3", "arithmetic", "dialogue")
SPLITS: tuple[str, ...] = ("train", "held_out")

# The share of documents of each task. Translation has six directions to learn and the most to gain from practice.
WEIGHTS: dict[str, float] = {
    "translation": 0.48,
    "question1": 0.24,
    "question2": 0.07,
    "question3": 0.05,
    "story": 0.05,
    "arithmetic": 0.05,
    "dialogue": 0.06,
}

# The share of task documents of which only the answers are learned, as in instruction tuning: half of the words of a
# translation are a sentence that nobody could foresee, and their noise hides what the other half can teach. The rest
# are learned whole, so that the model can pose tasks too.
ANSWERS_ONLY = 0.9


def labels(task: str) -> tuple[str, ...]:
    """The languages of a task; for translation the six directions (`en-ko`: from English to Korean)."""
    return DIRECTIONS if task == "translation" else LANGUAGES


@dataclass(frozen=True, slots=True)
class Example:
    """A question with one right answer. `prompt` ends in a line break and begins a document that goes on with `answer`.

    `messages` is set where the task is a conversation: what was said so far, to be rendered by the chat template
    (`prompt` then holds the last request alone).
    """

    prompt: str
    answer: str
    task: str
    language: str
    messages: tuple[Mapping[str, Any], ...] | None = None
    skill: str = ""  # how the answer is scored, where the task mixes skills


def _check(task: str, language: str | None, split: str) -> None:
    if task not in TASKS:
        raise MalmoiError(f"The Village has no task '{task}'.{nearest(task, TASKS)} Tasks: {', '.join(TASKS)}.")
    if language is not None and language not in labels(task):
        raise MalmoiError(
            f"The task '{task}' has no language '{language}'.{nearest(language, labels(task))} "
            f"It has: {', '.join(labels(task))}."
        )
    _check_split(split)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise MalmoiError(f"The Village has no split '{split}'.{nearest(split, SPLITS)} Splits: {', '.join(SPLITS)}.")


def shares(weights: Mapping[str, float] | None = None) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Tasks and their cumulative weights; refuses unknown tasks, negative weights and a mixture of nothing."""
    weights = WEIGHTS if weights is None else weights
    for task, weight in weights.items():
        _check(task, None, "train")
        if not 0 <= weight < float("inf"):
            raise MalmoiError(f"The weight of the Village's task '{task}' is {weight}; it must be a number from 0.")
    if sum(weights.values()) <= 0:
        raise MalmoiError("The Village's mixture has no task with a weight above 0.")
    tasks = tuple(task for task in TASKS if weights.get(task))
    return tasks, tuple(itertools.accumulate(weights[task] for task in tasks))


def text_of(draw: Draw, task: str, language: str) -> str:
    """One document of a task that is plain text."""
    if task == "translation":
        return translation.document(draw, language)
    if task == "story":
        return stories.document(draw, language)
    if task == "arithmetic":
        return arithmetic.document(draw, language)
    return questions.document(draw, task, language)


def questions_in(text: str, task: str) -> tuple[tuple[int, int], ...]:
    """The lines of a document that pose a task, as (start, end) with their line break; what is left is the answers."""
    lines = text.splitlines(keepends=True)
    ends = list(itertools.accumulate(map(len, lines)))
    spans = zip([0, *ends], ends, strict=False)
    # A story is worth learning for itself; before a question's answer it is only what the question is about.
    if task == "story":
        return tuple(span for number, span in enumerate(spans) if number % 2 == 1)
    first = 1 if task.startswith("question") else 0
    return tuple(span for number, span in enumerate(spans) if number < first or (number - first) % 2 == 0)


def documents(
    seed: int = 0,
    split: str = "train",
    start: int = 0,
    stop: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> Iterator[Document]:
    """The Village's documents number `start` to `stop` (None: without end).

    Each is a function of (seed, split, number, weights) alone. In "train" no held-out combination occurs; in "held_out"
    every document has one. `id` names split, seed, number, task and language.
    """
    _check_split(split)
    tasks, cumulative = shares(weights)
    purpose = f"village {split}"
    for index in itertools.count(start) if stop is None else range(start, stop):
        draw = Draw(randomness.key(seed, purpose, index), split == "held_out")
        roll = draw.random() * cumulative[-1]
        task = next((task for task, until in zip(tasks, cumulative, strict=True) if roll < until), tasks[-1])
        language = draw.pick(labels(task))
        name = f"village/{split}/{seed}/{index}/{task}/{language}"
        if task == "dialogue":
            yield Document(messages=dialogue.messages(draw, language), source="village", id=name, license="Apache-2.0")
        else:
            text = text_of(draw, task, language)
            given = questions_in(text, task) if draw.chance(ANSWERS_ONLY) else ()
            yield Document(text=text, given=given, source="village", id=name, license="Apache-2.0")


def examples(task: str, language: str, n: int, seed: int = 0, split: str = "held_out") -> list[Example]:
    """`n` different examples of a task in a language (for translation a direction such as "en-ko").

    In "held_out" each needs a combination that training never showed; in "train" none does. Raises `MalmoiError` for an
    unknown task, language or split.
    """
    _check(task, language, split)
    found: dict[str, Example] = {}
    for index in itertools.count():
        if len(found) >= n:
            break
        if index > 100 * n + 1000:
            raise MalmoiError(f"The Village has fewer than {n} different examples of '{task}' in '{language}'.")
        draw = Draw(randomness.key(seed, f"village examples {task} {language} {split}", index), split == "held_out")
        example = _example(draw, task, language)
        found.setdefault(example.prompt, example)
    return list(found.values())


def _example(draw: Draw, task: str, language: str) -> Example:
    if task == "dialogue":
        messages, answer, skill = dialogue.scored(draw, language)
        return Example(messages[-1]["content"] + "\n", answer, task, language, messages, skill)
    if task == "translation":
        prompt, answer = translation.example(draw, language)
    elif task == "arithmetic":
        prompt, answer = arithmetic.example(draw, language)
    elif task == "story":
        prompt, answer = stories.example(draw, language)
    else:
        prompt, answer = questions.example(draw, task, language)
    return Example(prompt, answer, task, language, None, task)


_NUMBER = re.compile(r"\d+")


def first_line(text: str) -> str:
    """The first line, with every run of white space as one space."""
    return " ".join(text.split("\n", 1)[0].split())


def is_correct(example: Example, completion: str) -> bool:
    """Whether a completion answers the example: its first line equals the answer; of a sum, its last number does."""
    said = first_line(completion)
    if example.skill == "arithmetic" or example.task == "arithmetic":
        return _NUMBER.findall(said)[-1:] == _NUMBER.findall(example.answer)[-1:]
    return said == first_line(example.answer)
