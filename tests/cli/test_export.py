"""`malmoi export`: a file or a folder for other programs, what is printed, what is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from malmoi import GPT4LMHeadModel
from malmoi.formats import gguf


def test_one_file_beside_the_run(malmoi, finished_run: Path, tmp_path: Path):
    run = tmp_path / "cats"
    shutil.copytree(finished_run, run)
    outcome = malmoi("export", run)
    assert outcome.code == 0, outcome.err
    made = run / "cats-f16.gguf"
    assert str(made) in outcome.out
    for words in ("qwen3", "the same", "nats", "llama-cli -m", "ollama create cats-f16"):
        assert words in outcome.out
    assert gguf.load(made).config.hidden_size == GPT4LMHeadModel.from_pretrained(run / "model").config.hidden_size
    assert gguf.values(gguf.open_file(made))["general.name"] == "cats"


def test_figures_as_json(malmoi, finished_run: Path, tmp_path: Path):
    found = json.loads(malmoi("export", finished_run, "--type", "q8_0", "--out", tmp_path / "m.gguf", "--json").out)
    assert found["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert found["numbers"]["q8_0"] > 0
    assert found["difference"] <= 1e-4
    assert set(found["commands"]) == {"llama.cpp", "llama.cpp as a server", "Ollama"}


def test_a_folder_for_transformers(malmoi, finished_run: Path, tmp_path: Path):
    outcome = malmoi("export", finished_run, "--to", "hf", "--type", "bf16", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "vllm serve" in outcome.out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert malmoi("generate", tmp_path / "out", "The red", "-m", "4").code == 0


def test_mistakes_are_one_sentence(malmoi, finished_run: Path, tmp_path: Path, monkeypatch):
    malmoi("export", finished_run, "--to", "hf", "--type", "q4_0").is_one_clear_error("q4_0", "--to hf")
    (tmp_path / "letter").write_text("dear")
    malmoi("export", finished_run, "--out", tmp_path / "letter").is_one_clear_error("no GGUF file")
    malmoi("export", tmp_path / "nothing").is_one_clear_error("nothing")
    monkeypatch.setitem(sys.modules, "gguf", None)
    malmoi("export", finished_run, "--out", tmp_path / "m.gguf").is_one_clear_error("malmoi[gguf]")
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_a_model_that_gguf_cannot_say_leaves_nothing(malmoi, finished_run: Path, tmp_path: Path):
    model = GPT4LMHeadModel(GPT4LMHeadModel.from_pretrained(finished_run / "model").config.replace(norm="layer_norm"))
    own = tmp_path / "own"
    shutil.copytree(finished_run / "model", own)
    model.save_pretrained(own)
    malmoi("export", own).is_one_clear_error("norm is layer_norm", "--to hf")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize("kind", ["f32", "bf16", "q4_0"])
def test_every_type_has_its_name(malmoi, finished_run: Path, tmp_path: Path, kind: str):
    model = tmp_path / "small"
    shutil.copytree(finished_run / "model", model)
    assert malmoi("export", model, "--type", kind).code == 0
    assert (tmp_path / f"small-{kind}.gguf").is_file()
