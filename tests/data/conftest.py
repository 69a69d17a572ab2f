"""A small tokenizer that all tests of this room share, and a maker of corpora whose every token can be told apart."""

import pytest

from malmoi.data.corpus import Document
from malmoi.data.shards import build
from malmoi.tokens import vocabulary

TEXTS = [
    "The old woman gave the cat a little milk. Then she went to the market and bought seven apples.",
    "할머니는 고양이에게 우유를 조금 주었다. 그러고 나서 시장에 가서 사과 일곱 개를 샀다.",
    "La vieille femme donna un peu de lait au chat. Puis elle alla au marché et acheta sept pommes.",
    "한때 작은 마을에 두 아이가 살았습니다. L'été, il faisait très chaud. Once upon a time, 3 + 4 = 7.",
]


@pytest.fixture(scope="session")
def tokenizer():
    return vocabulary.learn(TEXTS * 20, 400)


@pytest.fixture
def corpus(tokenizer, tmp_path):
    """corpus(lengths) builds a token file whose documents have these lengths in tokens, end-of-text included."""
    digits = [tokenizer.encode(letter)[0] for letter in "abcdefghij"]
    assert len(set(digits)) == 10

    def make(lengths, name="tokens", **settings):
        documents = [Document(text=_letters(length - 1, number), source=name) for number, length in enumerate(lengths)]
        return build(documents, _Letters(tokenizer), tmp_path / name, **settings)

    return make


def _letters(length: int, seed: int) -> str:
    """A text in which every position is different from its neighbours, and which differs from document to document."""
    return "".join("abcdefghij"[(seed + place * (1 + seed % 7) + place // 10) % 10] for place in range(length))


class _Letters:
    """The tokenizer, letter by letter: so that a document's length in tokens is its length in letters."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode_batch(self, texts):
        flat = {letter: self.tokenizer.encode(letter)[0] for letter in "abcdefghij"}
        return [[flat[letter] for letter in text] for text in texts]

    def __len__(self):
        return len(self.tokenizer)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)
