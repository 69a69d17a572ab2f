"""Small deterministic data for the trainer's tests: packed rows with ragged targets, and a tiny model."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from malmoi import randomness
from malmoi.config import ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel


@dataclass(frozen=True)
class Batch:
    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    document_ids: torch.Tensor
    num_target_tokens: int
    num_bytes: int | None = None


class PatternBatches:
    """Endless rows of short counting documents; about a tenth of the targets are masked, unevenly.

    Batch `step` is a function of (seed, step). An "epoch" is ten batches.
    """

    def __init__(self, vocab_size=32, rows=4, length=16, seed=0, per_epoch=10, distinct=None):
        self.vocab_size, self.rows, self.length, self.seed = vocab_size, rows, length, seed
        self.per_epoch, self.distinct = per_epoch, distinct

    @property
    def fingerprint(self):
        return hashlib.sha256(repr(vars(self)).encode()).hexdigest()

    def steps_per_epoch(self, epoch):
        return self.per_epoch

    def epoch_of(self, step):
        return step // self.per_epoch

    def batch(self, step):
        number = step % self.distinct if self.distinct else step
        draw = randomness.generator(self.seed, "pattern", number)
        starts = draw.integers(1, self.vocab_size, size=(self.rows, 1))
        stride = draw.integers(1, 4, size=(self.rows, 1))
        ids = (starts + stride * np.arange(self.length + 1)) % self.vocab_size
        cut = int(draw.integers(2, self.length - 2))
        positions = np.concatenate([np.arange(cut), np.arange(self.length - cut)])
        documents = np.repeat([0, 1], [cut, self.length - cut])
        labels = np.where(draw.random((self.rows, self.length)) < 0.1 * (1 + number % 3), -100, ids[:, 1:])
        labels[:, cut - 1] = -100  # nothing follows the end of a row's first document
        tensor = [
            torch.from_numpy(np.ascontiguousarray(x, dtype=np.int64))
            for x in (ids[:, :-1], labels, np.tile(positions, (self.rows, 1)), np.tile(documents, (self.rows, 1)))
        ]
        targets = int((labels != -100).sum())
        return Batch(*tensor, num_target_tokens=targets, num_bytes=2 * targets)


def tiny_model(seed=0, **changes):
    settings = {
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        **changes,
    }
    model = GPT4LMHeadModel(ModelConfig(**settings))
    model.initialize(seed)
    return model
