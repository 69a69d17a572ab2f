"""Characters in a zip: captions in three languages, two hands kept aside."""

import zipfile

import numpy as np
import pytest

from malmoi.config import MalmoiError
from malmoi.data import omniglot
from malmoi.tokens.picture import png


@pytest.fixture
def archive(tmp_path):
    dot = png(np.zeros((5, 5, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as made:
        for hand in range(1, 21):
            made.writestr(f"small/Greek/character03/0001_{hand:02}.png", dot)
            made.writestr(f"small/Old_Elvish/character01/0002_{hand:02}.png", dot)
        made.writestr("small/Greek/about.png", dot)
    return tmp_path


@pytest.mark.parametrize("inside", [".", "small.zip"])
def test_training_never_sees_two_of_twenty_hands(archive, inside):
    train = list(omniglot.read(archive / inside, "train"))
    aside = list(omniglot.read(archive / inside, "aside"))
    assert (len(train), len(aside)) == (36, 4)
    assert {item.id[-6:-4] for item in aside} == {"19", "20"}
    assert train[0].captions == {"en": "Greek character 3", "ko": "그리스 문자 3번", "fr": "caractère grec 3"}
    assert train[1].captions["ko"] == "Old Elvish 문자 1번"


def test_each_drawing_is_described_and_drawn(archive):
    made = list(omniglot.documents(str(archive)))
    assert len(made) == 72
    assert sum(bool(document.given) for document in made) == 36
    assert made == list(omniglot.documents(str(archive)))


def test_an_archive_without_characters_is_said(tmp_path):
    with pytest.raises(MalmoiError, match=r"holds no \.zip"):
        list(omniglot.read(tmp_path, "train"))
    zipfile.ZipFile(tmp_path / "other.zip", "w").close()
    with pytest.raises(MalmoiError, match="holds no picture ALPHABET"):
        list(omniglot.read(tmp_path, "train"))
