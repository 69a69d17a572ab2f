"""Documents of every form as ids and loss masks; with pictures, too."""

import numpy as np
import pytest

from malmoi.config import ImageTokenizerConfig, MalmoiError
from malmoi.data.batches import Batches
from malmoi.data.corpus import Document, texts_of
from malmoi.data.encoding import encode, hashed_text
from malmoi.data.shards import build
from malmoi.data.tokenfile import TokenFile
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import decode_parts, with_images
from malmoi.tokens.picture import Picture

pytest.importorskip("PIL.Image")

CONFIG = ImageTokenizerConfig(image_size=32, levels=(4, 3), hidden_channels=8, num_blocks=0)


def picture(seed: int) -> Picture:
    return Picture.of(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def both(tokenizer):
    return with_images(tokenizer, ImageTokenizer(CONFIG).eval())


def test_parts_in_order_and_given_ones_are_not_learned(both):
    document = Document(parts=(picture(1), "English: ", "a cat"), given=((0, 2),))
    plain = Document(parts=("a cat", picture(1)))
    (ids, drawn), (mask, no_mask) = encode([document, plain], both)
    assert no_mask is None
    assert [part for part in decode_parts(both, ids) if isinstance(part, str)] == ["English: a cat"]
    answer = len(both.encode("a cat")) + 1
    assert mask == [0] * (len(ids) - answer) + [1] * answer
    assert drawn == [*both.encode("a cat"), *ids[: both.images.length], both.eos_token_id]


def test_conversations_learn_what_the_assistant_says_and_draws(both):
    messages = (
        {"role": "user", "content": ({"type": "text", "text": "draw a cat"}, {"type": "image", "image": picture(1)})},
        {"role": "assistant", "content": ({"type": "image", "image": picture(2)}, {"type": "text", "text": "here"})},
    )
    document = Document(messages=messages)
    (ids,), (mask,) = encode([document], both)
    learned = [index for index, bit in zip(ids, mask, strict=True) if bit]
    known = both.images
    assert learned[: known.length] == known.framed(both.image_tokenizer.encode(picture(2)))
    assert ids.count(known.begin) == 2 and learned.count(known.begin) == 1
    assert list(texts_of(document)) == ["draw a cat", "here"]


def test_the_hash_knows_the_picture():
    one, two = (Document(parts=("a", picture(seed))) for seed in (1, 2))
    assert hashed_text(one) == hashed_text(Document(parts=("a", picture(1)), id="other")) != hashed_text(two)


def test_a_token_file_of_pictures_is_the_same_however_it_is_cut_and_knows_its_tokenizer(both, tokenizer, tmp_path):
    documents = [Document(parts=(f"{number} cats", picture(number % 5))) for number in range(12)]
    documents.append(Document(text="The cat."))
    made = build(documents, both, tmp_path / "one")
    spread = build(documents, both, tmp_path / "two", shard_documents=5)
    for number in range(len(documents)):
        assert np.array_equal(made.ids(number), spread.ids(number))
    assert made.has_pictures and made.vocab_size == len(both)
    assert Batches(made.view(), 128, 2).batch(0).num_bytes is None
    text = build([Document(text="The cat. " * 100)], both, tmp_path / "text")
    assert not text.has_pictures and Batches(text.view(), 128, 1).batch(0).num_bytes
    TokenFile.open(tmp_path / "one", tokenizer=both)
    other = with_images(tokenizer, ImageTokenizer(CONFIG.replace(seed=1)))
    with pytest.raises(MalmoiError, match="another tokenizer"):
        TokenFile.open(tmp_path / "one", tokenizer=other)


def test_what_cannot_be_encoded_is_named(both, tokenizer):
    with pytest.raises(MalmoiError, match=r"Document d: There is a picture here.*knows only text"):
        encode([Document(parts=(picture(1),), id="d")], tokenizer)
    with pytest.raises(MalmoiError, match=r"Document e: .*GIF"):
        encode([Document(parts=(Picture(b"GIF89a...."),), id="e")], both)
