"""Many trainings on one preparation: what `sweep` and `scale` share.

The tokenizer is learned and the texts are tokenised once, into `data/`. Every training then differs from the recipe in
a few settings and in its length, goes through the same `build_model`, `build_batches` and `train` as `malmoi train`,
and is measured on the same held-out tokens, at evenly spaced places.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli import pipeline, preparing
from malmoi.cli.console import language
from malmoi.cli.folders import RECIPE
from malmoi.config import MalmoiError, Recipe, TrainConfig

if TYPE_CHECKING:
    from malmoi.data.tokenfile import TokenFile
    from malmoi.tokens.tokenizer import GPT4Tokenizer
    from malmoi.train.loop import Step

DATA = "data"
WARMUP_AT_MOST, DECAY_AT_MOST = 0.2, 0.8  # of a short run, where a recipe counts them in steps of a long one
ALONE = {  # of a short run that is only measured: nothing is kept, looked for or sent
    "max_minutes": None,
    "num_train_epochs": None,
    "early_stopping_patience": 0,
    "load_best_model_at_end": False,
    "memorization_samples": 0,
    "save_total_limit": 1,
    "save_steps": 1_000_000_000,
    "track": (),
}
UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "hours": 3600, "d": 86_400, "": 60}


@dataclass(frozen=True)
class Prepared:
    """A recipe whose data are ready. `settings` are those of the recipe itself."""

    settings: pipeline.Settings
    folder: Path  # holds tokenizer/, tokens/, perhaps validation/
    tokenizer: GPT4Tokenizer
    tokens: TokenFile

    @property
    def unique_tokens(self) -> int:
        """Of training text: a run that reads more of them reads some twice."""
        return self.tokens.train.num_tokens


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this machine learns, as timed on a few steps."""

    seconds_per_token: float
    seconds_per_measured_token: float  # of held-out text


def prepare(recipe: Recipe, folder: Path, show: pipeline.Show) -> Prepared:
    """Learn the tokenizer and tokenise the texts in `folder`/data, or take what is there already.

    Raises `MalmoiError` for a recipe that cannot work, before anything is read, and for data of which nothing is held
    out.
    """
    from malmoi.tokens.folder import write_text
    from malmoi.train import job

    settings = pipeline.resolve(recipe)
    if job.started_together():
        raise MalmoiError("Trials are short and run in one process each; start this command without torchrun.")
    job.of(recipe)  # settings for several processes are refused here as everywhere
    place = folder / DATA
    if (place / RECIPE).is_file() and Recipe.from_yaml(place / RECIPE) != settings.recipe:
        shutil.rmtree(place)  # left by a call that failed later on, with another recipe
    preparing.begin(place, settings.recipe)
    tokenizer = pipeline.prepare_tokenizer(settings, place, show)
    tokens = pipeline.prepare_tokens(settings, place, tokenizer, show)
    if not (place / RECIPE).is_file():
        write_text(place / RECIPE, settings.recipe.to_yaml())
        preparing.end(place)
    if not recipe.data.validation and not len(tokens.held_out):
        raise MalmoiError(
            "Nothing is held out to measure on. Raise data.held_out in the recipe, or name files in data.validation."
        )
    return Prepared(settings, place, tokenizer, tokens)


def check_new(folder: Path, what: str) -> None:
    """A new sweep or ladder never writes over anything; data prepared before are welcome."""
    if folder.exists() and (not folder.is_dir() or any(entry.name != DATA for entry in folder.iterdir())):
        raise MalmoiError(f"{folder}: is there already and holds no {what}. Choose another --out, or delete it.")


def discard(folder: Path) -> None:
    """Remove what a call that failed at once has begun; whole prepared data stay, for they can take hours."""
    for entry in list(folder.iterdir()):
        if entry.name == DATA and (entry / RECIPE).is_file():
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some settings changed: {"train.learning_rate": 0.01}."""
    parts: dict[str, Any] = {}
    for name, value in changes.items():
        part, _, field = name.partition(".")
        own = parts.setdefault(part, getattr(recipe, part))
        own = own.model_dump(exclude_unset=True) if hasattr(own, "model_dump") else dict(own or {})
        parts[part] = {**own, field: value}
    return Recipe(**{**recipe.model_dump(exclude_unset=True), **parts})


def resolved(
    prepared: Prepared, recipe: Recipe, tokens: int, parts: int, eval_tokens: int, seed_further: int = 0
) -> pipeline.Settings:
    """The settings of one run over so many `tokens`, measured at `parts` places on up to `eval_tokens` tokens."""
    settings = pipeline.resolve(recipe)
    own = settings.train
    steps = max(round(tokens / step_tokens(own)), 1)
    train = own.replace(
        **ALONE,
        max_steps=steps,
        eval_steps=max(math.ceil(steps / parts), 1),
        eval_tokens=eval_tokens,
        logging_steps=max(steps // 50, 1),
        warmup_steps=_fitting(own.warmup_steps, steps, WARMUP_AT_MOST),
        decay_steps=_fitting(own.decay_steps, steps, DECAY_AT_MOST),
        seed=prepared.settings.train.seed + seed_further,
    )
    return replace(settings, train=train, recipe=settings.recipe.replace(train=train.model_dump(mode="json")))


def step_tokens(train: TrainConfig) -> int:
    """Tokens that one optimizer step learns from."""
    return train.sequence_length * train.per_device_train_batch_size * train.gradient_accumulation_steps


def run(prepared: Prepared, settings: pipeline.Settings, folder: Path, *, resume: bool = False) -> Iterator[Step]:
    """One training, as an iterator of steps. Raises `MalmoiError` at once for settings that do not go together."""
    from malmoi.train.job import Alone
    from malmoi.train.loop import train

    model = pipeline.build_model(settings, prepared.tokenizer)
    Alone().take(model, settings.recipe.parallel, settings.train)
    batches, held_out = _batches(prepared, settings)
    return train(
        model,
        batches,
        settings.train,
        folder=folder,
        held_out=held_out,
        resume=resume,
        recipe=settings.recipe,
        language=language(),
    )


def pace(prepared: Prepared, settings: pipeline.Settings) -> Pace:
    """Time a few steps and an evaluation on a model that is then dropped; a second or two."""
    from malmoi.train.budget import time_steps
    from malmoi.train.job import Alone

    model = pipeline.build_model(settings, prepared.tokenizer)
    batches, held_out = _batches(prepared, settings)
    count, alone = settings.train.gradient_accumulation_steps, Alone()
    alone.take(model, settings.recipe.parallel, settings.train)
    config = settings.train.replace(max_minutes=1)  # only says how long the timing itself may take
    precision = alone.precision(config, next(model.parameters()).device)
    per_step, per_evaluation = time_steps(
        model,
        lambda step: [batches.batch(number) for number in range(step * count, (step + 1) * count)],
        held_out[:1],
        config,
        precision,
        alone.step,
    )
    measured = max(held_out[0].num_target_tokens, 1)
    return Pace(per_step / step_tokens(settings.train), per_evaluation / measured)


def _batches(prepared: Prepared, settings: pipeline.Settings) -> tuple[Any, Any]:
    """Training batches of this run, and held-out batches of the recipe's own size: the same exam for all."""
    batches, held_out = pipeline.build_batches(settings, prepared.tokens, prepared.folder)
    rows = prepared.settings.train.per_device_train_batch_size
    if settings.train.per_device_train_batch_size != rows:
        exam = replace(settings, train=settings.train.replace(per_device_train_batch_size=rows))
        _, held_out = pipeline.build_batches(exam, prepared.tokens, prepared.folder)
    return batches, held_out


def _fitting(setting: float, steps: int, at_most: float) -> float:
    """A share of the run stays what it is; a count made for a longer run is cut to a share of this one."""
    return setting if setting < 1 else min(setting, max(math.floor(at_most * steps), 1))


def seconds_of(text: str) -> float:
    """`30min`, `2h`, `1h30m`, `90s`; a bare number counts minutes. Raises `MalmoiError` for anything else."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    whole = "".join(number + unit for number, unit in pieces) == re.sub(r"\s+", "", text.lower())
    if not pieces or not whole or any(unit not in UNITS for _, unit in pieces):
        raise MalmoiError(f"'{text}' is no length of time. Write 30min, 2h, 1h30m or 90s.")
    seconds = sum(float(number) * UNITS[unit] for number, unit in pieces)
    if seconds <= 0:
        raise MalmoiError(f"A budget of '{text}' is no time at all.")
    return seconds
