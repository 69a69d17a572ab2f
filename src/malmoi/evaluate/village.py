"""How many of the Village's questions does a model answer exactly? By task and language, on combinations never seen.

The Village knows the right answer to each of its questions, so nothing has to be judged: the model continues a prompt
greedily up to the end of the line or of its turn, and the answer is right or it is not. A share measured on n examples
is uncertain, and its 95 % interval says how much: Wilson's, which stays honest near 0 and 1 and for small n (Wilson,
"Probable Inference, the Law of Succession, and Statistical Inference", 1927; Brown, Cai & DasGupta, 2001).

For speed, examples of all tasks and languages are written together, sorted by the length of their prompts so that
little is padded. Batching changes nothing in what is written (see `generate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from malmoi.config import GenerationConfig, MalmoiError, nearest
from malmoi.data import village
from malmoi.generate.engine import generate
from malmoi.tokens import chat

if TYPE_CHECKING:
    from malmoi.data.village import Example
    from malmoi.generate.backend import Backend
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

BATCH = 128  # examples written together


def village_accuracy(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    n_per_task: int = 50,
    seed: int = 0,
    tasks: Iterable[str] | None = None,
    *,
    split: str = "held_out",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Exact answers to `n_per_task` examples of each task in each language (of translation: in each direction), by a
    model or the backend of an engine.

    Returns plain data: `rows` (one a task and language, in the Village's order), `tasks` and `languages` (name -> the
    sum over the other; a translation counts for the language it is into), `total`, and `seed`, `split`. Each of them
    holds `n`, `correct`, `exact` (the share) and its 95 % interval `low`, `high`; a row also its `task` and `language`.
    A prompt that leaves the model's context no room for the answer counts as wrong, and in `too_long`.
    `progress(done, all)` is called after every batch.

    Raises `MalmoiError` for an unknown task, naming the nearest.
    """
    chosen = _known_tasks(tasks)
    if n_per_task < 1:
        raise MalmoiError(f"n_per_task={n_per_task}, but at least one example of each task is needed.")
    places = [(task, language) for task in chosen for language in village.labels(task)]
    examples = [
        example
        for task, language in places
        for example in village.examples(task, language, n_per_task, seed=seed, split=split)
    ]
    completions = complete(model, tokenizer, examples, progress=progress)
    counts = {place: [0, 0, 0] for place in places}  # n, correct, too long
    for example, completion in zip(examples, completions, strict=True):
        count = counts[example.task, example.language]
        count[0] += 1
        count[1] += completion is not None and village.is_correct(example, completion)
        count[2] += completion is None

    def over(places: Iterable[tuple[str, str]]) -> dict[str, Any]:
        return share(*(sum(column) for column in zip(*(counts[place] for place in places), strict=True)))

    return {
        "rows": [{"task": task, "language": language, **over([(task, language)])} for task, language in places],
        "tasks": {name: over(place for place in places if place[0] == name) for name in chosen},
        "languages": {
            name: over(place for place in places if place[1].split("-")[-1] == name) for name in village.LANGUAGES
        },
        "total": over(places),
        "seed": seed,
        "split": split,
    }


def complete(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    examples: Sequence[Example],
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> list[str | None]:
    """What the model writes greedily after each prompt, to the end of the line or its turn; None where it has no room.

    An answer may take a quarter more tokens than the right one and eight besides; what has not come to an end by then
    is wrong in any case.
    """
    context: int = getattr(model, "max_position", None) or model.config.max_position_embeddings  # pyright: ignore[reportAttributeAccessIssue]
    prompts = _prompts(tokenizer, examples)
    answers = [len(ids) for ids in tokenizer.encode_batch([example.answer for example in examples])]
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) + answers[index] < context]
    fitting.sort(key=lambda index: (len(prompts[index]), answers[index]), reverse=True)  # memory is largest at first
    ends = (tokenizer.eos_token_id, tokenizer.special_tokens.get(chat.END))
    completions: list[str | None] = [None] * len(examples)
    done = len(examples) - len(fitting)
    for begin in range(0, len(fitting), batch):
        chosen = fitting[begin : begin + batch]
        longest = max(answers[index] for index in chosen)
        room = context - max(len(prompts[index]) for index in chosen)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(longest + longest // 4 + 8, room),
            stop_strings=("\n",),
            eos_token_id=tuple(end for end in ends if end is not None),
        )
        made = generate(model, [prompts[index] for index in chosen], config, tokenizer=tokenizer)
        assert made.texts is not None
        for index, text in zip(chosen, made.texts, strict=True):
            completions[index] = text
        done += len(chosen)
        if progress is not None:
            progress(done, len(examples))
    return completions


def _prompts(tokenizer: GPT4Tokenizer, examples: Sequence[Example]) -> list[list[int]]:
    """The ids that the model continues: a text, or a conversation up to where the assistant begins to speak."""
    ids = tokenizer.encode_batch([example.prompt for example in examples])
    return [
        ids[index] if example.messages is None else chat.prompt_ids(tokenizer, example.messages, True)
        for index, example in enumerate(examples)
    ]


def share(n: int, correct: int, too_long: int = 0) -> dict[str, Any]:
    """A count as plain data: the share that is exact and its 95 % interval."""
    low, high = wilson(correct, n)
    return {"n": n, "correct": correct, "exact": correct / n, "low": low, "high": high, "too_long": too_long}


def wilson(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval for a share: each p for which `correct` is within z deviations of p n."""
    if not 0 <= correct <= n or n < 1:
        raise MalmoiError(f"{correct} of {n} is no share.")
    p, weight = correct / n, 1 + z * z / n
    middle = (p + z * z / (2 * n)) / weight
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / weight
    return (0.0 if correct == 0 else max(0.0, middle - reach)), (1.0 if correct == n else min(1.0, middle + reach))


def _known_tasks(asked: Iterable[str] | None) -> tuple[str, ...]:
    chosen = village.TASKS if asked is None else (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    for name in chosen:
        if name not in village.TASKS:
            raise MalmoiError(
                f"The Village has no task '{name}'.{nearest(name, village.TASKS)} Tasks: {', '.join(village.TASKS)}."
            )
    if not chosen:
        raise MalmoiError(f"No task was chosen. The Village has: {', '.join(village.TASKS)}.")
    return chosen
