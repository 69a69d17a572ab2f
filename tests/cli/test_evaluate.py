"""`malmoi eval`: exact answers in the village, bits per byte of texts."""

import json
from pathlib import Path

import pytest


def test_the_village_by_task_and_language(malmoi, finished_run: Path):
    outcome = malmoi("eval", finished_run, "-n", 1, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert {row["language"] for row in found["rows"] if row["task"] == "story"} == {"ko", "en", "fr"}
    assert found["total"]["n"] == len(found["rows"])
    table = malmoi("eval", finished_run, "-n", 1).out
    assert "translation" in table
    assert "95 % interval" in table


def test_bits_per_byte_of_texts_as_the_library_measures_them(malmoi, finished_run: Path, corpus: Path, tmp_path: Path):
    other = tmp_path / "other.txt"
    other.write_text("Entirely different words, quickly written, without any meaning at all.", encoding="utf-8")
    found = json.loads(malmoi("eval", finished_run, "--text", corpus, other, "--json").out)
    known, strange = found["texts"]
    assert (known["text"], strange["text"]) == (str(corpus), str(other))
    assert known["bits_per_byte"] < strange["bits_per_byte"]
    assert known["documents"] == 144
    from malmoi.cli.folders import open_model
    from malmoi.data.corpus import read_paths
    from malmoi.evaluate import bits_per_byte

    direct = bits_per_byte(*open_model(finished_run), read_paths([corpus]))
    assert known["bits_per_byte"] == pytest.approx(direct["bits_per_byte"])
    assert f"{known['bits_per_byte']:.4f}" in malmoi("eval", finished_run, "--text", corpus).out


def test_files_without_text_before_them(malmoi, finished_run: Path, corpus: Path):
    malmoi("eval", finished_run, corpus).is_one_clear_error("--text")


def test_an_empty_file_is_named(malmoi, finished_run: Path, tmp_path: Path):
    path = tmp_path / "empty.txt"
    path.touch()
    malmoi("eval", finished_run, "--text", path).is_one_clear_error("empty.txt")
