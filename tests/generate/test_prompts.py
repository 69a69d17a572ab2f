"""Prompts of every kind that people hand over, and one clear error for each kind that cannot be meant."""

import numpy as np
import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.generate.prompts import read


def prompts(ids, mask=None, pad=1, eos=(0,)):
    return read(ids, mask, vocab_size=50, pad_token_id=pad, eos_ids=eos)


@pytest.mark.parametrize(
    "ids",
    [
        [5, 6, 7],
        (5, 6, 7),
        [[5, 6, 7]],
        torch.tensor([5, 6, 7]),
        torch.tensor([[5, 6, 7]], dtype=torch.int32),
        np.array([[5, 6, 7]]),
        {"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]},
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_one_prompt_in_many_forms(ids):
    found = prompts(ids)
    assert found.ids.tolist() == [[5, 6, 7]]
    assert found.ids.dtype == np.int64
    assert found.mask is None
    assert found.lengths == [3]


def test_rows_of_unequal_length_are_padded_on_the_left():
    found = prompts([[5], (6, 7, 8), torch.tensor([9, 9])])
    assert found.ids.tolist() == [[1, 1, 5], [6, 7, 8], [1, 9, 9]]
    assert found.mask.tolist() == [[False, False, True], [True] * 3, [False, True, True]]
    assert found.lengths == [1, 3, 2]


def test_padding_is_seen_without_a_mask_unless_it_may_be_meant():
    assert prompts(torch.tensor([[1, 5], [6, 7]])).lengths == [1, 2]
    assert prompts(torch.tensor([[1, 5], [6, 7]]), pad=1, eos=(1,)).lengths == [2, 2]
    assert prompts(torch.tensor([[5, 1], [6, 7]])).lengths == [2, 2]  # not leading: a token


def test_columns_that_hold_only_padding_are_taken_away():
    found = prompts([[1, 1, 5], [1, 6, 7]], [[0, 0, 1], [0, 1, 1]])
    assert found.ids.tolist() == [[1, 5], [6, 7]]
    assert found.mask.tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("ids", "mask", "says"),
    [
        (torch.zeros(1, 0, dtype=torch.long), None, "prompt is empty"),
        ([], None, "prompt is empty"),
        ([[5], []], None, "row 1 is empty"),
        ([[5, 6], [1, 1]], [[1, 1], [0, 0]], "row 1 is empty"),
        (torch.zeros(0, 3, dtype=torch.long), None, "no rows"),
        ([5, 50], None, r"input_ids\[0, 1\] = 50"),
        ([[5, 6], [-1, 5]], None, r"input_ids\[1, 0\] = -1"),
        ([0.5, 1.0], None, "whole numbers"),
        (torch.tensor([True]), None, "whole numbers"),
        ("text", None, "Encode it first"),
        (None, None, "cannot be read"),
        ([["text"]], None, "cannot be read"),
        (torch.zeros(1, 2, 3, dtype=torch.long), None, r"shape \(1, 2, 3\)"),
        ([[[5]]], None, "not a list of token ids"),
        ([[5], 6], None, r"input_ids\[1\] is not a list"),
        ([[5, 6]], [[1]], "attention_mask has the shape"),
        ([[5, 6]], [[1, 0]], "padded on the left"),
        ([[5, 6, 7]], [[1, 0, 1]], "padded on the left"),
        ([[5, 6]], [[2, 1]], "other values"),
        ([[5, 6]], "mask", "cannot be read"),
    ],
    ids=str,
)
def test_what_is_no_prompt(ids, mask, says):
    with pytest.raises(MalmoiError, match=says):
        prompts(ids, mask)
