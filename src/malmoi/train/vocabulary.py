"""A larger vocabulary for a finished model: how one that knows text learns pictures.

New ids stand after the old ones, so that nothing changes for those: the old rows of the embedding and of the output
stay as they are, and a text gets the same scores for the same tokens as before. The new rows are drawn as those of a
new model are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from malmoi import randomness
from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel


@torch.no_grad()
def grow_vocabulary(model: GPT4LMHeadModel, vocab_size: int, seed: int = 0) -> None:
    """Give `model` rows for ids up to `vocab_size`, in place; the new ones are a function of `seed`.

    Raises `MalmoiError` if that would take rows away.
    """
    config = model.config
    if vocab_size < config.vocab_size:
        raise MalmoiError(f"The model knows {config.vocab_size} tokens; {vocab_size} would take some away.")
    new = config.replace(vocab_size=vocab_size)

    def grown(table: torch.Tensor, name: str) -> nn.Parameter:
        generator = torch.Generator().manual_seed(randomness.key(seed, f"grow {name}", vocab_size))
        rows = torch.randn(vocab_size - len(table), table.shape[1], generator=generator) * config.initializer_range
        return nn.Parameter(torch.cat((table, rows.to(table))), requires_grad=table.requires_grad)

    embedding, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embedding.weight
    embedding.weight = grown(embedding.weight, "embed_tokens")
    head.weight = embedding.weight if tied else grown(head.weight, "lm_head")
    embedding.num_embeddings = head.out_features = vocab_size
    model.config = new
