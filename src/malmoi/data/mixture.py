"""SOURCES -> ONE ORDER: which source gives the next row, when several are learned from at once.

Each source gets a share of the tokens (a weight), or is gone through a number of times (epochs), or counts as it is.
A small source with a large share is exhausted early; it then begins its next epoch, in a new order, while the others
go on.

The interleaving is even rather than random: with shares of 3 to 1, any four rows in a row are very nearly three and
one, so that no stretch of training is short of a source. It is a pure function of (seed, number of the row): the j-th
of the c rows that a source gives in an epoch of the mixture stands at (j + u) / c of the epoch, with a u drawn for
each source and epoch.

Legend: S sources, R rows an epoch of the mixture.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from malmoi import randomness
from malmoi.config import DataConfig, MalmoiError
from malmoi.data.corpus import source_name
from malmoi.data.tokenfile import Split, TokenFile, View


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a mixture: by `weight` (share of the tokens), by `epochs`, or by neither (once through)."""

    view: View
    weight: float | None = None
    epochs: float | None = None


class Mixture:
    """Several views that are learned from together: `Mixture([(view, 0.7), (other, 0.3)])`, or `Part`s.

    Weights are shares of the tokens seen. Where all parts have one, only their proportions count, and an epoch of the
    mixture is as many tokens as the parts have together; beside parts that go by epochs or size, weights must add up
    to less than 1.
    """

    def __init__(self, parts: Iterable[Part | tuple[View, float]]) -> None:
        self.parts = tuple(part if isinstance(part, Part) else Part(part[0], weight=part[1]) for part in parts)
        if not self.parts:
            raise MalmoiError("A mixture needs at least one source.")
        for part in self.parts:
            if part.weight is not None and part.epochs is not None:
                raise MalmoiError(f"{part.view.label}: has both a weight and epochs; give one of them.")
            for name in ("weight", "epochs"):
                number = getattr(part, name)
                if number is not None and not 0 < number < float("inf"):
                    raise MalmoiError(f"{part.view.label}: {name}={number} is not a positive number.")
            if not len(part.view):
                raise MalmoiError(f"{part.view.label}: holds no document, so there is nothing to mix in.")
        weights = [part.weight for part in self.parts if part.weight is not None]
        if len(weights) < len(self.parts) and sum(weights) >= 1:
            raise MalmoiError(
                f"The weights add up to {sum(weights):g}, which leaves nothing for the sources without a weight. "
                f"Give every source a weight, or weights that add up to less than 1."
            )
        tokenizers = {part.view.token_file.manifest["tokenizer_sha256"] for part in self.parts}
        if len(tokenizers) > 1:
            raise MalmoiError("The sources of a mixture were written with different tokenizers. Build them with one.")

    @classmethod
    def from_config(cls, token_file: TokenFile, data: DataConfig, split: Split = "train") -> Mixture:
        """The mixture that a recipe describes, over a token file that holds all its sources by name."""
        names = [source_name(source) for source in data.sources]
        for name in names:
            if names.count(name) > 1:
                raise MalmoiError(f"Two sources are called '{name}'. Give each a name of its own.")
        return cls(
            Part(token_file.view(split, name), source.weight, source.epochs)
            for name, source in zip(names, data.sources, strict=True)
        )

    def rows_per_epoch(self, rows: Sequence[int]) -> list[int]:
        """(S,) how many rows each part gives in one epoch of the mixture, when once through it takes `rows` (S,)."""
        tokens = [part.view.num_tokens for part in self.parts]
        fixed = sum(
            count * (part.epochs or 1) for part, count in zip(self.parts, tokens, strict=True) if part.weight is None
        )
        weights = sum(part.weight or 0 for part in self.parts)
        all_weighted = all(part.weight is not None for part in self.parts)
        total = sum(tokens) / weights if all_weighted else fixed / (1 - weights)
        counts = []
        for part, row_count, token_count in zip(self.parts, rows, tokens, strict=True):
            times = part.epochs or 1 if part.weight is None else part.weight * total / token_count
            counts.append(max(1, round(times * row_count)))
        return counts


class Schedule:
    """Which part gives each row, and which of its rows that is, without going through the rows before."""

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self.counts, self.seed = tuple(counts), seed
        self.rows_per_epoch = sum(counts)
        self._order = functools.lru_cache(maxsize=2)(self._order_of)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For rows (n,) counted through all epochs: their parts (n,) and their numbers within the parts (n,)."""
        if len(self.counts) == 1:
            return np.zeros(len(rows), np.int64), rows
        parts, numbers = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        epochs, places = np.divmod(rows, self.rows_per_epoch)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            part_order, number_order = self._order(int(epoch))
            parts[here] = part_order[places[here]]
            numbers[here] = number_order[places[here]] + epoch * np.array(self.counts)[parts[here]]
        return parts, numbers

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.concatenate([np.arange(count) for count in self.counts])
        when = np.concatenate(
            [
                (np.arange(count) + randomness.uniform(self.seed, "mixture", epoch, part)) / count
                for part, count in enumerate(self.counts)
            ]
        )
        order = np.argsort(when, kind="stable")
        return np.repeat(np.arange(len(self.counts)), self.counts)[order], numbers[order]
