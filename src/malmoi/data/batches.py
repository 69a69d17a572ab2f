"""TOKENS -> BATCHES: the rectangles of tokens that training and evaluation read.

Rows are packed with whole documents (`packing.py`), and a document never sees its neighbours: the model lets tokens
attend only within equal `document_ids`, and `position_ids` begin again at 0 with every document.

The order is a function of (seed, step): `batch(step)` can be asked for in any order and gives the same tokens, so a
run resumes from the number of its step alone, in the middle of any epoch. `batch_size` counts the rows of all ranks
together, and rank r takes the r-th slice of them: one process or four, the steps are the same.

Legend: B rows of this rank, T tokens a row, R rows an epoch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data.mixture import Mixture, Part, Schedule
from malmoi.data.packing import Plan, pack, ranges
from malmoi.data.tokenfile import TokenFile, View

IGNORED = -100  # a label that no loss is computed for


@dataclass(frozen=True, slots=True)
class Batch:
    """One rectangle of tokens; torch int64 tensors of shape (B, T).

    `labels[t]` is the token that position t shall predict, already aligned: the next one of the same document, also
    where a long document goes on in another row. It is -100 where there is none (the end of a document, padding) or
    where nothing shall be learned (what others say in a conversation). What is left of a row is filled with
    end-of-text tokens as one more document without labels.
    """

    input_ids: Any
    labels: Any
    position_ids: Any
    document_ids: Any  # 0, 1, ... within each row
    num_target_tokens: int
    num_bytes: int | None  # of the text that the targets stand for, under bits per byte; None: they may be pictures

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors on another device."""
        tensors = ("input_ids", "labels", "position_ids", "document_ids")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


class Batches:
    """The endless sequence of training batches; `batch(step)` is a pure function of (seed, step).

    Every epoch goes through every token once (a mixture: as often as its weights say), its rows in a new order. The
    last rows of an epoch and the first of the next may share a batch; nothing is dropped.
    Raises `MalmoiError` when there is less text than one row.
    """

    def __init__(
        self,
        data: Mixture | View | TokenFile,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if sequence_length < 1 or batch_size < 1:
            raise MalmoiError(f"sequence_length={sequence_length} and batch_size={batch_size} must be at least 1.")
        if world_size < 1 or not 0 <= rank < world_size or batch_size % world_size:
            raise MalmoiError(
                f"batch_size={batch_size} rows cannot be shared evenly by world_size={world_size} (rank={rank}). "
                f"Choose a multiple of {world_size}."
            )
        if isinstance(data, TokenFile):
            data = data.train
        self.mixture = data if isinstance(data, Mixture) else Mixture([Part(data)])
        self.sequence_length, self.batch_size, self.seed = sequence_length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._views = [part.view for part in self.mixture.parts]
        tokens = sum(view.num_tokens for view in self._views)
        if tokens < sequence_length:
            raise MalmoiError(
                f"{self._views[0].label}: has {tokens:,} tokens, fewer than one context of {sequence_length:,}. "
                f"Add text, or set a smaller sequence_length."
            )

    @functools.cached_property
    def _plans(self) -> list[Plan]:
        return [
            pack(view.lengths, self.sequence_length, randomness.key(self.seed, "part", number))
            for number, view in enumerate(self._views)
        ]

    @functools.cached_property
    def _schedule(self) -> Schedule:
        return Schedule(self.mixture.rows_per_epoch([plan.num_rows for plan in self._plans]), self.seed)

    @property
    def rows_per_epoch(self) -> int:
        return self._schedule.rows_per_epoch

    @property
    def fill(self) -> float:
        """The share of all positions that hold tokens and not padding."""
        shares = np.array(self._schedule.counts) / self.rows_per_epoch
        return float(sum(share * plan.fill for share, plan in zip(shares, self._plans, strict=True)))

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """How many steps begin in an epoch. Epochs end within a batch, so this may differ by one between epochs."""
        first, last = (-(-(epoch + more) * self.rows_per_epoch // self.batch_size) for more in (0, 1))
        return last - first

    def epoch_of(self, step: int) -> int:
        """The epoch in which a step begins."""
        return step * self.batch_size // self.rows_per_epoch

    def batch(self, step: int) -> Batch:
        """The batch of a step, this rank's rows of it."""
        if step < 0:
            raise MalmoiError(f"Steps are counted from 0; there is no step {step}.")
        size = self.batch_size // self.world_size
        rows = step * self.batch_size + self.rank * size + np.arange(size)
        parts, numbers = self._schedule.locate(rows)
        chosen = []
        for part in np.unique(parts):
            places = np.flatnonzero(parts == part)
            epochs, within = np.divmod(numbers[places], self._plans[part].num_rows)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                order = self._row_order(int(part), int(epoch))
                chosen.append((self._views[part], self._plans[part], order[within[here]], places[here]))
        return assemble(chosen, size, self.sequence_length)

    def _row_order(self, part: int, epoch: int) -> np.ndarray:
        """(R,) the order in which an epoch of one part takes its rows."""
        cache: dict[tuple[int, int], np.ndarray] = self.__dict__.setdefault("_orders", {})
        order = cache.get((part, epoch))
        if order is None:
            for old in [key for key in list(cache) if key[0] == part][:-1]:
                cache.pop(old, None)  # a batch needs at most this epoch and the next; threads may both be here
            generator = randomness.generator(self.seed, "rows", part, epoch)
            order = cache[part, epoch] = generator.permutation(self._plans[part].num_rows)
        return order


def held_out_batches(view: View, sequence_length: int, batch_size: int, max_tokens: int | None = None) -> list[Batch]:
    """The fixed batches to measure on: the same documents every time, whatever the seed of the run.

    Documents are taken in the order of their hashes until `max_tokens` are reached, so that a corpus that grows keeps
    most of them. Bits per byte is the sum of the losses (in nats) over `num_bytes`, divided by ln 2. Raises
    `MalmoiError` when nothing is held out.
    """
    if not len(view):
        raise MalmoiError(
            f"{view.label}: there is no held-out document to measure on. Raise data.held_out (a share of the "
            f"documents), name files under data.validation, or add documents."
        )
    order = np.argsort(view.token_file.documents["hash"][view.documents], kind="stable")
    if max_tokens is not None:
        before = np.cumsum(view.lengths[order]) - view.lengths[order]
        order = order[before < max(1, max_tokens)]
    view = View(view.token_file, view.documents[order], view.label)
    plan = pack(view.lengths, sequence_length)
    rows = np.arange(plan.num_rows)
    slices = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [assemble([(view, plan, rows, np.arange(len(rows)))], len(rows), sequence_length) for rows in slices]


def assemble(chosen: list[tuple[View, Plan, np.ndarray, np.ndarray]], B: int, T: int) -> Batch:
    """Copy rows out of token files: `chosen` lists (view, its plan, rows of the plan, their places in the batch)."""
    eos = chosen[0][0].token_file.eos_token_id
    input_ids, labels = np.full((B, T), eos, np.int64), np.full((B, T), IGNORED, np.int64)
    used, pieces_in_row = np.zeros(B, np.int64), np.zeros(B, np.int64)
    document_ids, position_ids = np.empty((B, T), np.int64), np.empty((B, T), np.int64)
    num_targets = num_bytes = 0
    pictures = any(view.token_file.has_pictures for view, *_ in chosen)
    filled = []
    for view, plan, rows, places in chosen:
        pieces, row = plan.pieces(rows)
        row, length = places[row], plan.length[pieces]
        first = np.flatnonzero(np.diff(row, prepend=-1))  # each row's first piece
        before = np.cumsum(length) - length
        in_row = np.diff(np.append(first, len(row)))
        column = before - np.repeat(before[first], in_row)
        number = np.arange(len(row)) - np.repeat(first, in_row)
        ids, targets = _read(view, plan, pieces)
        places_flat = ranges(row * T + column, length)
        filled.append((places_flat, np.repeat(number, length), ranges(np.zeros_like(length), length)))
        input_ids.reshape(-1)[places_flat] = ids
        labels.reshape(-1)[places_flat] = targets
        used += np.bincount(row, length, B).astype(np.int64)
        pieces_in_row += np.bincount(row, minlength=B)
        learned = targets[targets != IGNORED]
        num_targets += len(learned)
        num_bytes += int(view.token_file.token_bytes[learned].sum())
    document_ids[:] = pieces_in_row[:, None]
    position_ids[:] = np.arange(T) - used[:, None]
    for places_flat, numbers, positions in filled:
        document_ids.reshape(-1)[places_flat] = numbers
        position_ids.reshape(-1)[places_flat] = positions
    import torch

    return Batch(
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        position_ids=torch.from_numpy(position_ids),
        document_ids=torch.from_numpy(document_ids),
        num_target_tokens=num_targets,
        num_bytes=None if pictures else num_bytes,
    )


def _read(view: View, plan: Plan, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of pieces, one after another, and what each of them shall predict."""
    token_file = view.token_file
    local, length = plan.document[pieces], plan.length[pieces]
    begin = token_file.offsets[view.documents[local]] + plan.start[pieces]
    shard = np.searchsorted(token_file.first_token, begin, side="right") - 1
    begin = begin - token_file.first_token[shard]
    ends = np.cumsum(length)
    total = int(ends[-1])
    # One slot more than tokens: a token's label is the one after it, and shifting a flat array by one gives nearly
    # all of them.
    ids = np.empty(total + 1, np.int64)
    learn = np.ones(total + 1, np.uint8) if token_file.has_loss_mask else None
    spans = zip(shard.tolist(), begin.tolist(), (ends - length).tolist(), ends.tolist(), strict=True)
    shards = token_file.shards
    for s, source, start, end in spans:
        stop = source + end - start
        ids[start:end] = shards[s].ids[source:stop]
        mask = shards[s].mask if learn is not None else None
        if mask is not None and learn is not None:
            learn[start:end] = mask[source:stop]
    targets = ids[1:].copy()
    goes_on = plan.start[pieces] + length < view.lengths[local]
    targets[ends - 1] = IGNORED
    if learn is not None:
        targets[learn[1:] == 0] = IGNORED
    for piece in np.flatnonzero(goes_on).tolist():  # a cut document: its next token is in another row
        s, after = int(shard[piece]), int(begin[piece] + length[piece])
        mask = shards[s].mask
        if mask is None or mask[after]:
            targets[ends[piece] - 1] = shards[s].ids[after]
    return ids[:-1], targets
