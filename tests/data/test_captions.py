"""A picture with captions as two kinds of documents."""

import numpy as np
import pytest

from malmoi.data.captions import LABELS, LANGUAGES, Captioned, describing, drawing
from malmoi.tokens.picture import Picture


@pytest.fixture
def item():
    picture = Picture.of(np.zeros((4, 4, 3), np.uint8))
    return Captioned(picture, {"en": "black", "ko": "검정", "fr": "noir"}, "x/1", "CC0-1.0")


@pytest.mark.parametrize("language", LANGUAGES)
def test_to_describe_only_the_caption_is_learned(item, language):
    document = describing(item, language)
    assert document.parts == (item.picture, LABELS[language], item.captions[language])
    assert document.given == ((0, 2),)
    assert document.license == "CC0-1.0"


def test_one_drawing_in_ten_has_no_caption(item):
    made = [drawing(Captioned(item.picture, item.captions, f"x/{i}"), "en") for i in range(2000)]
    assert all(document.given == () and document.parts[-1] == item.picture for document in made)
    without = sum(len(document.parts) == 1 for document in made)
    assert 150 < without < 250
    assert made[:50] == [drawing(Captioned(item.picture, item.captions, f"x/{i}"), "en") for i in range(50)]
