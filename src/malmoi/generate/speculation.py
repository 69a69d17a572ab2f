"""Guessing tokens ahead: several tokens for the price of one step, and the same text as without.

Reading one token costs a model nearly as much time as reading a few, because the time goes into fetching the weights.
So the next tokens are guessed cheaply, read together, and kept as far as they are what would have been written anyway
(Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023). Here "what would have been
written" is meant literally: each position has its own random number, a function of seed and position, so that the
engine draws the true token first and then looks whether it was guessed. The text is the one that plain writing gives,
greedy or sampled, and so is its distribution.

Two sources of guesses. *Prompt lookup* (Saxena, 2023): where the last tokens have stood before, what followed them then
may follow again; free, and good for edits, code, quotations. A *draft model*: a small model with the same vocabulary,
which uses the same random numbers, so that it often draws the same token.

A guess is made only while it pays. The time of steps is measured as a + b * rows; in a batch of n sequences an extra
row costs as much as n * b / (a + b * n) tokens would: that is its price. A sequence whose guesses hold with probability
p gains p ** i tokens from the i-th, so guesses go as deep as p ** i is above the price, and rest where even the first
is not; from time to time one is tried again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError
from malmoi.generate import sampling
from malmoi.generate.backend import Backend
from malmoi.generate.blocks import BlockPool
from malmoi.generate.writer import Writer

if TYPE_CHECKING:
    from malmoi.generate.beams import BeamSearch
    from malmoi.generate.scheduler import Job

_NGRAMS = (4, 3, 2)  # lengths of the endings that are looked up, the most telling first
_MEMORY = 0.98  # how much of a measured time is left after the next
_TRUST = 0.9  # how much of a guess's outcome is left after the next
_READ_AT_ONCE = 512  # tokens that a draft model catches up in one go


class Pace:
    """The time of a step as a + b * rows: least squares in which old steps count less and less."""

    def __init__(self) -> None:
        self.sums = np.zeros(5)  # weights, rows, seconds, rows^2, rows * seconds

    def add(self, rows: int, seconds: float) -> None:
        self.sums = self.sums * _MEMORY + (1, rows, seconds, rows * rows, rows * seconds)

    def fit(self) -> tuple[float, float]:
        """(a, b) in seconds; before rows have varied, b is taken for a tenth of a step."""
        weight, x, y, xx, xy = self.sums.tolist()
        if weight == 0:
            return 0.9, 0.1
        spread = xx - x * x / weight
        if spread < 0.5:
            mean = y / x
            return 0.9 * mean, 0.1 * mean
        b = max(0.0, (xy - x * y / weight) / spread)
        return max(0.0, (y - b * x) / weight), b


@dataclass(slots=True)
class _Record:
    """What is known about one sequence: how its guesses fared, and where its n-grams stood."""

    held: float = 1.0  # guesses that were right, counting the last ones most
    made: float = 2.0
    rest: int = 0  # tokens to wait before the next trial
    pause: int = 8
    indexed: int = 0
    places: dict[tuple[int, ...], int] = field(default_factory=dict)  # n-gram -> where it ended last

    def depth(self, price: float, most: int) -> int:
        """How many guesses pay; 1 as a trial when a rest is over."""
        chance = min(self.held / self.made, 0.99)
        if price < 1 and chance >= price:
            return min(most, int(math.log(max(price, 1e-9)) / math.log(chance)))
        if self.rest > 0:
            self.rest -= 1
            return 0
        self.pause = min(2 * self.pause, 512)
        self.rest = self.pause
        return 1 if price < 1 else 0

    def learn(self, made: int, held: int) -> None:
        tried = held + (held < made)
        self.held, self.made = self.held * _TRUST**tried + held, self.made * _TRUST**tried + tried
        if held == made:
            self.pause = 8

    def look_up(self, tokens: list[int], count: int) -> list[int]:
        """What followed the last tokens when they stood here before; a loop is followed round and round."""
        for end in range(self.indexed, len(tokens)):  # the newest ending itself is not yet among its own past
            for size in _NGRAMS:
                if end >= size:
                    self.places[tuple(tokens[end - size : end])] = end
        self.indexed = len(tokens)
        for size in _NGRAMS:
            place = self.places.get(tuple(tokens[-size:])) if len(tokens) >= size else None
            if place is not None:
                guess: list[int] = []
                for source in range(place, place + count):
                    guess.append(tokens[source] if source < len(tokens) else guess[source - len(tokens)])
                return guess
        return []


class Speculation:
    """Proposals for an engine: from `lookup`, else from a `draft` model, at most `most` tokens ahead."""

    def __init__(self, lookup: bool = True, draft: DraftModel | None = None, most: int = 8) -> None:
        self.lookup, self.draft, self.most = lookup, draft, most
        self.pace = Pace()
        self._records: dict[Job, _Record] = {}

    def propose(self, jobs: Sequence[tuple[Job, Writer | BeamSearch]]) -> None:
        """Give `proposals` to the jobs that are about to write one more token."""
        ready = [(job, writer) for job, writer in jobs if job.ready and job.branches[0].computed and job.keeps_cache]
        for job, _ in jobs:
            job.proposals = []
        a, b = self.pace.fit()
        rows = sum(len(job.branches) for job, _ in ready)
        price = rows * b / (a + b * rows) if rows else 1.0
        asked: list[tuple[Job, Writer, int]] = []
        for job, writer in ready:
            if not isinstance(writer, Writer) or len(job.branches) > 1:
                continue
            record = self._records.setdefault(job, _Record())
            depth = min(record.depth(price, self.most), writer.limit - writer.written - 1)
            if depth > 0 and self.lookup:
                job.proposals = record.look_up(writer.tokens, depth)
            if depth > 0 and not job.proposals and self.draft is not None:
                dear = (rows * b + self.draft.seconds) / (a + b * rows)
                asked.append((job, writer, min(depth, max(1, record.depth(dear, self.most)))))
        if asked and self.draft is not None:
            self.draft.propose(asked)

    def measured(self, rows: int, seconds: float) -> None:
        """A step in which every row's logits were wanted took so long."""
        self.pace.add(rows, seconds)

    def learn(self, job: Job, made: int, held: int) -> None:
        """Of a job's `made` proposals the first `held` were right."""
        self._records.setdefault(job, _Record()).learn(made, held)

    def forget(self, job: Job) -> None:
        self._records.pop(job, None)
        if self.draft is not None:
            self.draft.forget(job)


@dataclass(slots=True)
class _Past:
    """What a draft model has read of one sequence, guesses of its own included."""

    tokens: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    sure: int = 0  # of the tokens, so many are known to be the sequence's own


class DraftModel:
    """A small model over the same vocabulary that guesses for a large one; `backend` is its own, with its own cache."""

    def __init__(self, backend: Backend, vocab_size: int) -> None:
        if backend.vocab_size != vocab_size:
            raise MalmoiError(
                f"The draft model has a vocabulary of {backend.vocab_size} tokens and the model one of {vocab_size}: "
                "a draft model must share the tokenizer."
            )
        self.backend = backend
        self.pool = BlockPool(backend.num_blocks)
        self.pace = Pace()
        self._pasts: dict[Job, _Past] = {}

    @property
    def seconds(self) -> float:
        """What one more round of guesses takes."""
        weight, _, seconds, _, _ = self.pace.sums.tolist()
        return seconds / weight if weight else 0.0

    def propose(self, asked: Sequence[tuple[Job, Writer, int]]) -> None:
        """Guess for all sequences together, a round for each depth."""
        going = [(job, writer, depth) for job, writer, depth in asked if self._catch_up(job, writer, depth)]
        for round_ in range(max((depth for _, _, depth in going), default=0)):
            now = [(job, writer) for job, writer, depth in going if round_ < depth]
            texts = [writer.tokens + job.proposals for job, writer in now]
            began = time.perf_counter()
            rows = self._read([self._pasts[job] for job, _ in now], texts)
            self.pace.add(len(now), time.perf_counter() - began)
            for (job, writer), text, row in zip(now, texts, rows, strict=True):
                job.proposals.append(_guess(writer, text, row))

    def forget(self, job: Job) -> None:
        past = self._pasts.pop(job, None)
        for block in past.table if past is not None else ():
            self.pool.release(block)

    def _catch_up(self, job: Job, writer: Writer, depth: int) -> bool:
        """Forget wrong guesses and read what was written since; whether guessing can begin in this step."""
        past, tokens, size = self._pasts.setdefault(job, _Past()), writer.tokens, self.backend.block_size
        same = past.sure
        while same < min(len(past.tokens), len(tokens) - 1) and past.tokens[same] == tokens[same]:
            same += 1
        del past.tokens[same:]
        past.sure = same
        if len(tokens) + depth > self.backend.max_position:
            return False
        need = -(-(len(tokens) + depth) // size) - len(past.table)
        if need > self.pool.available:
            return False
        past.table += [self.pool.take() for _ in range(need)]
        if len(tokens) - same <= _READ_AT_ONCE:
            return True
        self._read([past], [tokens[: same + _READ_AT_ONCE]])
        return False

    def _read(self, pasts: Sequence[_Past], texts: Sequence[list[int]]) -> NDArray[Any]:
        """Read the rest of each text; the logits (S, V) after it."""
        rests = [text[len(past.tokens) :] for past, text in zip(pasts, texts, strict=True)]
        tables = np.zeros((len(pasts), max(len(past.table) for past in pasts)), dtype=np.int32)
        for number, past in enumerate(pasts):
            tables[number, : len(past.table)] = past.table
        counts = [len(rest) for rest in rests]
        positions = [np.arange(len(past.tokens), len(text)) for past, text in zip(pasts, texts, strict=True)]
        rows = self.backend.step(
            np.concatenate(rests).astype(np.int32),
            np.concatenate(positions).astype(np.int32),
            np.repeat(np.arange(len(pasts)), counts).astype(np.int32),
            tables,
            (np.cumsum(counts) - 1).astype(np.int32),
        )
        for past, rest in zip(pasts, rests, strict=True):
            past.tokens += rest
        return rows


def _guess(writer: Writer, text: list[int], row: NDArray[Any]) -> int:
    """The token that the draft model would write here, with the settings and the random number of the sequence."""
    config = writer.config
    try:
        shaped = sampling.shape(row, config, tokens=text, prompt_length=writer.prompt_length)
        if config.do_sample and config.seed is not None:
            return sampling.sample(shaped, sampling.draw(config.seed, len(text), writer.number))
        return sampling.greedy(shaped)
    except MalmoiError:
        return 0  # a draft model that is broken guesses wrongly, no more
