"""Emoji in several styles: what is kept aside is a function of the emoji alone; folders and archives alike."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from test_archives import packed

from malmoi.config import MalmoiError
from malmoi.data import emoji
from malmoi.tokens.picture import Picture, png

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "images" / "emoji"
DOT = png(np.zeros((5, 5, 3), np.uint8))
APPLE = {"id": "1f34e", "name_en": "red apple", "name_ko": "빨간 사과", "name_fr": "pomme rouge"}
APPLE |= {"keywords_en": ["apple", "fruit"], "subgroup": "food-fruit"}


def record(number, **more):
    return APPLE | {"id": f"x{number}", **more}


@pytest.fixture
def folder(tmp_path):
    records = [record(i) for i in range(300)] + [record(300, split="valid"), record(301, skin_tone=True)]
    lines = "\n".join(json.dumps(line) for line in records)
    (tmp_path / "labels.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    packed(tmp_path / "noto_48.tar.xz", {f"x{i}.png": DOT for i in range(302)})
    packed(tmp_path / "emojitwo_48.tar.xz", {f"x{i}.png": DOT for i in range(0, 302, 2)})
    packed(tmp_path / "noto_48_skin_tones.tar.xz", {"x301.png": DOT})
    return tmp_path


def test_what_is_kept_aside(folder):
    found = {one.id: one for one in emoji.read(folder)}
    assert len(found) == 301  # no skin tones
    assert set(found["x0"].drawings) == {"noto", "emojitwo"}
    aside = [one for one in found.values() if one.aside]
    assert found["x300"] in aside
    assert 5 < len(aside) < 30
    assert all(one.trained() == {} for one in aside)
    second = [one for one in found.values() if one.second_style_aside("emojitwo")]
    assert 5 < len(second) < 30
    assert all(set(one.trained()) == {"noto"} for one in second)
    assert not any(one.second_style_aside("noto") for one in found.values())


def test_training_documents_show_nothing_that_is_kept_aside(folder):
    trained = {one.id: set(one.trained()) for one in emoji.read(folder)}
    made = list(emoji.documents(str(folder)))
    assert len(made) == 3 * (emoji.VARIED + 2) * sum(map(len, trained.values()))
    for document in made:
        _, name, style, *_ = document.id.split("/")
        assert style.split(".")[0] in trained[name]
    assert made == list(emoji.documents(str(folder)))


def test_a_drawing_is_drawn_as_it_is_and_described_varied(tmp_path):
    pixels = np.full((24, 24, 3), 255, np.uint8)
    pixels[6:18, 8:16] = (200, 30, 30)
    (tmp_path / "labels.jsonl").write_text(json.dumps(record(0)))
    (tmp_path / "x0.png").write_bytes(png(pixels))
    made = list(emoji.documents(str(tmp_path)))
    drawn = [document.parts[-1] for document in made if not document.given]
    described = [document for document in made if document.given]
    assert len(drawn) == 3
    assert {picture.digest() for picture in drawn} == {Picture.of(pixels).digest()}
    for name in ("red apple", "빨간 사과", "pomme rouge"):
        shown = {document.parts[0].digest() for document in described if document.parts[2] == name}
        assert len(shown) == emoji.VARIED + 1
        assert drawn[0].digest() in shown
    assert len({document.parts[0].digest() for document in described}) == 3 * emoji.VARIED + 1  # no two varied alike


def test_skin_tones_of_one_emoji_fall_on_one_side():
    assert all(emoji.is_aside("1f44b") == emoji.is_aside("1f44b", "train") for _ in range(2))
    assert emoji.is_aside("1f44b", "valid")


def test_a_plain_folder_of_pictures(tmp_path):
    (tmp_path / "labels.jsonl").write_text(json.dumps(APPLE) + "\n" + json.dumps(record(1)), encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "1f34e.png").write_bytes(DOT)
    (tmp_path / "mine" / "1f34e.png").write_bytes(DOT)
    (one,) = emoji.read(tmp_path)  # of x1 there is no picture
    assert sorted(one.drawings) == sorted(["mine", tmp_path.name])
    assert one.names == {"en": "red apple", "ko": "빨간 사과", "fr": "pomme rouge"}
    assert one.keywords["en"] == ("apple", "fruit")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": "a"}, "line 1: has no name_en, name_ko, name_fr"),
        (APPLE | {"name_ko": ""}, "line 1: has no name_ko"),
        (APPLE | {"id": 5}, r"line 1: has no id \(texts\)"),
        (APPLE, "there is a picture ID"),
    ],
)
def test_what_is_missing_is_named(tmp_path, line, words):
    (tmp_path / "labels.jsonl").write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(MalmoiError, match=words):
        emoji.read(tmp_path)


def test_no_labels(tmp_path):
    with pytest.raises(MalmoiError, match=r"holds no labels\.jsonl"):
        emoji.read(tmp_path)


def test_the_real_thing():
    if not SHARED.is_dir():
        pytest.skip("no emoji beside the project (../shared/data/images/emoji)")
    found = emoji.read(SHARED)
    aside = sum(one.aside for one in found) / len(found)
    assert 0.08 < aside < 0.12
    second = sum(one.second_style_aside("emojitwo") for one in found)
    both = sum(len(one.drawings) == 2 and not one.aside for one in found)
    assert 0.07 < second / both < 0.13
    assert next(one for one in found if one.id == "1f347").names["ko"] == "포도"
