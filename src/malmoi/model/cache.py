"""Keys and values of the tokens that have been read, so that a new token costs one step and not a whole pass.

Memory is taken ahead and doubled when it runs out, so that adding a token copies one column and not the whole past.

B batch, T tokens, K key/value heads, D head size
"""

from __future__ import annotations

import torch

from malmoi.config import MalmoiError


class Cache:
    """The past of one batch. Empty at first; `model(..., cache=cache)` reads from it and adds to it.

    `length` counts the positions held, padding included; `real` marks (B, length) the ones that are not padding, or is
    None while no batch with padding has been seen. `token_ids` (B, length) is kept for models that look n-grams up.
    For inference only: what is written here is cut off from autograd.
    """

    def __init__(self, capacity: int = 128) -> None:
        self.length = 0
        self.real: torch.Tensor | None = None
        self.token_ids: torch.Tensor | None = None
        self._capacity = max(capacity, 1)
        self._keys: dict[int, torch.Tensor] = {}  # layer -> (B, K, capacity, D)
        self._values: dict[int, torch.Tensor] = {}

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one layer's new keys and values (B, K, T, D); returns past and new together (B, K, S, D)."""
        end = self.length + keys.shape[2]
        for held, new in ((self._keys, keys), (self._values, values)):
            memory = held.get(layer)
            if memory is not None and memory.shape[0] != new.shape[0]:
                raise MalmoiError(f"The cache holds {memory.shape[0]} rows, but {new.shape[0]} were given.")
            if memory is None or memory.shape[2] < end:
                held[layer] = memory = self._grown(memory, new, end)
            memory[:, :, self.length : end] = new.detach()
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def _grown(self, memory: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
        capacity = self._capacity if memory is None else max(memory.shape[2], 1)
        while capacity < end:
            capacity *= 2
        grown = new.new_empty(*new.shape[:2], capacity, new.shape[3])
        if memory is not None:
            grown[:, :, : self.length] = memory[:, :, : self.length]
        return grown

    def advance(self, tokens: int, real: torch.Tensor | None, token_ids: torch.Tensor | None = None) -> None:
        """Called once by the model when all layers have written: the new tokens now belong to the past."""
        self.length += tokens
        self.real = real
        if token_ids is not None:
            self.token_ids = token_ids if self.token_ids is None else torch.cat((self.token_ids, token_ids), dim=1)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be kept several times (one prompt, many continuations)."""
        for held in (self._keys, self._values):
            for layer, memory in held.items():
                held[layer] = memory.index_select(0, rows)
        if self.real is not None:
            self.real = self.real.index_select(0, rows)
        if self.token_ids is not None:
            self.token_ids = self.token_ids.index_select(0, rows)

    def crop(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise MalmoiError(f"The cache holds {self.length} positions; it cannot be cropped to {length}.")
        self.length = length
        if self.real is not None:
            self.real = self.real[:, :length]
        if self.token_ids is not None:
            self.token_ids = self.token_ids[:, :length]

    def drop(self, length: int) -> None:
        """Forget the first `length` positions, which must be padding in every row."""
        if not 0 <= length <= self.length or (length and (self.real is None or bool(self.real[:, :length].any()))):
            raise MalmoiError(f"The first {length} of the {self.length} positions in the cache are not all padding.")
        for held in (self._keys, self._values):
            for layer, memory in held.items():
                held[layer] = memory[:, :, length:]
        self.length -= length
        if self.token_ids is not None:
            self.token_ids = self.token_ids[:, length:]
        if self.real is not None:
            rest = self.real[:, length:]
            self.real = None if bool(rest.all()) else rest
