"""`malmoi eval`: exact answers in the village, bits per byte of texts."""

import json
import sys
from pathlib import Path

import pytest

from malmoi.evaluate import harness


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


# ------------------------------------------------------------------ benchmarks


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two little data sets, in the folders that our tasks look for."""
    pairs = [("The cat sees", "birds"), ("The dog sees", "the house"), ("새 세 마리를", "봅니다")]
    records = {
        "arc_easy": [{"question": begin, "choices": [end, "no"], "answer": 0} for begin, end in pairs],
        "lambada": [{"text": f"{begin} {end}"} for begin, end in pairs],
    }
    for name, rows in records.items():
        (tmp_path / name).mkdir()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_benchmarks_as_a_table_as_json_and_as_a_file(malmoi, finished_run: Path, questions: Path, tmp_path: Path):
    pytest.importorskip("lm_eval")
    asked = ("eval", finished_run, "--tasks", "arc_easy_local,lambada_local", "--data", questions)
    outcome = malmoi(*asked)
    assert outcome.code == 0, outcome.err
    for word in ("arc_easy_local", "acc_norm", "perplexity", "±"):
        assert word in outcome.out
    assert "a look, not a score" not in outcome.out
    found = json.loads(malmoi(*asked, "--json").out)
    assert found["tasks"]["lambada_local"]["n"] == 3
    assert found["tasks"]["arc_easy_local"]["metrics"]["acc"]["better"] == "higher"
    out = tmp_path / "results.json"
    assert "a look, not a score" in malmoi(*asked, "--limit", 2, "--batch-size", 1, "--out", out).out
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["limit"] == 2
    assert [sample["doc"]["question"] for sample in kept["samples"]["arc_easy_local"]] == [
        "The cat sees",
        "The dog sees",
    ]


def test_what_was_asked_wrongly(malmoi, finished_run: Path, questions: Path, tmp_path: Path):
    pytest.importorskip("lm_eval")
    asked = ("eval", finished_run, "--tasks", "lambada_local")
    malmoi(*asked).is_one_clear_error("--data")
    malmoi(*asked, "--data", tmp_path / "nowhere").is_one_clear_error("no such file or folder")
    malmoi(*asked, "--include", tmp_path / "nowhere").is_one_clear_error("no such folder of tasks")
    malmoi("eval", finished_run, "--tasks", tmp_path / "missing.yaml").is_one_clear_error("no such task file")
    malmoi("eval", finished_run, "--tasks", ",").is_one_clear_error("arc_easy_local")
    malmoi(*asked, "--data", questions, "--num-fewshot", 9).is_one_clear_error("9 solved examples")
    malmoi("eval", tmp_path, "--tasks", "lambada_local", "--data", questions).is_one_clear_error("config.json")
    malmoi(*asked, "--text", questions).is_one_clear_error("one of them at a time")
    outcome = malmoi(*asked, "--data", questions, "--limit", 0)
    assert outcome.code == 2
    assert "--limit" in outcome.err


def test_options_of_benchmarks_need_benchmarks(malmoi, finished_run: Path):
    malmoi("eval", finished_run, "--limit", 3, "--num-fewshot", 2).is_one_clear_error(
        "--limit, --num-fewshot", "--tasks"
    )


def test_without_the_extra_its_name_is_said(malmoi, finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.setattr(harness, "malmoi_lm", harness.malmoi_lm.__wrapped__)  # as if nobody had called it yet
    malmoi("eval", finished_run, "--tasks", "lambada_local").is_one_clear_error("malmoi[eval]")
