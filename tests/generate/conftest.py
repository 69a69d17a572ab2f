"""Property tests here are not timed: a busy machine is no error."""

import pytest
from hypothesis import settings
from speakers import CORPUS, build

from malmoi.tokens import vocabulary

settings.register_profile("untimed", deadline=None, max_examples=40)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tokenizer():
    return vocabulary.learn(CORPUS, 400)


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(len(tokenizer))
