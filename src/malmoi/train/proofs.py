"""Exactness as something that anybody can see: the same result by two roads, on one's own model, data and machine.

Each proof computes something twice and gives the largest difference found, what is allowed, and the time it took. Zero
allowed means bit for bit. Elsewhere two roads add the same numbers in another order, and float32 rounds each sum: there
the difference must stay within a few units of its seventh digit, as the size of the numbers makes them grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmoi.config import TrainConfig
from malmoi.model.cache import Cache
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.model.taps import record, tap_names
from malmoi.train import checkpoint
from malmoi.train.loop import train
from malmoi.train.memory import in_pieces
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.step import gather_gradients

ROUNDING = 2e-4  # of the largest number: sums of float32 in another order, through all layers
FLOAT32 = Precision(torch.float32, torch.float32, "cpu")


@dataclass(frozen=True, slots=True)
class Proof:
    """What one comparison gave. `difference` is relative to the largest number compared."""

    name: str
    difference: float
    allowed: float  # 0: bit for bit
    seconds: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed  # False for NaN as well


@dataclass(frozen=True, slots=True)
class Subject:
    """What is proved about: a way to make the model anew, its training batches, and how it is trained."""

    make: Callable[[], GPT4LMHeadModel]
    batches: Any
    held_out: Sequence[Any]
    config: TrainConfig
    place: Path  # an empty folder to work in

    def still(self) -> GPT4LMHeadModel:
        """The model with nothing random in it: no dropout, evaluation mode."""
        return self.make().eval()

    def tokens(self, length: int = 48) -> Tensor:
        """(1, T) tokens of the first document that has two at least."""
        batch = self.batches.batch(0)
        first = batch.input_ids[0][batch.document_ids[0] == batch.document_ids[0, 0]]
        return (first if len(first) > 3 else batch.input_ids[0])[None, :length]


def proofs(subject: Subject, steps: int = 4) -> Iterator[Proof]:
    """Each proof in turn; `steps` is how long the runs are that are interrupted and resumed."""
    for name, allowed, compare in PROOFS:
        begin = time.perf_counter()
        difference = compare(subject, steps)
        yield Proof(name, difference, allowed, time.perf_counter() - begin)


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    if one.shape != other.shape:
        return float("inf")
    difference = float((one.double() - other.double()).abs().max())
    return difference / max(float(other.double().abs().max()), 1e-30) if difference else difference


def interrupted(subject: Subject, steps: int) -> float:
    """Train; train again, stop in the middle, resume: weights and optimizer state of both."""
    changes = {
        "max_steps": steps,
        "max_minutes": None,
        "num_train_epochs": None,
        "save_steps": 1,
        "eval_steps": max(steps // 2, 1),
        "early_stopping_patience": 0,
        "load_best_model_at_end": False,
        "memorization_samples": 0,
        "track": (),
    }
    config = subject.config.replace(**changes)
    ends = []
    for name in ("straight", "interrupted"):
        run = train(subject.make(), subject.batches, config, folder=subject.place / name, held_out=subject.held_out)
        for step in run:
            if name == "interrupted" and step.step == max(steps // 2, 1):
                run.close()  # pyright: ignore[reportAttributeAccessIssue]
        model = subject.make()
        resumed = train(
            model, subject.batches, config, folder=subject.place / name, held_out=subject.held_out, resume=True
        )
        list(resumed)
        optimizer = build(model, config)
        path = checkpoint.path_of(subject.place / name, steps)
        checkpoint.load(path, model, optimizer)
        ends.append({**checkpoint.model_tensors(model), **optimizer.state_tensors()})
    if ends[0].keys() != ends[1].keys():
        return float("inf")
    return max(_apart(ends[0][name], ends[1][name]) for name in ends[0])


def accumulated(subject: Subject, steps: int) -> float:
    """The gradients of one batch at once and in pieces of a row (or of an eighth of the rows)."""
    batch = subject.batches.batch(0)
    pieces = in_pieces([batch], min(len(batch.input_ids), 8))
    found = []
    for batches in ([batch], pieces):
        model = subject.still()
        gather_gradients(model, batches, batch.num_target_tokens, FLOAT32, (0, 0), 0.0)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return _apart(found[1], found[0])


@torch.no_grad()
def cached(subject: Subject, steps: int) -> float:
    """A text read at once, and token by token with the past in the cache."""
    model, ids = subject.still(), subject.tokens()
    cache = Cache()
    parts = [model(ids[:, place : place + 1], cache=cache).logits for place in range(ids.shape[1])]
    return _apart(torch.cat(parts, dim=1), model(ids).logits)


@torch.no_grad()
def packed(subject: Subject, steps: int) -> float:
    """Documents side by side in a row, and each of them alone."""
    model, batch = subject.still(), subject.batches.batch(0)
    row = slice(0, 1)
    together = model.hidden_states(
        batch.input_ids[row], position_ids=batch.position_ids[row], document_ids=batch.document_ids[row]
    )
    worst = 0.0
    for document in batch.document_ids[0].unique()[:8]:
        here = batch.document_ids[0] == document
        alone = model.hidden_states(batch.input_ids[row][:, here], position_ids=batch.position_ids[row][:, here])
        worst = max(worst, _apart(together[:, here], alone))
    return worst


@torch.no_grad()
def observed(subject: Subject, steps: int) -> float:
    """The same text with every tap watched and with none."""
    model, ids = subject.still(), subject.tokens()
    plain = model(ids).logits
    with record(model, tap_names(model)):
        watched = model(ids).logits
    return _apart(watched, plain)


@torch.no_grad()
def in_a_batch(subject: Subject, steps: int) -> float:
    """A short text alone, and padded beside a longer one."""
    model, ids = subject.still(), subject.tokens()
    short = ids[:, : max(ids.shape[1] // 2, 1)]
    missing = ids.shape[1] - short.shape[1]
    both = torch.cat([torch.cat([short.new_zeros(1, missing), short], dim=1), ids])
    mask = torch.ones_like(both)
    mask[0, :missing] = 0
    return _apart(model(both, attention_mask=mask).logits[:1, missing:], model(short).logits)


@torch.no_grad()
def exported(subject: Subject, steps: int) -> float:
    """The model, and what is read back from the folder that it was written to: every weight and the logits."""
    model, ids = subject.still(), subject.tokens()
    model.save_pretrained(subject.place / "exported")
    again = GPT4LMHeadModel.from_pretrained(subject.place / "exported").eval()
    mine, theirs = (checkpoint.model_tensors(each) for each in (model, again))
    if mine.keys() != theirs.keys():
        return float("inf")
    return max(_apart(again(ids).logits, model(ids).logits), *(_apart(theirs[name], mine[name]) for name in mine))


# Name, what is allowed, how it is compared. (An eighth, planned = counted, needs no tensor: see `malmoi verify`.)
PROOFS: tuple[tuple[str, float, Callable[[Subject, int], float]], ...] = (
    ("interrupted", 0.0, interrupted),
    ("accumulated", ROUNDING, accumulated),
    ("cached", ROUNDING, cached),
    ("packed", ROUNDING, packed),
    ("observed", 0.0, observed),
    ("in_a_batch", ROUNDING, in_a_batch),
    ("exported", 0.0, exported),
)
