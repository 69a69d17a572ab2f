"""A small model that sees, and documents with pictures for it."""

import numpy as np
import pytest
import torch

from malmoi.config import ModelConfig
from malmoi.config.vision import VisionConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.vision.seeing import SeeingModel
from small_models import BASE

EYES = VisionConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, intermediate_size=32)


class Letters:
    """A tokenizer of one id a letter: a to z are 2 to 27."""

    eos_token_id = 1
    images = image_tokenizer = None

    def encode_batch(self, texts, add_special_tokens=True):
        return [[2 + (ord(letter) - ord("a")) % 26 for letter in text] for text in texts]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(ord("a") + index - 2) for index in ids if index > 1)


@pytest.fixture
def letters():
    return Letters()


@pytest.fixture
def seeing() -> SeeingModel:
    torch.manual_seed(0)
    language = GPT4LMHeadModel(ModelConfig(**BASE | {"vocab_size": 40, "image_token_id": 39}))
    return SeeingModel.new(language, EYES, seed=1).eval()


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
