"""The page of `malmoi params` for people: tables, both languages."""

from pathlib import Path

import pytest

from malmoi.cli.params_page import KIND_WORDS, WORDS, cell, size_of
from malmoi.plan.counts import KINDS


def test_for_reading(malmoi, finished_run: Path):
    outcome = malmoi("params", finished_run)
    for heading in ("1. Positional", "2. Learned", "3. Hyperparameters", "4. Configuration"):
        assert heading in outcome.out
    assert "model.layers.*.mlp.gate_proj.weight" in outcome.out
    assert "tied" in outcome.out
    assert "Published" not in outcome.out


def test_a_preset_says_what_is_published_in_the_readers_language(malmoi):
    english, korean = malmoi("params", "gpt4"), malmoi("params", "gpt4", "--lang", "ko")
    assert "no source stands behind 170 trillion" in english.out.replace("\n", " ").replace("  ", " ")
    assert "not GPT-4" in english.out
    for word in ("추측", "2. 학습되는 값", "전문가와 라우터"):
        assert word in korean.out
    for outcome in (english, korean):
        for number in ("170,175,431,802,880", "255,788,154,880", "254,761,533,440", "619 TiB"):
            assert number in outcome.out


def test_weights_in_mxfp4_only_where_there_are_experts(malmoi):
    assert "12.8 GiB" in malmoi("params", "gpt-oss-20b").out
    assert "mxfp4" not in malmoi("params", "gpt2").out


def test_every_kind_and_every_sentence_has_both_languages():
    assert tuple(KIND_WORDS) == KINDS
    assert set(WORDS["en"]) == set(WORDS["ko"])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (13_764_000_000, "12.8 GiB"),
        (619 * 2**40, "619 TiB"),
        (1500 * 2**40, "1,500 TiB"),
    ],
)
def test_sizes(number: int, words: str):
    assert size_of(number) == words


def test_long_lists_stand_on_one_line():
    assert cell(["a"] * 9) == "a x 9"
    assert cell(["a", "b"] * 4) == "a, b, ... x 8"
    assert cell(["a", "b", "c"]) == "['a', 'b', 'c']"
    assert cell(None) == "None"
