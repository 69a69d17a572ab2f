"""`malmoi train`: from a command line to a run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.conftest import tiny_recipe
from malmoi.config import Recipe

SMALL = [
    "--set=model.hidden_size=32",
    "--set=model.num_hidden_layers=2",
    "--set=model.num_attention_heads=2",
    "--set=train.sequence_length=48",
    "--set=train.per_device_train_batch_size=4",
    "--vocab-size=320",
]


def test_files_to_a_model_with_lines_of_progress(malmoi, corpus: Path, tmp_path: Path):
    outcome = malmoi("train", "--data", corpus, "--size", "nano", "--steps", 3, *SMALL, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "step 3/3" in outcome.out
    for word in ("loss", "bits/byte", "tokens/s", "in all"):
        assert word in outcome.out
    assert f"malmoi generate {tmp_path / 'run'}" in outcome.out
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert "\x1b" not in outcome.out


def test_trackers_by_name(malmoi, corpus: Path, tmp_path: Path):
    line = ["train", "--data", corpus, "--size", "nano", "--steps", 2, *SMALL, "--out", tmp_path / "run"]
    malmoi(*line, "--track", "wandbb").is_one_clear_error("--track wandbb", "wandb", "tensorboard, trackio, wandb")
    assert not (tmp_path / "run").exists()
    pytest.importorskip("tensorboard")
    outcome = malmoi(*line, "--track", "tensorboard, tensorboard")
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert Recipe.from_yaml(tmp_path / "run" / "recipe.yaml").train["track"] == ["tensorboard"]
    assert "Energy: " in outcome.out and " a token; " in outcome.out and "kWh" in outcome.out


def test_the_run_speaks_the_persons_language(malmoi, corpus: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    outcome = malmoi("train", "--data", corpus, "--size", "nano", "--steps", 1, *SMALL, "--out", tmp_path / "run")
    assert outcome.code == 0 and "계산 정밀도" in outcome.out, outcome.err


def test_options_and_set_change_a_recipe(malmoi, corpus: Path, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(tiny_recipe(corpus).to_yaml(), encoding="utf-8")
    outcome = malmoi(
        "train",
        recipe,
        "--out",
        tmp_path / "run",
        "--steps",
        2,
        "--set",
        "train.learning_rate=0.01",
        "--set",
        "data.held_out=0",
    )
    assert outcome.code == 0, outcome.err
    made = Recipe.from_yaml(tmp_path / "run" / "recipe.yaml")
    assert (made.train["max_steps"], made.train["learning_rate"], made.data.held_out) == (2, 0.01, 0)


def test_resume_without_a_recipe_goes_on_with_the_run(malmoi, finished_run: Path, corpus: Path, tmp_path: Path):
    from malmoi.cli.pipeline import run

    class Killed(BaseException):
        pass

    def die(event: object) -> None:
        if getattr(event, "step", 0) == 4:
            raise Killed

    with pytest.raises(Killed):
        run(tiny_recipe(corpus), tmp_path / "run", show=die)
    outcome = malmoi("train", "--resume", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "Resumed" in outcome.out
    ours, straight = (folder / "model" / "model.safetensors" for folder in (tmp_path / "run", finished_run))
    assert ours.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], ["recipe", "--data"]),
        (["letters.txt"], ["--data letters.txt"]),
        (["nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["--resume"], ["--out"]),
        (["--resume", "--out", "nowhere"], ["nowhere", "no run"]),
        (["--data", "x.txt", "--set", "train.learning_rate"], ["NAME=VALUE"]),
        (["--data", "x.txt", "--set", "train.lerning_rate=1"], ["learning_rate"]),
        (["--data", "x.txt", "--set", "trian.learning_rate=1"], ["train"]),
        (["--data", "x.txt", "--set", "size.x=1", "--size", "nano"], ["size"]),
        (["--data", "x.txt", "--size", "enormous"], ["enormous", "nano"]),
    ],
)
def test_a_persons_mistake_is_one_clear_error(malmoi, tmp_path: Path, monkeypatch, line: list, words: list):
    monkeypatch.chdir(tmp_path)
    malmoi("train", *line).is_one_clear_error(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ["empty.txt"]),
        ("binary.txt", bytes(range(256)) * 40, ["binary.txt"]),
        ("broken.txt", b"first line\nsecond \xff line\n" * 50, ["broken.txt", "line 2", "byte"]),
        ("short.txt", "한 줄뿐.".encode(), ["vocab_size=300", "272"]),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n', ["broken.jsonl", "2"]),
        ("fields.jsonl", b'{"txet": "fine"}\n', ["fields.jsonl", "txet"]),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    malmoi, tmp_path: Path, name: str, content: bytes, words: list
):
    path = tmp_path / name
    path.write_bytes(content)
    outcome = malmoi("train", "--data", path, "--vocab-size", 300, "--out", tmp_path / "run")
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.err
    assert "mistake of its own" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_corpus_shorter_than_one_context(malmoi, tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_text("hello hello hello hello. " * 4, encoding="utf-8")
    outcome = malmoi(
        "train", "--data", path, "--vocab-size", 275, "--out", tmp_path / "run", "--set", "data.held_out=0"
    )
    assert outcome.code == 1
    assert "context" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_saves_and_says_how_to_go_on(finished_run: Path, corpus: Path, tmp_path: Path):
    recipe = tmp_path / "long.yaml"
    values = tiny_recipe(corpus).model_dump(mode="json", exclude_unset=True)
    values["train"] |= {"max_steps": 100_000, "save_steps": 100_000, "eval_steps": 100_000}
    recipe.write_text(Recipe(**values).to_yaml(), encoding="utf-8")
    folder = tmp_path / "run"
    code = "import sys; from malmoi.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "train", str(recipe), "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"malmoi train --resume --out {folder}" in output
    assert "Traceback" not in output
    assert any(path.name.startswith("checkpoint-") for path in folder.iterdir())
