"""`malmoi quantise`: a run's model rounded, measured and opened again."""

import json

import pytest

from malmoi.native.core import NativeModel
from malmoi.native.library import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_a_run_is_rounded_and_measured(malmoi, finished_run, tmp_path, to: str):
    outcome = malmoi("quantise", finished_run, "--to", to, "--out", tmp_path / "small", "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert said["bytes"] < said["bytes_before"]
    assert 0 <= said["divergence"] < 0.05
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    with NativeModel.open(tmp_path / "small") as model:
        assert model.step([1], [0], [0], [[0]], [0]).shape == (1, model.vocab_size)


def test_the_table_says_what_was_written(malmoi, finished_run, tmp_path):
    outcome = malmoi("quantise", finished_run, "--to", "int4", "--head", "int4", "--out", tmp_path / "small")
    assert "divergence from the original" in outcome.out
    assert "MB" in outcome.out


def test_a_folder_that_is_there_is_not_replaced(malmoi, finished_run, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    malmoi("quantise", finished_run, "--out", tmp_path).is_one_clear_error("is there already")


def test_a_folder_that_is_no_model_is_refused(malmoi, tmp_path):
    malmoi("quantise", tmp_path).is_one_clear_error(str(tmp_path))
