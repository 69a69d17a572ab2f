"""Killed before training began: finished parts are kept, others cleared away, and the same command goes on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.conftest import tiny_recipe
from malmoi.cli import pipeline, preparing
from malmoi.cli.preparing import PREPARING, begin, clear_half_written, is_unfinished, recipe_in


class KilledError(BaseException):
    """What SIGKILL would be: no cleaning up (rmtree is out of order, too)."""


def killed_at(monkeypatch, stage: str, recipe, folder: Path, resume=False) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, stage, lambda *_, **__: (_ for _ in ()).throw(KilledError()))
        patch.setattr(pipeline, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
        with pytest.raises(KilledError):
            pipeline.run(recipe, folder, resume=resume)


@pytest.mark.parametrize("stage", ["prepare_tokenizer", "prepare_tokens", "build_model", "write_recipe"])
@pytest.mark.parametrize("resume", [False, True])
def test_the_same_command_goes_on_and_ends_as_if_nothing_had_been(
    corpus, finished_run, tmp_path, monkeypatch, stage, resume
):
    folder = tmp_path / "run"
    killed_at(monkeypatch, stage, tiny_recipe(corpus), folder)
    assert is_unfinished(folder) and recipe_in(folder) == folder / PREPARING
    (folder / ".tokens.building-17-0a1b2c3d").mkdir()
    pipeline.run(tiny_recipe(corpus), folder, resume=resume)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    ours, theirs = ((place / "model" / "model.safetensors").read_bytes() for place in (folder, finished_run))
    assert ours == theirs


def test_finished_parts_are_kept_for_the_same_recipe_and_dropped_for_another(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    killed_at(monkeypatch, "build_model", tiny_recipe(corpus), folder)
    before = (folder / "tokens" / "manifest.json").stat().st_mtime_ns
    killed_at(monkeypatch, "build_model", tiny_recipe(corpus), folder)
    assert (folder / "tokens" / "manifest.json").stat().st_mtime_ns == before
    killed_at(monkeypatch, "prepare_tokenizer", tiny_recipe(corpus, vocab_size=300), folder)
    assert not (folder / "tokens").exists()


def test_resume_finds_the_recipe_of_a_run_that_had_not_begun(corpus, tmp_path, monkeypatch, malmoi):
    folder = tmp_path / "run"
    killed_at(monkeypatch, "prepare_tokens", tiny_recipe(corpus), folder)
    outcome = malmoi("train", "--resume", "--out", folder)
    assert outcome.code == 0, outcome
    assert (folder / "model" / "config.json").is_file() and not (folder / PREPARING).exists()


def test_only_our_own_half_written_names_are_cleared(tmp_path):
    ours = [
        ".tokens.building-71-0a1b2c3d", ".tokens.old-3-00ff00ff", ".config.yaml.0a1b2c3d4e5f.tmp", ".loss.png.4711",
        ".writing-checkpoint-5-71", ".old-checkpoint-checkpoint-5-71", ".tokenizer.building-5",
    ]  # fmt: skip
    others = [".git", ".gitignore", ".notes", "tokens", "a.tmp", ".DS_Store", ".venv.d"]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
    clear_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    clear_half_written(tmp_path / "nowhere")


def test_beginning_twice_is_beginning_once(corpus, tmp_path):
    recipe = tiny_recipe(corpus)
    begin(tmp_path, recipe)
    (tmp_path / "tokenizer").mkdir()
    begin(tmp_path, recipe)
    assert (tmp_path / "tokenizer").is_dir()
    preparing.end(tmp_path)
    assert not is_unfinished(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [[], [f".{PREPARING}.0a1b2c3d4e5f.tmp"]], ids=["nothing", "half a note"])
def test_killed_before_the_recipe_was_noted(corpus, tmp_path, resume, left):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text("", encoding="utf-8")
    assert is_unfinished(folder)
    pipeline.run(tiny_recipe(corpus), folder, resume=resume)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert (folder / "model" / "config.json").is_file()


def test_a_folder_of_somebody_elses_is_none_of_ours(corpus, tmp_path):
    (tmp_path / ".env").write_text("", encoding="utf-8")
    assert not is_unfinished(tmp_path)
