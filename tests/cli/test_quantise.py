"""`malmoi quantise`: a run's model rounded, measured and opened again."""

import json

import pytest

from malmoi.cli import quantise
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.native.core import NativeModel
from malmoi.native.library import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_table_says_what_was_written(malmoi, finished_run, tmp_path):
    outcome = malmoi("quantise", finished_run, "--to", "int4", "--head", "int4", "--out", tmp_path / "small")
    assert "divergence from the original" in outcome.out
    assert "MB" in outcome.out


def test_a_folder_that_is_there_is_not_replaced_and_said_before_the_work(malmoi, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("malmoi.cli.quantise._calibrated", lambda *_: pytest.fail("it calibrated first"))
    (tmp_path / "letter.txt").write_text("dear")
    malmoi("quantise", finished_run, "--out", tmp_path).is_one_clear_error("is there already")


def test_all_rows_of_the_models_own_text_are_written_at_once(finished_run, monkeypatch):
    model = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    length = model.config.max_position_embeddings
    monkeypatch.setattr("malmoi.native.calibration.TOKENS", quantise.OWN_ROWS * length)
    steps, step = [], NativeModel.step
    monkeypatch.setattr(NativeModel, "step", lambda *arguments: steps.append(1) or step(*arguments))
    assert quantise.own_text(model).shape == (quantise.OWN_ROWS, length)
    assert len(steps) <= length + 2  # one row had to wait for another: twice as many


def test_a_folder_that_is_no_model_is_refused(malmoi, tmp_path):
    malmoi("quantise", tmp_path).is_one_clear_error(str(tmp_path))


def test_a_text_is_calibrated_on_and_another_measured(malmoi, finished_run, corpus, tmp_path):
    outcome = malmoi("quantise", finished_run, "--to", "int4", "--text", corpus, "--out", tmp_path / "a", "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert set(said["lost"]) == {"attention", "feed-forward"}
    assert said["bits_per_byte"] == pytest.approx(said["bits_per_byte_before"], rel=0.05)
    outcome = malmoi(
        *("quantise", finished_run, "--to", "int4", "--text", corpus, "--held-out", corpus, "--out", tmp_path / "b")
    )
    assert "held-out bits a byte" in outcome.out
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "b" / "model.safetensors").read_bytes()


def test_rounding_to_the_nearest_needs_no_text(malmoi, finished_run, tmp_path):
    outcome = malmoi("quantise", finished_run, "--method", "nearest", "--out", tmp_path / "small", "--json")
    assert "lost" not in json.loads(outcome.out)


def test_texts_that_cannot_be_used_are_refused(malmoi, finished_run, tmp_path):
    (tmp_path / "one.txt").write_text("A single line.")
    wish = ("quantise", finished_run, "--out", tmp_path / "small")
    malmoi(*wish, "--text", tmp_path / "one.txt").is_one_clear_error("--held-out")
    malmoi(*wish, "--text", tmp_path / "none.txt").is_one_clear_error("none.txt")
    malmoi(*wish, "--text", tmp_path / "one.txt", "--held-out", tmp_path / "one.txt").is_one_clear_error("too few")
    assert not (tmp_path / "small").exists()
