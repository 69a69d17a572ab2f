"""Killed before training began: finished parts are kept, others cleared away, and the same command goes on."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.conftest import tiny_recipe
from malmoi.cli import pipeline, preparing
from malmoi.cli.preparing import PREPARING, begin, clear_half_written, is_unfinished, recipe_in
from malmoi.config import MalmoiError, Recipe


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


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    """A run that was stopped after four of its six steps."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    def cut(event: object) -> None:
        if getattr(event, "step", 0) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        pipeline.run(tiny_recipe(corpus), folder, show=cut)
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 330}, "vocab_size was 320 when this run began and is 330 now"),
        ({"tokenizer": "elsewhere"}, "tokenizer was None .* and is 'elsewhere' now"),
        ({"data": {"held_out": 0.1}}, r"data\.held_out was 0\.2 .* and is 0\.1 now"),
        (
            {"data": {"sources": [{"path": "village:50"}]}},
            r"data\.sources was \[\{'path': .* is \[\{'path': 'village:50'\}\]",
        ),
        ({"data": {"validation": [{"path": "village:50"}]}}, r"data\.validation was \[\] .* 'village:50'"),
        ({"train": {"learning_rate": 0.5}}, r"train\.learning_rate was"),
        ({"model": {"hidden_size": 64}}, r"model\.hidden_size was 32 .* is 64 now"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe_and_keeps_its_own(corpus, stopped, changes, words):
    own = (stopped / "recipe.yaml").read_bytes()
    values = tiny_recipe(corpus).model_dump(mode="json", exclude_unset=True)
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    with pytest.raises(MalmoiError, match=words):
        pipeline.run(Recipe(**values), stopped, resume=True)
    assert (stopped / "recipe.yaml").read_bytes() == own


@pytest.mark.parametrize("name", ["shard-00000.ids", "shard-00000.documents"])
def test_tokens_that_are_not_what_was_written_are_not_learned_from(corpus, stopped, name):
    file = stopped / "tokens" / name
    whole = file.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    try:
        with pytest.raises(MalmoiError, match=rf"{name}: is not what was written \(its SHA-256 differs"):
            pipeline.run(tiny_recipe(corpus), stopped, resume=True)
    finally:
        file.write_bytes(whole)


def test_what_may_change_is_noted_and_the_run_ends_the_same(corpus, stopped, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    recipe = tiny_recipe(corpus)
    pipeline.run(recipe.replace(train={**recipe.train, "save_steps": 1}), folder, resume=True)
    assert Recipe.from_yaml(folder / "recipe.yaml").train["save_steps"] == 1
    ours, theirs = ((place / "model" / "model.safetensors").read_bytes() for place in (folder, finished_run))
    assert ours == theirs


def test_tokens_that_were_made_before_are_used(corpus, finished_run, tmp_path, malmoi, monkeypatch):
    """`malmoi data build` (on many machines, say), then `malmoi train`: the same model as in one go."""
    recipe, folder, tokenizer = tmp_path / "recipe.yaml", tmp_path / "run", finished_run / "tokenizer"
    recipe.write_text(tiny_recipe(corpus).to_yaml(), encoding="utf-8")
    made = ("data", "build", recipe, "--tokenizer", tokenizer, "--out", folder / "tokens")
    assert malmoi(*made).code == 0
    words = ("train", recipe, "--out", folder)
    refused = malmoi(*words, "--set", "vocab_size=300")
    assert refused.code == 1 and "tokens: was written with another tokenizer" in refused.err
    refused = malmoi(*words, "--set", f"tokenizer={tokenizer}", "--set", "data.held_out=0.1")
    refused.is_one_clear_error("was built with --held-out 0.2, but this run needs 0.1")
    monkeypatch.setattr("malmoi.data.shards.build", lambda *_, **__: pytest.fail("built again"))
    assert (folder / "tokens" / "manifest.json").is_file()  # cost somebody hours: never dropped by a mistaken attempt
    assert malmoi(*words, "--set", f"tokenizer={tokenizer}").code == 0
    ours, theirs = ((place / "model" / "model.safetensors").read_bytes() for place in (folder, finished_run))
    assert ours == theirs
