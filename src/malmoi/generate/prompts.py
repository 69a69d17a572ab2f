"""Prompts as a model reads them: one rectangle of ids, padded on the left, and a mask of what is real.

A batch of prompts of different lengths is padded on the *left*, so that all of them end at the same column and the next
token of every row goes into the same place. The mask tells real tokens (1) from padding (0); positions are counted from
each row's first real token, which is why a row in a batch is read exactly as it would be alone.

Shapes: B prompts, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError


@dataclass(frozen=True)
class Prompts:
    """Checked prompts. `mask` is None where nothing is padded."""

    ids: NDArray[np.int64]  # (B, T)
    mask: NDArray[np.bool_] | None  # (B, T) true where real
    lengths: list[int]  # real tokens of each row

    def rows(self) -> list[list[int]]:
        """The ids of each prompt, without padding."""
        return [row[len(row) - length :] for row, length in zip(self.ids.tolist(), self.lengths, strict=True)]


def read(
    input_ids: Any, attention_mask: Any = None, *, vocab_size: int, pad_token_id: int | None, eos_ids: Sequence[int]
) -> Prompts:
    """Checked prompts from a list of ids, a list of lists (padded here), an array, a tensor (T,) or (B, T), or what a
    tokenizer returned (a mapping with `input_ids` and `attention_mask`).

    Without a mask, leading `pad_token_id`s count as padding, unless that id also ends texts and so may be meant.
    Raises `MalmoiError` for an empty prompt, an id outside the vocabulary, a wrong shape or kind of number, and a mask
    that does not fit or is padded on the right.
    """
    if isinstance(input_ids, Mapping) or hasattr(input_ids, "input_ids"):
        attention_mask = input_ids["attention_mask"] if attention_mask is None else attention_mask
        input_ids = input_ids["input_ids"]
    fill = pad_token_id if pad_token_id is not None else 0
    ids, mask = _rectangle(input_ids, fill)
    if ids.shape[0] == 0:
        raise MalmoiError("There is no prompt: input_ids has no rows. Give at least one row of token ids.")
    if attention_mask is not None:
        mask = _read_mask(attention_mask, ids)
    elif mask is None and pad_token_id is not None and pad_token_id not in eos_ids:
        mask = np.maximum.accumulate(ids != pad_token_id, axis=-1)
    if ids.shape[1] == 0 or (mask is not None and not mask.any(-1).all()):
        row = 0 if mask is None or ids.shape[1] == 0 else int(np.flatnonzero(~mask.any(-1))[0])
        raise MalmoiError(
            f"The prompt{'' if ids.shape[0] == 1 else f' in row {row}'} is empty, and a model continues text: it needs "
            "at least one token to start from. Give it a word, or the end-of-text token "
            "(tokenizer.eos_token_id), after which any text may begin."
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        row, column = (int(number) for number in np.argwhere(ids == wrong)[0])
        raise MalmoiError(
            f"input_ids[{row}, {column}] = {wrong} is not a token of this model: its vocabulary has ids 0 to "
            f"{vocab_size - 1}. Use the tokenizer that was saved with the model."
        )
    if mask is not None and mask.all():
        mask = None
    lengths = [ids.shape[1]] * ids.shape[0] if mask is None else mask.sum(-1).tolist()
    width = max(lengths)
    return Prompts(ids[:, -width:], None if mask is None else mask[:, -width:], lengths)


def _rectangle(input_ids: Any, fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Ids (B, T), and the mask (B, T) that padding rows of unequal length made."""
    if isinstance(input_ids, str):
        raise MalmoiError("input_ids are numbers, but text was given. Encode it first: tokenizer.encode(text).")
    if isinstance(input_ids, (list, tuple)) and any(_is_row(row) for row in input_ids):
        return _pad_rows(input_ids, fill)
    try:
        ids = _array(input_ids)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise MalmoiError(
            f"input_ids cannot be read as token ids ({error}). Give a list of whole numbers, or what "
            "tokenizer.encode(text, return_tensors='pt') returns."
        ) from None
    if ids.size == 0 and ids.ndim <= 1:
        ids = np.zeros((1, 0), dtype=np.int64)
    if ids.dtype.kind in "OUS":
        raise MalmoiError(
            "input_ids cannot be read as token ids (they hold something else than numbers). Give a list of whole "
            "numbers, or what tokenizer.encode(text, return_tensors='pt') returns."
        )
    if ids.dtype.kind not in "iu":
        raise MalmoiError(f"input_ids are whole numbers (int64), but these are {ids.dtype}.")
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2:
        raise MalmoiError(f"input_ids has the shape {tuple(ids.shape)}, but should be (prompts, tokens).")
    return ids.astype(np.int64), None


def _array(values: Any) -> NDArray[Any]:
    """Lists, arrays and tensors alike; torch itself is not needed to read what it made."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _is_row(ids: Any) -> bool:
    return isinstance(ids, (list, tuple)) or getattr(ids, "ndim", 0) > 0


def _pad_rows(rows: Sequence[Any], fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    for number, row in enumerate(rows):
        if not _is_row(row) or any(_is_row(token) for token in row):
            raise MalmoiError(f"input_ids[{number}] is not a list of token ids, but other rows of input_ids are.")
    read = [_rectangle(row, fill)[0] for row in rows]
    width = max(row.shape[1] for row in read)
    ids = np.full((len(read), width), fill, dtype=np.int64)
    mask = np.zeros((len(read), width), dtype=bool)
    for number, row in enumerate(read):
        if row.shape[1]:
            ids[number, -row.shape[1] :] = row
            mask[number, -row.shape[1] :] = True
    return ids, mask


def _read_mask(attention_mask: Any, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    try:
        mask = _array(attention_mask).astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MalmoiError(
            f"attention_mask cannot be read ({error}). It holds 1 for a token and 0 for padding."
        ) from None
    if mask.ndim == 1:
        mask = mask[None]
    if mask.shape != ids.shape:
        raise MalmoiError(f"attention_mask has the shape {mask.shape}, but input_ids has {ids.shape}.")
    if not ((mask == 0) | (mask == 1)).all():
        raise MalmoiError("attention_mask holds 1 for a token and 0 for padding; other values were found.")
    mask = mask.astype(bool)
    broken = (mask != np.maximum.accumulate(mask, axis=-1)).any(-1)
    if broken.any():
        raise MalmoiError(
            f"attention_mask has padding after a token in row {int(np.flatnonzero(broken)[0])}, but prompts are padded "
            "on the left: the next token is written at the right edge. Set tokenizer.padding_side = 'left'."
        )
    return mask
