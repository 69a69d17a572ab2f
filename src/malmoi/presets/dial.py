"""The dial: Malmoi's own models, from a million parameters to eight hundred million.

The dial is one table. A row is chosen by its name ("nano" ... "large"); width, depth, heads, context, vocabulary, batch
and learning rates follow from it, because they belong together: a wider network wants smaller steps (the learning rate
falls with width), a larger one wants more text in each step, and a feed-forward layer of 8/3 of the width gives a gated
network the same weight as the classic fourfold one.

| name   | parameters  | at home on                                      |
|--------|-------------|-------------------------------------------------|
| nano   | 996,608     | two CPU cores, minutes: the quickstart          |
| micro  | 5,476,352   | a laptop, an hour                               |
| mini   | 19,375,232  | a laptop overnight, or a small GPU in an hour   |
| small  | 125,849,856 | one GPU: the size of GPT-1 and the first GPT-2  |
| medium | 345,559,040 | one large GPU                                   |
| large  | 805,401,088 | several large GPUs                              |

The counts are those of the default vocabularies; a test compares each of them with a model that is built. Heads are 64
wide in the small sizes too (a CPU multiplies a few wide ones faster than many narrow ones), and the context is the
length of the rows that the model is trained on: beyond it, positions would be guesses. The small sizes take small
steps, because a laptop's budget is short of steps before it is short of text; for the same reason the smallest has
higher rates and a shorter memory of past gradients than the next (`docs/results/train.md` compares them).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from malmoi.config import MalmoiError, ModelConfig, TrainConfig, nearest
from malmoi.presets.about import Preset

END_OF_TEXT, PAD = 0, 1  # the first ids of every tokenizer that Malmoi learns


@dataclass(frozen=True, slots=True)
class _Row:
    """One position of the dial. Batch sizes count rows of `sequence_length` tokens."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    context: int
    sequence_length: int
    batch: int
    accumulation: int
    learning_rate: float  # AdamW's: embeddings and norms
    matrix_learning_rate: float  # Muon's
    muon_momentum: float = 0.95


_DIAL = {
    "nano": _Row(128, 3, 2, 2, 352, 3072, 256, 256, 8, 1, 6e-3, 0.03, 0.9),
    "micro": _Row(256, 6, 4, 2, 704, 4096, 512, 512, 4, 1, 3e-3, 0.02),
    "mini": _Row(384, 10, 6, 3, 1024, 8192, 512, 512, 8, 1, 2e-3, 0.02),
    "small": _Row(768, 12, 12, 4, 2048, 65_536, 1024, 1024, 16, 16, 1e-3, 0.015),
    "medium": _Row(1024, 24, 16, 8, 2752, 65_536, 1024, 1024, 8, 64, 6e-4, 0.012),
    "large": _Row(1536, 28, 12, 4, 4096, 65_536, 2048, 2048, 4, 64, 4e-4, 0.01),
}
SIZES: tuple[str, ...] = tuple(_DIAL)
LARGEST_ADAMW_RATE = 3e-3  # for all weights; more was worse ("One choice undone at a time", docs/results/train.md)


def _row(name: str) -> _Row:
    if name not in _DIAL:
        raise MalmoiError(f"There is no size '{name}'.{nearest(name, SIZES)} Sizes: {', '.join(SIZES)}.")
    return _DIAL[name]


def size(name: str, vocab_size: int | None = None) -> ModelConfig:
    """The modern layout at one position of the dial; `vocab_size` where the tokenizer is already known.

    Raises `MalmoiError` for a name that is not in `SIZES`.
    """
    row = _row(name)
    return ModelConfig(
        vocab_size=row.vocab_size if vocab_size is None else vocab_size,
        hidden_size=row.hidden_size,
        num_hidden_layers=row.num_hidden_layers,
        num_attention_heads=row.num_attention_heads,
        num_key_value_heads=row.num_key_value_heads,
        intermediate_size=row.intermediate_size,
        max_position_embeddings=row.context,
        eos_token_id=END_OF_TEXT,
        pad_token_id=PAD,
    )


def train_defaults(name: str, optimizer: Literal["muon", "adamw"] = "muon") -> TrainConfig:
    """How a model of this size is trained where nothing else is said: batch and learning rates from the same row.

    An AdamW that moves all weights takes smaller steps than one that is left with embeddings and norms.
    """
    row = _row(name)
    return TrainConfig(
        optimizer=optimizer,
        sequence_length=row.sequence_length,
        per_device_train_batch_size=row.batch,
        gradient_accumulation_steps=row.accumulation,
        learning_rate=row.learning_rate if optimizer == "muon" else min(row.learning_rate, LARGEST_ADAMW_RATE),
        matrix_learning_rate=row.matrix_learning_rate,
        muon_momentum=row.muon_momentum,
    )


PRESETS: dict[str, Preset] = {name: Preset(functools.partial(size, name), "dial") for name in SIZES}
