"""DOCUMENTS WITH PICTURES -> BATCHES for a model that sees: what is given is looked at, what is learned is tokens.

In a document's given parts a picture is a row of places for features; in the parts that are learned it is image tokens,
if the tokenizer knows them (a feature is nothing that could be predicted). Which picture stands at a place must travel
with the batch through everything that cuts and repeats batches. So the place says it itself, with an id above the
vocabulary:

    vocab_size + number of the picture in the album * features + number of the feature

`SeeingModel` finds the picture by it, whatever part of a row it is shown, and puts `image_token_id` in its stead before
the language model reads. No such id is ever a label.

B rows of a batch, T tokens a row, F features of a picture
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data.batches import IGNORED, Batch
from malmoi.data.corpus import Document
from malmoi.data.packing import Plan, pack
from malmoi.tokens.interleave import encode_parts
from malmoi.tokens.picture import Picture, fit


@dataclass(frozen=True, slots=True)
class Album:
    """The pictures that batches speak of by number: pixels (M, S, S, 3) uint8, F features each, ids from `first` on."""

    pixels: np.ndarray
    features: int
    first: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """One document as ids, and whether each is learned."""

    ids: np.ndarray
    learned: np.ndarray


class SeeingBatches:
    """Batches of documents with pictures, a pure function of (documents, seed, step); for `malmoi.train.train`.

    `sequence_length` tokens a row, `batch_size` rows a batch. Whole documents are packed into rows and see no
    neighbours; every epoch has the rows in a new order. The album goes on `after` another one, so that both may be
    looked up in the longer. Raises `MalmoiError` for a document longer than a row, for one
    whose picture shall be learned by a tokenizer that knows no image tokens, and where nothing is learned at all.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        tokenizer: Any,
        *,
        vocab_size: int,
        image_size: int,
        features: int,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        after: Album | None = None,
    ) -> None:
        self.sequence_length, self.batch_size, self.seed = sequence_length, batch_size, seed
        self.fill_id = int(tokenizer.eos_token_id)
        numbers: dict[str, int] = {}
        pixels: list[np.ndarray] = list(after.pixels) if after is not None else []

        def places(picture: Picture) -> list[int]:
            digest = picture.digest()
            if digest not in numbers:
                numbers[digest] = len(pixels)
                pixels.append(fit(picture.open(), image_size).pixels)
            start = vocab_size + numbers[digest] * features
            return list(range(start, start + features))

        self.lessons = [_lesson(document, tokenizer, places) for document in documents]
        size = (image_size, image_size, 3)
        self.album = Album(np.stack(pixels) if pixels else np.zeros((0, *size), np.uint8), features, vocab_size)
        self._plan = self._packed()

    def _packed(self) -> Plan:
        lengths = np.array([len(lesson.ids) for lesson in self.lessons], dtype=np.int64)
        if not lengths.size or not any(lesson.learned.any() for lesson in self.lessons):
            raise MalmoiError("There is no document with anything to learn.")
        if lengths.max() > self.sequence_length:
            raise MalmoiError(
                f"A document with pictures has {lengths.max()} tokens, more than sequence_length="
                f"{self.sequence_length}. Its pictures cannot be cut: choose a longer row."
            )
        return pack(lengths, self.sequence_length, randomness.key(self.seed, "seeing rows"))

    def fingerprint(self) -> str:
        """A hash of all that decides what is learned, and in which order."""
        digest = hashlib.sha256(f"{self.sequence_length} {self.batch_size} {self.seed}".encode())
        for lesson in self.lessons:
            digest.update(lesson.ids.tobytes() + lesson.learned.tobytes())
        digest.update(self.album.pixels.tobytes())
        return digest.hexdigest()

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """How many batches begin in an epoch; epochs may end within a batch."""
        first, last = (-(-(epoch + more) * self._plan.num_rows // self.batch_size) for more in (0, 1))
        return last - first

    def epoch_of(self, step: int) -> int:
        """The epoch in which a batch begins."""
        return step * self.batch_size // self._plan.num_rows

    def batch(self, step: int) -> Batch:
        """Batch number `step`, from 0."""
        B, T, rows = self.batch_size, self.sequence_length, self._plan.num_rows
        epochs, within = np.divmod(step * B + np.arange(B), rows)
        ids = np.full((B, T), self.fill_id, np.int64)
        labels = np.full((B, T), IGNORED, np.int64)
        positions, members = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
        for row, (epoch, number) in enumerate(zip(epochs, within, strict=True)):
            order = randomness.generator(self.seed, "seeing epoch", int(epoch)).permutation(rows)
            pieces, _ = self._plan.pieces(order[number : number + 1])
            place = 0
            for count, lesson in enumerate(self.lessons[self._plan.document[piece]] for piece in pieces):
                end = place + len(lesson.ids)
                ids[row, place:end] = lesson.ids
                labels[row, place : end - 1] = np.where(lesson.learned[1:], lesson.ids[1:], IGNORED)
                positions[row, place:end] = np.arange(len(lesson.ids))
                members[row, place:end] = count
                place = end
            positions[row, place:], members[row, place:] = np.arange(T - place), len(pieces)
        tensors = map(torch.from_numpy, (ids, labels, positions, members))
        return Batch(
            *tensors, num_target_tokens=int((labels != IGNORED).sum()), num_bytes=0
        )  # of pictures none are counted


def _lesson(document: Document, tokenizer: Any, places: Any) -> Lesson:
    """A document's ids: given pictures as places, everything else as tokens; its end-of-text token last."""
    parts = document.parts if document.parts is not None else (document.text,)
    given = {part for start, end in document.given for part in range(start, end)} if document.parts else set()
    ids: list[int] = []
    learned: list[bool] = []
    for number, part in enumerate(parts):
        looked_at = isinstance(part, Picture) and number in given
        row = places(part) if looked_at else encode_parts(tokenizer, [part])[0]
        ids += row
        learned += [number not in given] * len(row)
    return Lesson(np.array([*ids, tokenizer.eos_token_id]), np.array([*learned, True]))
