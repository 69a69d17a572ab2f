"""Embeddings of token pairs, triples ...: what a short context says, looked up instead of worked out.

A transformer spends part of its first layers on learning which tokens follow which. A table with a learned vector for
each n-gram of the last tokens hands it that at once (Huang et al., "Over-tokenized transformer", 2025).
There are far more n-grams than a table can hold, so they share its rows by a hash: frequent ones shape their row, and
the rare ones that fall into it are noise that the network learns to discount. The tables hold many parameters of which
a token touches one row each, so they cost memory and hardly any time.

No other program knows this layout: a model with n-grams opens in Malmoi only.

B batch, T tokens, P past tokens, D hidden size, N the length of an n-gram
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

MULTIPLIER = 0x9E3779B97F4A7C1 | 1  # any large odd number: neighbours land far apart
FOLD = 29  # the low bits of a product depend on the low bits of its factors alone; the high ones are folded in


class NGrams(nn.Module):
    """One table of `rows` learned vectors for each length in `sizes`; their sum is added to the tokens' embeddings."""

    def __init__(self, sizes: Sequence[int], rows: int, width: int) -> None:
        super().__init__()
        self.sizes, self.rows = tuple(sizes), rows
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for _ in self.sizes)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Ids (B, T) at positions (B or 1, T), after `past_ids` (B, P), to (B, T, D).

        A token's position says how many tokens of its own text stand before it; an n-gram never reaches further.
        """
        total: torch.Tensor | None = None
        for size, table in zip(self.sizes, self.tables, strict=True):
            found = table(ngram_rows(input_ids, position_ids, past_ids, size, self.rows))
            total = found if total is None else total + found
        assert total is not None
        return total


def ngram_rows(
    input_ids: torch.Tensor, position_ids: torch.Tensor, past_ids: torch.Tensor | None, size: int, rows: int
) -> torch.Tensor:
    """For each token (B, T) the row of the table that its n-gram falls into: a hash of the last `size` ids."""
    T = input_ids.shape[1]
    known = input_ids if past_ids is None else torch.cat((past_ids, input_ids), dim=1)
    missing = max(0, T + size - 1 - known.shape[1])
    known = torch.nn.functional.pad(known, (missing, 0))
    value = torch.zeros_like(input_ids)
    for back in range(size - 1, -1, -1):
        end = known.shape[1] - back
        earlier = known[:, end - T : end] + 1
        inside = torch.where(position_ids >= back, earlier, 0)  # 0: before the text began
        value = (value + inside) * MULTIPLIER
        value = value ^ (value >> FOLD)
    return value.remainder(rows)
