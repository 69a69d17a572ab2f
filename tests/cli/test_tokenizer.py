"""`malmoi tokenizer learn | report | show`."""

import json
from pathlib import Path

from malmoi import GPT4Tokenizer


def test_learn_writes_a_folder_that_opens(malmoi, corpus: Path, tmp_path: Path):
    outcome = malmoi("tokenizer", "learn", corpus, "--vocab-size", 300, "--out", tmp_path / "tokens")
    assert outcome.code == 0, outcome.err
    tokenizer = GPT4Tokenizer.from_pretrained(tmp_path / "tokens")
    assert len(tokenizer) == 300
    again = malmoi("tokenizer", "learn", corpus, "--vocab-size", 300, "--out", tmp_path / "tokens")
    again.is_one_clear_error("already")


def test_learn_reads_a_table_by_a_template(malmoi, tmp_path: Path):
    table = tmp_path / "pairs.tsv"
    table.write_text("en\tfr\n" + "the cat\tle chat\n" * 40, encoding="utf-8")
    out = tmp_path / "tokens"
    outcome = malmoi("tokenizer", "learn", table, "--template", r"{en}\n{fr}", "--vocab-size", 275, "-o", out)
    assert outcome.code == 0, outcome.err
    tokenizer = GPT4Tokenizer.from_pretrained(out)
    assert len(tokenizer.encode("the cat")) < len("the cat")
    backslashes = [index for index in range(len(tokenizer)) if tokenizer.token_bytes(index).count(b"\\")]
    assert len(backslashes) == 1, "the template's line break was learned as a backslash and an n"


def test_a_vocabulary_larger_than_the_text_can_fill(malmoi, corpus: Path, tmp_path: Path):
    outcome = malmoi("tokenizer", "learn", corpus, "--vocab-size", 50_000, "--out", tmp_path / "tokens")
    outcome.is_one_clear_error("vocab_size=50000", "or less")
    assert list(tmp_path.iterdir()) == []


def test_report_by_language(malmoi, finished_run: Path, tmp_path: Path):
    korean, english = tmp_path / "a.txt", tmp_path / "b.txt"
    korean.write_text("고양이가 집 옆에서 새를 봅니다. " * 20, encoding="utf-8")
    english.write_text("The red cat sees the birds near the house. " * 20, encoding="utf-8")
    found = json.loads(malmoi("tokenizer", "report", finished_run, korean, english, "--json").out)
    rows = {row["language"]: row for row in found["rows"]}
    assert set(rows) == {"ko", "en"}
    assert rows["ko"]["english_only_tokens"] > rows["ko"]["tokens"]
    named = json.loads(malmoi("tokenizer", "report", finished_run, f"xx={korean}", f"en={english}", "--json").out)
    assert [row["language"] for row in named["rows"]] == ["xx", "en"]
    assert named["rows"][0]["tokens"] == rows["ko"]["tokens"]


def test_report_without_texts_measures_the_village(malmoi, finished_run: Path):
    outcome = malmoi("tokenizer", "report", finished_run)
    assert outcome.code == 0, outcome.err
    for language in ("ko", "en", "fr"):
        assert f"\n {language} " in outcome.out
    assert "English-only" in outcome.out


def test_show(malmoi, finished_run: Path):
    text = "고양이 🐈 cat"
    found = json.loads(malmoi("tokenizer", "show", finished_run, text, "--json").out)
    assert b"".join(bytes(token["bytes"]) for token in found["tokens"]).decode() == text
    outcome = malmoi("tokenizer", "show", finished_run, "-", stdin=text)
    assert " ".join(str(token["id"]) for token in found["tokens"]) in outcome.out
    assert f"{found['count']} tokens" in outcome.out


def test_a_folder_without_a_tokenizer(malmoi, tmp_path: Path):
    malmoi("tokenizer", "show", tmp_path, "x").is_one_clear_error("tokenizer.json")
