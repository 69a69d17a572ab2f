"""draw and describe: the two calls, by seed, and what they refuse."""

import numpy as np
import pytest
from pictured import BOTH, IMAGES, build_both

from malmoi.config import MalmoiError
from malmoi.generate.engine import generate
from malmoi.generate.pictures import describe, draw
from malmoi.tokens.interleave import encode_parts
from malmoi.tokens.picture import Picture

pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def model():
    return build_both()


def test_draw_gives_pictures_by_seed(model):
    pictures = draw(model, BOTH, "빨간 사과", n=3, seed=1)
    assert [picture.size for picture in pictures] == [(32, 32)] * 3
    again = draw(model, BOTH, "빨간 사과", n=3, seed=1)
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(pictures, again, strict=True))
    other = draw(model, BOTH, "빨간 사과", seed=2)
    assert not np.array_equal(np.asarray(other[0]), np.asarray(pictures[0]))


def test_draw_is_the_stream_after_the_text(model):
    ids = [*BOTH.encode("cat"), BOTH.images.begin, BOTH.images.size]
    made = generate(model, ids, tokenizer=BOTH, seed=4, temperature=0.8, max_new_tokens=65)
    painted = IMAGES.decode(np.array(made.new_tokens[0][:-1]) - BOTH.images.first)
    (drawn,) = draw(model, BOTH, "cat", seed=4, guidance_scale=1.0)
    assert np.array_equal(np.asarray(drawn), np.asarray(painted))


def test_describe_is_the_stream_after_the_picture(model):
    picture = Picture.of(np.zeros((20, 30, 3), np.uint8))
    said = describe(model, BOTH, picture, "English: ", max_new_tokens=12)
    ids = [index for row in encode_parts(BOTH, [picture, "English: "]) for index in row]
    made = generate(
        model, ids, tokenizer=BOTH, temperature=0, max_new_tokens=12, logit_bias={BOTH.images.begin: -100.0}
    )
    assert said == made.texts[0].strip()
    assert describe(model, BOTH, picture, max_new_tokens=12) == describe(model, BOTH, picture, max_new_tokens=12)


def test_a_text_model_says_so(model, tokenizer):
    with pytest.raises(MalmoiError, match="knows only text"):
        draw(model, tokenizer, "cat")
    with pytest.raises(MalmoiError, match="knows only text"):
        describe(model, tokenizer, Picture.of(np.zeros((8, 8, 3), np.uint8)))
