"""What rounding costs: how far a rounded model's next-token probabilities stand from the original's.

The Kullback-Leibler divergence is the extra surprise, in nats a token, of somebody who believes the rounded model while
the original speaks. Random tokens are a hard examination: on real text a model is surer of itself, and loses less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from malmoi.native.core import NativeModel

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel

_ROWS = 64


def divergence_from(model: GPT4LMHeadModel, rounded: NativeModel, seed: int = 0) -> float:
    """Mean divergence in nats a token of `rounded` from `model`, over 64 random tokens (fewer where there is no room).

    Writes into the first blocks of the rounded model's cache.
    """
    import torch

    length = min(_ROWS, model.config.max_position_embeddings)
    ids = np.random.default_rng(seed).integers(0, model.config.vocab_size, length)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1)
    tables = np.arange(-(-length // rounded.block_size))[None]
    logits = rounded.step(ids, np.arange(length), np.zeros(length, np.int32), tables, np.arange(length))
    found = torch.from_numpy(logits).double().log_softmax(-1)
    return float((expected.exp() * (expected - found)).sum(-1).mean())
