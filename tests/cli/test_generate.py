"""`malmoi generate`: streaming, several sequences, traces, JSON, and prompts that cannot work."""

import json
from pathlib import Path

import pytest


def test_the_prompt_and_its_continuation_are_printed(malmoi, finished_run: Path):
    outcome = malmoi("generate", finished_run, "The cat", "-m", 8, "--seed", 1)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("The cat")
    assert len(outcome.out) > len("The cat\n")


def test_the_same_seed_is_the_same_text_streamed_or_not(malmoi, finished_run: Path):
    line = ("generate", finished_run, "고양이", "-m", 12, "--seed", 7, "-t", 0.9)
    streamed, made = malmoi(*line), json.loads(malmoi(*line, "--json").out)
    assert streamed.out == "고양이" + made["completions"][0]["text"] + "\n"
    assert made["seed"] == 7
    assert malmoi(*line).out == streamed.out
    assert malmoi(*line[:-3], 8, *line[-2:]).out != streamed.out


def test_json_with_several_sequences_and_traces(malmoi, finished_run: Path):
    made = json.loads(malmoi("generate", finished_run, "The", "-n", 3, "-m", 5, "--json", "--trace", "--seed", 1).out)
    assert len(made["completions"]) == 3
    for row in made["completions"]:
        assert len(row["trace"]) == len(row["ids"])
        assert row["finish_reason"] in ("eos", "stop", "length")
        assert [step["id"] for step in row["trace"]] == row["ids"]
        assert all(step["logprob"] <= 0 and step["rank"] >= 1 for step in row["trace"])


def test_several_sequences_are_numbered(malmoi, finished_run: Path):
    outcome = malmoi("generate", finished_run, "The", "-n", 2, "-m", 3, "--seed", 1)
    assert "1 of 2" in outcome.out
    assert "2 of 2" in outcome.out


def test_a_trace_is_a_table_with_a_line_for_each_token(malmoi, finished_run: Path):
    outcome = malmoi("generate", finished_run, "The", "-m", 4, "-t", 0, "--trace")
    for heading in ("probability", "rank", "surprise", "entropy", "instead of"):
        assert heading in outcome.out
    assert "moved by settings" in outcome.out


def test_standard_input_is_a_prompt(malmoi, finished_run: Path):
    piped = malmoi("generate", finished_run, "-", "-m", 4, "-t", 0, stdin="The cat\n")
    assert piped.out == malmoi("generate", finished_run, "The cat", "-m", 4, "-t", 0).out


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(malmoi, finished_run: Path):
    free = json.loads(malmoi("generate", finished_run, "The", "-m", 20, "-t", 0, "--json").out)["completions"][0]
    stop = free["text"][3:5]
    row = json.loads(malmoi("generate", finished_run, "The", "-m", 20, "-t", 0, "--stop", stop, "--json").out)
    assert row["completions"][0]["finish_reason"] == "stop"
    assert row["completions"][0]["text"] == free["text"][: free["text"].index(stop)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "-m", 3], ["empty"]),
        (["the cat " * 200, "-m", 3], ["context", "128"]),
        (["The", "--max-length", 5000], ["max_length=5000", "128"]),
        (["The", "-m", 5000], ["max_new_tokens=5000"]),
        (["The", "-t", -1], ["temperature"]),
        (["The", "--top-p", 1.5], ["top_p"]),
        (["The", "-t", 0, "-n", 2], ["temperature=0"]),
    ],
)
def test_what_cannot_work_is_one_clear_error(malmoi, finished_run: Path, arguments: list, words: list):
    malmoi("generate", finished_run, *arguments).is_one_clear_error(*words)


def test_broken_utf8_on_standard_input(malmoi, finished_run: Path):
    malmoi("generate", finished_run, "-", stdin=b"caf\xe9").is_one_clear_error("standard input", "byte 3")


def test_a_missing_folder(malmoi, tmp_path: Path):
    malmoi("generate", tmp_path / "nothing", "x").is_one_clear_error("nothing")
