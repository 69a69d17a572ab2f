"""DOCUMENT LENGTHS -> ROWS: fill rows of fixed length with whole documents, wasting almost nothing.

A batch is a rectangle, documents are not. Padding each document to the row's length would spend most of the work on
nothing; cutting one long ribbon of all documents into rows (as GPT-2 did) would cut nearly every document in two.
Here documents stay whole: bins are filled best-fit-decreasing, the classical heuristic that is never more than 22 %
(+ a constant) above the optimum and, with many short documents, within a percent of it (Johnson, "Near-optimal bin
packing algorithms", 1973; for language models: Ding et al., "Fewer truncations improve language modeling", ICML
2024). Only a document longer than a row is cut, into full rows and a last piece that is packed like a document.

Who shares a row is decided once for a run, because no document sees its neighbours; the order of the rows is drawn anew
for every epoch. So every epoch has the same number of rows, and the row of any step can be named without going
through those before.

Legend: N documents, P pieces (a document, or a part of one), R rows, T tokens a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from malmoi import randomness

WINDOW_ROWS = 1024  # documents are packed in windows of about this many rows: good fits, and the plan stays random


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows as lists of pieces: row r holds the pieces `offsets[r]` to `offsets[r + 1]`."""

    document: np.ndarray  # (P,) index among the lengths that were packed
    start: np.ndarray  # (P,) the piece's first token in its document
    length: np.ndarray  # (P,)
    offsets: np.ndarray  # (R + 1,)
    row_length: int

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def fill(self) -> float:
        """The share of the rectangle that holds tokens."""
        return float(self.length.sum()) / max(1, self.num_rows * self.row_length)

    def pieces(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of some rows, one row after another, and for each piece the place of its row among `rows`."""
        first, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        return ranges(first, counts), np.repeat(np.arange(len(rows)), counts)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, ...` (counts[0] numbers), then the same for each further range."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def pack(lengths: np.ndarray, row_length: int, seed: int = 0) -> Plan:
    """Pack documents of these lengths (N,) into rows of `row_length` tokens: a pure function of its arguments."""
    order = randomness.generator(seed, "packing").permutation(len(lengths))
    full, rest = np.divmod(lengths[order], row_length)
    # Pieces that fill a row alone.
    cut = np.repeat(order, full)
    cut_start = ranges(np.zeros(len(full), np.int64), full) * row_length
    # Everything else, window by window.
    short = np.flatnonzero(rest)
    lengths_left = rest[short]
    window = np.cumsum(lengths_left) // (WINDOW_ROWS * row_length)
    borders = np.flatnonzero(np.diff(window)) + 1
    rows = np.empty(len(short), np.int64)
    count = 0
    for begin, end in zip([0, *borders], [*borders, len(short)], strict=True):
        down = begin + np.argsort(-lengths_left[begin:end], kind="stable")
        placed, used = best_fit(lengths_left[down].tolist(), row_length)
        rows[down] = np.array(placed, np.int64) + count
        count += used
    by_row = np.argsort(rows, kind="stable")
    pieces_per_row = np.concatenate([np.ones(len(cut), np.int64), np.bincount(rows, minlength=count)])
    packed = short[by_row]
    return Plan(
        document=np.concatenate([cut, order[packed]]),
        start=np.concatenate([cut_start, full[packed] * row_length]),
        length=np.concatenate([np.full(len(cut), row_length), rest[packed]]),
        offsets=np.concatenate([[0], np.cumsum(pieces_per_row)]),
        row_length=row_length,
    )


def best_fit(lengths: list[int], row_length: int) -> tuple[list[int], int]:
    """The row of each length (longest first: best-fit-decreasing) and the number of rows.

    Rows that still have room stand in one sorted list of `room * 2^32 + row`, so that the tightest fit is one
    bisection.
    """
    room: list[int] = []
    placed: list[int] = []
    count = 0
    for length in lengths:
        place = bisect_left(room, length << 32)
        if place < len(room):
            left, row = divmod(room.pop(place), 1 << 32)
        else:
            left, row = row_length, count
            count += 1
        placed.append(row)
        if left > length:
            insort(room, (left - length) << 32 | row)
    return placed, count
