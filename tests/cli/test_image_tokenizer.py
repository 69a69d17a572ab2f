"""`malmoi image-tokenizer` and recipes with pictures: learned first, kept with the model, gone on with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.conftest import pictured_recipe
from malmoi.cli import pipeline
from malmoi.config import MalmoiError
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.picture import open_picture
from malmoi.tokens.tokenizer import GPT4Tokenizer

QUICK = ("--steps", 4, "--size", 32, "--channels", 8, "--levels", "4,3", "--batch-size", 2)


def test_train_report_show(malmoi, drawings: Path, tmp_path: Path):
    out = tmp_path / "images"
    made = malmoi("image-tokenizer", "train", drawings, "--out", out, *QUICK, "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["config"]["levels"] == [4, 3]
    assert "12 codes" in made.err and "PSNR" in made.err
    found = json.loads(malmoi("image-tokenizer", "report", out, drawings, "--json").out)
    labels = ("image-tokenizer", "report", out, drawings / "labels.jsonl", "--image", "file", "--json")
    assert json.loads(malmoi(*labels).out) == pytest.approx(found)
    assert found["pictures"] == 12 and found["codebook_size"] == 12 and 0 < found["psnr"] < 60
    assert "PSNR" in malmoi("image-tokenizer", "report", out, drawings).out
    shown = malmoi("image-tokenizer", "show", out, drawings / "0.png", drawings / "1.png", "-o", tmp_path / "both.png")
    assert shown.code == 0, shown.err
    assert open_picture(tmp_path / "both.png").size == (64, 64)
    again = malmoi("image-tokenizer", "train", drawings, "--out", out, *QUICK)
    again.is_one_clear_error("holds an image tokenizer already")


def test_mistakes_leave_nothing(malmoi, drawings: Path, tmp_path: Path):
    out = tmp_path / "images"
    malmoi("image-tokenizer", "train", drawings, "-o", out, "--levels", "a,b").is_one_clear_error("8,5,5,5")
    malmoi("image-tokenizer", "train", drawings, "-o", out, "--size", 50).is_one_clear_error("does not divide")
    malmoi("image-tokenizer", "train", tmp_path, "-o", out).is_one_clear_error("holds no pictures")
    malmoi("image-tokenizer", "report", tmp_path, drawings).is_one_clear_error("holds no image tokenizer")
    assert not out.exists()


def test_a_run_keeps_its_image_tokenizer_with_the_model(pictured_run: Path, drawings: Path):
    tokenizer = GPT4Tokenizer.from_pretrained(pictured_run / "model")
    model = GPT4LMHeadModel.from_pretrained(pictured_run / "model")
    assert tokenizer.images is not None and tokenizer.images.count == 12
    assert model.config.vocab_size == len(tokenizer) == 280 + 3 + 12
    grids = [
        ImageTokenizer.from_pretrained(pictured_run / place).encode(drawings / "3.png")
        for place in ("model", "tokenizer", "image_tokenizer", ".")
    ]
    assert all(np.array_equal(grid, grids[0]) for grid in grids)
    assert (pictured_run / "recipe.yaml").read_text().count("levels") == 1


def test_interrupted_anywhere_the_run_ends_with_the_same_bits(
    pictured_run: Path, drawings: Path, tmp_path, monkeypatch
):
    from malmoi.train import image_tokenizer

    class Killed(BaseException):
        pass

    monkeypatch.setattr(image_tokenizer, "SAVE_STEPS", 2)
    folder, recipe = tmp_path / "run", pictured_recipe(drawings)
    batch, calls = image_tokenizer.batch, iter(range(100))

    def dying(*arguments):
        if next(calls) == 3:
            raise Killed
        return batch(*arguments)

    monkeypatch.setattr(image_tokenizer, "batch", dying)
    monkeypatch.setattr(pipeline.shutil, "rmtree", lambda *_, **__: None)  # as a killed process, which tidies nothing
    with pytest.raises(Killed):
        pipeline.run(recipe, folder)
    monkeypatch.undo()
    assert (folder / "image_tokenizer" / "training.safetensors").is_file()
    steps = pipeline.run(recipe, folder).last
    assert steps is not None and steps.step == 6
    straight, resumed = (GPT4LMHeadModel.from_pretrained(run / "model") for run in (pictured_run, folder))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_finished_one_is_taken_and_a_text_model_learns_pictures(pictured_run, finished_run, drawings, tmp_path):
    recipe = pictured_recipe(drawings)
    given = recipe.replace(images=None, image_tokenizer=str(pictured_run))
    pipeline.run(given, tmp_path / "given")
    straight, taken = (GPT4LMHeadModel.from_pretrained(run / "model") for run in (pictured_run, tmp_path / "given"))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), taken.parameters(), strict=True))
    short = {**recipe.train, "max_steps": 2, "sequence_length": 96}
    grown = recipe.replace(start_from=str(finished_run), size=None, model={}, train=short)
    pipeline.run(grown, tmp_path / "grown")
    before, after = (GPT4Tokenizer.from_pretrained(run / "model") for run in (finished_run, tmp_path / "grown"))
    assert after.images is not None and after.encode("고양이가") == before.encode("고양이가")
    with pytest.raises(MalmoiError, match="leave one of the two out"):
        pipeline.run(recipe.replace(image_tokenizer=str(pictured_run)), tmp_path / "both")
    with pytest.raises(MalmoiError, match="knows only text"):
        pipeline.run(recipe.replace(images=None), tmp_path / "none")
