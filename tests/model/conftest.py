"""A model of every kind, and a batch of ids with and without padding."""

import pytest
import torch

from malmoi.model.gpt import GPT4LMHeadModel
from small_models import BASE, KINDS, build


@pytest.fixture(params=KINDS)
def model(request) -> GPT4LMHeadModel:
    return build(request.param)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def left_padding() -> torch.Tensor:
    """Rows of 20, 13 and 4 real tokens."""
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, :7] = 0
    mask[2, :16] = 0
    return mask
