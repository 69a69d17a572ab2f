"""Records with pictures: templates, conversations, and paths that never leave their folder."""

import base64
import json

import numpy as np
import pytest

from malmoi.config import MalmoiError, SourceConfig
from malmoi.data.corpus import SCHEMES, read
from malmoi.data.pictures import pictures_from, pictures_of, pixels_of
from malmoi.tokens.picture import Picture, png

pytest.importorskip("PIL.Image")

RED, BLUE = (png(np.full((8, 8, 3), colour, np.uint8)) for colour in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "below" / "blue.png").write_bytes(BLUE)
    url = "data:image/png;base64," + base64.b64encode(BLUE).decode()
    records = [
        {"file": "red.png", "name": "빨강"},
        {"file": "below/blue.png", "name": "파랑", "id": "b"},
        {"file": url, "name": "x"},
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return tmp_path


def documents(path, template=None, image="file"):
    return list(read(SourceConfig(path=str(path), image=image, template=template, license="CC0-1.0")))


def test_a_template_says_where_the_picture_stands(folder):
    draw = documents(folder / "labels.jsonl", "{name}{image}")
    assert [document.parts[0] for document in draw] == ["빨강", "파랑", "x"]
    assert [document.parts[1].data() for document in draw] == [RED, BLUE, BLUE]
    assert [(document.id, document.license) for document in draw][:2] == [
        ("labels.jsonl:1", "CC0-1.0"),
        ("b", "CC0-1.0"),
    ]
    twice = documents(folder / "labels.jsonl", "{image} and again {image}: {name}{{}}")[0]
    assert [part if isinstance(part, str) else "P" for part in twice.parts] == ["P", " and again ", "P", ": 빨강{}"]
    assert [part.data() for part in documents(folder / "labels.jsonl", "{image}")[0].parts] == [RED]


def test_tables_too(folder):
    (folder / "labels.csv").write_text("file,name\nred.png,red\n", encoding="utf-8")
    assert documents(folder / "labels.csv", "{image}{name}")[0].parts[1] == "red"


def test_conversations_hold_pictures(folder):
    turns = [
        {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "colour?"}]},
        {"role": "assistant", "content": "red"},
    ]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    (document,) = documents(folder / "chat.jsonl")
    assert [picture.data() for picture in pictures_of(document)] == [RED]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/etc/passwd", "leads out"),
        ("../red.png", "leads out"),
        ("below/../../red.png", "leads out"),
        ("none.png", "there is no picture"),
        ("http://example.org/a.png", "there is no picture"),
        ("data:image/png;base64,!!!", "not valid base64"),
        (7, "not a path"),
    ],
)
def test_a_path_stays_in_its_folder(folder, value, said):
    (folder / "bad.jsonl").write_text(json.dumps({"file": value, "name": "x"}), encoding="utf-8")
    with pytest.raises(MalmoiError, match=rf"bad\.jsonl: line 1: .*{said}"):
        documents(folder / "bad.jsonl", "{name}{image}")


def test_what_is_missing_is_named(folder):
    with pytest.raises(MalmoiError, match=r"no field 'fiel'\. Did you mean 'file'"):
        documents(folder / "labels.jsonl", "{name}{image}", image="fiel")
    with pytest.raises(MalmoiError, match="where the picture stands"):
        documents(folder / "labels.jsonl", "{name}")
    with pytest.raises(MalmoiError, match="needs a template"):
        documents(folder / "labels.jsonl")
    (folder / "a.txt").write_text("text")
    with pytest.raises(MalmoiError, match="not of this kind"):
        documents(folder / "a.txt", "{image}")


def test_pictures_of_folders_files_and_records_once_each(folder):
    everything = list(pictures_from(str(folder)))
    assert [picture.data() for picture in everything] == [BLUE, RED]
    assert [p.data() for p in pictures_from(str(folder / "red.png"))] == [RED]
    (folder / "chat.jsonl").write_text(json.dumps({"file": "red.png", "messages": []}), encoding="utf-8")
    pixels = pixels_of([*everything, *everything], 32)
    assert pixels.shape == (2, 32, 32, 3) and pixels[0, 0, 0].tolist() == [0, 0, 255]
    assert len(pixels_of(everything, 32, most=3 * 32 * 32)) == 1
    with pytest.raises(MalmoiError, match="holds no pictures"):
        (folder / "empty").mkdir()
        list(pictures_from(str(folder / "empty")))


def test_a_scheme_names_a_reader_of_its_own():
    assert "scenes" in SCHEMES
    found = list(read(SourceConfig(path="scenes:3"), seed=1))
    assert len(found) == 3 and all(isinstance(next(pictures_of(document)), Picture) for document in found)
    assert {document.source for document in found} == {"scenes"}
