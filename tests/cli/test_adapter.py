"""Adapters on the command line: made by train, opened like models, merged."""

import json
from pathlib import Path

import pytest
import torch

from malmoi import GPT4LMHeadModel


@pytest.fixture(scope="module")
def adapted(corpus: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from malmoi.cli import main

    folder = tmp_path_factory.mktemp("adapted") / "run"
    words = ["train", "--from", str(finished_run), "--data", str(corpus), "--lora", "r=2,alpha=8,targets=q_proj+v_proj"]
    assert main([*words, "--steps", "4", "--out", str(folder)]) == 0
    return folder


def test_train_tells_where_the_adapter_is(corpus, finished_run, tmp_path, malmoi):
    done = malmoi(
        "train", "--from", finished_run, "--data", corpus, "--lora", "", "--steps", 2, "--out", tmp_path / "run"
    )
    assert done.code == 0
    flat = " ".join(done.out.split())
    assert "The adapter alone is in" in flat and (tmp_path / "run" / "adapter").is_dir()


def test_training_goes_on_with_the_models_own_data_where_none_is_named(finished_run, tmp_path, malmoi):
    assert malmoi("train", "--from", finished_run, "--steps", 2, "--out", tmp_path / "more").code == 0
    bare = tmp_path / "bare"
    GPT4LMHeadModel.from_pretrained(finished_run / "model").save_pretrained(bare)
    malmoi("train", "--from", bare, "--steps", 2, "--out", tmp_path / "no").is_one_clear_error("--data")


@pytest.mark.parametrize("place", ["", "adapter"])
def test_generate_chat_and_eval_open_a_run_and_an_adapter(adapted, place, malmoi, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The red cat sees 3 birds near the house.\n")
    measured = malmoi("eval", adapted / place, "--text", text, "--json")
    assert measured.code == 0, measured.err
    spoken = malmoi("generate", adapted / place, "The red", "--max-new-tokens", 4, "--temperature", 0)
    assert spoken.code == 0, spoken.err
    assert malmoi("chat", adapted / place, "--max-new-tokens", 3, stdin="hello\n").code == 0
    merged = malmoi("eval", adapted / "model", "--text", text, "--json")
    bits = [json.loads(outcome.out)["texts"][0]["bits_per_byte"] for outcome in (measured, merged)]
    assert bits[0] == pytest.approx(bits[1], abs=1e-5)


def test_merge_writes_the_same_model(adapted, tmp_path, malmoi):
    done = malmoi("adapter", "merge", adapted / "adapter", "--to", tmp_path / "merged")
    assert done.code == 0 and "4 matrices changed" in done.out
    one, other = (GPT4LMHeadModel.from_pretrained(folder) for folder in (tmp_path / "merged", adapted / "model"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    again = malmoi("adapter", "merge", adapted, "--to", tmp_path / "merged")
    again.is_one_clear_error("is there already")


def test_mistakes(adapted, finished_run, tmp_path, malmoi):
    malmoi("adapter", "merge", finished_run, "--to", tmp_path / "m").is_one_clear_error("is not an adapter")
    malmoi("tokenizer", "show", adapted / "adapter", "x").is_one_clear_error("malmoi adapter merge")
    malmoi("train", "--from", adapted / "adapter", "--data", "x.txt").is_one_clear_error("is an adapter")
    assert not (tmp_path / "m").exists()
