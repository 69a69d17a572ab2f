"""What a run carries from step to step besides weights and optimizers, and what makes a resumed run the same run."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from malmoi.config import Config, MalmoiError, ModelConfig, TrainConfig

FREE_TO_CHANGE = (
    "save_steps",
    "save_total_limit",
    "num_threads",
    "memorization_samples",
    "track",
)  # they do not touch what is computed (threads: but for rounding, which the run then says)


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step. Losses in nats per token."""

    step: int  # 1 is the first
    max_steps: int
    loss: float  # of this step's batches
    learning_rate: float  # AdamW's; Muon's follows the same curve
    grad_norm: float  # before clipping
    tokens: int  # read since the beginning, padding included
    tokens_per_second: float  # of this step
    seconds: float  # since the beginning, earlier sessions included
    epoch: int
    held_out_loss: float | None = None  # where this step was evaluated
    bits_per_byte: float | None = None  # of the held-out text
    gap: float | None = None  # held-out loss minus the mean training loss since the evaluation before
    memorized: float | None = None  # share of training passages continued word for word, where that was measured
    joules: float | None = None  # of all sessions, where this step was logged
    skipped: int = 0  # steps skipped so far: something was not finite, or a spike
    events: tuple[str, ...] = ()  # resumed, halved, skipped, evaluated, saved, stopped early, interrupted, finished
    message: str = ""  # what a person should read, if anything

    @property
    def event(self) -> str:
        """The last and weightiest of `events`, or the empty string."""
        return self.events[-1] if self.events else ""


@dataclass
class Progress:
    """Counters of a run; part of each checkpoint, exact through JSON."""

    step: int = 0
    tokens: int = 0  # read in steps that were applied
    seconds: float = 0.0  # of all sessions together
    skipped: int = 0
    pieces: int = 1  # that each batch is cut into, since memory did not suffice for the whole
    logged: list[float] = field(default_factory=lambda: [0.0, 0.0])  # loss sum and steps since the last line
    evaluated: list[float] = field(default_factory=lambda: [0.0, 0.0])  # the same since the last evaluation
    stopped: bool = False  # early, for good

    def add(self, loss: float) -> None:
        for window in (self.logged, self.evaluated):
            window[0] += loss
            window[1] += 1

    @staticmethod
    def take(window: list[float]) -> float:
        """The mean of a window, which begins anew; NaN if every step in it was skipped."""
        mean = window[0] / window[1] if window[1] else math.nan
        window[:] = [0.0, 0.0]
        return mean


def fingerprint(batches: Any) -> str:
    """A hash of everything that decides what will be learned from, and in which order.

    For `malmoi.data.batches.Batches`: the manifests of its token files (which hold the hashes of their files), the
    documents, weights and epochs of each part, the shape and the seed; not the number of processes that share the work.
    Other batches may bring a `fingerprint` of their own; without one their first two batches are hashed.
    """
    own = getattr(batches, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    digest = hashlib.sha256()
    if hasattr(batches, "mixture"):
        shape = (batches.sequence_length, batches.batch_size, batches.seed)
        for part in batches.mixture.parts:
            view = part.view
            facts = (view.token_file.manifest, part.weight, part.epochs, shape)  # no path: a run's folder may be moved
            digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
            digest.update(view.documents.tobytes())
        return digest.hexdigest()
    for index in range(2):
        batch = batches.batch(index)
        for tensor in (batch.input_ids, batch.labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _defaults(cls: type[Config]) -> dict[str, Any]:
    fields = cls.model_fields.items()
    return {name: to_jsonable_python(info.default, fallback=str) for name, info in fields if not info.is_required()}


def check_same_run(path: Path, state: dict[str, Any], config: TrainConfig, model: dict[str, Any], data: str) -> None:
    """Raise `MalmoiError`, naming the field, unless settings and data are those that the checkpoint was made with.

    `max_steps` may be the settled number or the one that was asked for; how often to save, and the number of threads,
    may change. A setting that did not exist when the checkpoint was made counts as left at its default.
    """
    defaults = {"train": _defaults(TrainConfig), "model": _defaults(ModelConfig)}
    for part, settings in (("train", config.model_dump(mode="json")), ("model", model)):
        for name in {**settings, **state[part]}:  # as they are declared: what decides others comes before them
            now, then = (given.get(name, defaults[part].get(name)) for given in (settings, state[part]))
            free = part == "train" and (name in FREE_TO_CHANGE or (name == "max_steps" and now == state["max_steps"]))
            if now != then and not free:
                raise MalmoiError(
                    f"{path}: {part}.{name} was {then!r} when this run began and is {now!r} now. A resumed run must be "
                    f"the same run: put the old value back, or start a new run in another folder."
                )
    if state["data"] != data:
        raise MalmoiError(
            f"{path}: the training data have changed since this run began (fingerprint {state['data'][:16]} then, "
            f"{data[:16]} now). Put the old data back, or start a new run in another folder."
        )
