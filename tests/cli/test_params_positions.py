"""`malmoi params --kind positional`: words in two languages, numbers, a picture."""

import json
import sys
from pathlib import Path

import pytest

from malmoi.cli.params_positions import WORDS
from small_models import build


def test_rotary_positions_of_a_preset(malmoi, tmp_path: Path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    outcome = malmoi("params", "gpt-oss-20b", "--kind", "positional")
    said = " ".join(outcome.out.split())
    for words in ("18 of 32 pairs come round", "(yarn) from 4,096 to 131,072", "1.347", "12 of 24 layers", "last 128"):
        assert words in said
    assert (tmp_path / "positions-gpt-oss-20b.png").stat().st_size > 10_000


def test_a_folders_learned_table(malmoi, tmp_path: Path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "learned"
    model = build("gpt2")
    model.save_pretrained(folder)
    outcome = malmoi("params", folder, "--kind", "positional")
    table = model.model.embed_positions.weight
    assert f"the longest is place {int(table.norm(dim=1).argmax())}'s" in " ".join(outcome.out.split())
    assert (folder / "positions.png").is_file()
    found = json.loads(malmoi("params", folder, "--kind", "positional", "--json").out)
    assert found["learned"]["norms"] == pytest.approx(table.norm(dim=1).tolist())
    assert found["learned"]["mean_cosine_by_distance"][0] == pytest.approx(1.0)


def test_as_json_a_picture_only_on_request(malmoi, tmp_path: Path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    found = json.loads(malmoi("params", "mistral-7b", "--kind", "positional", "--json").out)
    assert found["reach"][:2] == [4096, 8191]
    assert found["rotary"]["pairs_that_turn_fully"] == 60
    assert not list(tmp_path.iterdir())
    json.loads(malmoi("params", "mistral-7b", "--kind", "positional", "--json", "--png", "here.png").out)
    assert [path.name for path in tmp_path.iterdir()] == ["here.png"]


def test_without_matplotlib_the_words_stay(malmoi, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = malmoi("params", "gpt2", "--kind", "positional", "--lang", "ko")
    assert outcome.code == 0
    assert "학습되는 위치" in outcome.out
    assert "malmoi[plots]" in outcome.err
    asked = malmoi("params", "gpt2", "--kind", "positional", "--png", "a.png")
    assert asked.code == 1
    assert "malmoi[plots]" in asked.err
    assert not list(tmp_path.iterdir())


def test_every_sentence_has_both_languages_and_the_same_blanks():
    import string

    blanks = string.Formatter()
    assert set(WORDS["en"]) == set(WORDS["ko"])
    for key, english in WORDS["en"].items():
        if isinstance(english, str):
            fields = [{field for _, field, _, _ in blanks.parse(text) if field} for text in (english, WORDS["ko"][key])]
            assert fields[0] == fields[1], key
