"""`malmoi data build | show | village`."""

import json
import sys
from pathlib import Path

import pytest

from malmoi.cli.data import readable
from malmoi.data.corpus import Document


def test_build_and_show_a_token_file(malmoi, corpus: Path, finished_run: Path, tmp_path: Path):
    out = tmp_path / "tokens"
    outcome = malmoi("data", "build", corpus, "--tokenizer", finished_run, "--out", out, "--held-out", 0.2)
    assert outcome.code == 0, outcome.err
    assert "144 documents" in outcome.out
    found = json.loads(malmoi("data", "show", out, "--json").out)
    assert found["sources"][0]["documents"] == 144
    assert 0 < found["held_out_documents"] < 144
    malmoi("data", "build", corpus, "--tokenizer", finished_run, "--out", out).is_one_clear_error("already there")
    assert malmoi("data", "build", corpus, "--tokenizer", finished_run, "--out", out, "--overwrite").code == 0


def test_ray_that_is_not_installed_is_named(malmoi, corpus: Path, finished_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = ("data", "build", corpus, "--tokenizer", finished_run, "--out", tmp_path / "tokens", "--ray", "local")
    malmoi(*line).is_one_clear_error("malmoi[ray]")
    assert not list(tmp_path.iterdir())


def test_a_runs_own_token_file_shows_samples_and_licences(malmoi, finished_run: Path):
    outcome = malmoi("data", "show", finished_run / "tokens", "--samples", 1)
    assert "CC0" in outcome.out
    assert "birds near the house" in outcome.out


def test_show_files(malmoi, corpus: Path):
    found = json.loads(malmoi("data", "show", corpus, "--samples", 2, "--json").out)
    assert found["sources"][0]["documents"] == 144
    assert len(found["samples"]) == 2
    assert found["samples"][0].startswith("The red cat")


def test_show_a_table_by_a_template_and_standard_input(malmoi, tmp_path: Path):
    table = tmp_path / "pairs.csv"
    table.write_text('en,ko\ncat,고양이\n"a, b",개\n', encoding="utf-8")
    outcome = malmoi("data", "show", table, "--template", r"{en}\n{ko}", "--json")
    assert json.loads(outcome.out)["samples"] == ["cat\n고양이", "a, b\n개"]
    piped = malmoi("data", "show", "-", "--json", stdin="한 문서.\n")
    assert json.loads(piped.out)["sources"][0]["source"] == "stdin"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", []),
        ("binary.txt", bytes(range(256)) * 10, ["binary.txt"]),
        ("broken.txt", b"one\ntwo \xff\n", ["broken.txt", "line 2"]),
        ("data.xyz", b"x", ["data.xyz", ".jsonl"]),
        ("cut.txt.gz", b"\x1f\x8b\x08\x00broken", ["cut.txt.gz"]),
    ],
)
def test_files_that_cannot_be_read(malmoi, tmp_path: Path, name: str, content: bytes, words: list):
    (tmp_path / name).write_bytes(content)
    malmoi("data", "show", tmp_path / name).is_one_clear_error(*words)


def test_a_field_that_is_not_there(malmoi, corpus: Path):
    malmoi("data", "show", corpus, "--field", "txt").is_one_clear_error("txt", "text")


def test_the_village_is_the_same_for_the_same_seed(malmoi):
    first, same, other = (malmoi("data", "village", "-n", 4, "--seed", seed, "--json").out for seed in (1, 1, 2))
    assert first == same != other
    assert len(json.loads(first)) == 4
    assert malmoi("data", "village", "-n", 2).out.count("---") == 2


def test_the_villages_examples(malmoi):
    rows = json.loads(malmoi("data", "village", "--task", "translation", "--lang", "en-ko", "-n", 3, "--json").out)
    assert len(rows) == 3
    assert all(row["answer"] for row in rows)
    outcome = malmoi("data", "village", "--task", "question1", "-n", 1)
    assert outcome.out.count("---") == 3  # one in each language
    malmoi("data", "village", "--task", "translaton").is_one_clear_error("translation")
    malmoi("data", "village", "--task", "story", "--lang", "ka").is_one_clear_error("ko")


def test_a_conversation_for_reading():
    document = Document(messages=({"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "네!"}))
    assert readable(document) == "user: 안녕?\nassistant: 네!"
