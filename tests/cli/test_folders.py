"""What a person points at, and the ways in which a model folder can be broken."""

import json
import shutil
from pathlib import Path

import pytest

from malmoi.cli.folders import model_folder, open_model
from malmoi.config import MalmoiError


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the model folder that a test may break."""
    return Path(shutil.copytree(finished_run / "model", tmp_path / "model"))


def test_a_run_means_its_model(finished_run: Path):
    assert model_folder(finished_run) == finished_run / "model"
    assert model_folder(str(finished_run / "model")) == finished_run / "model"
    model, tokenizer = open_model(finished_run)
    assert model.config.vocab_size == len(tokenizer)
    assert not model.training


def test_a_name_that_is_no_folder_is_passed_on():
    assert model_folder("someone/some-model") == "someone/some-model"


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("data: {}", encoding="utf-8")
    (tmp_path / "tokens").mkdir()
    with pytest.raises(MalmoiError, match="--resume"):
        model_folder(tmp_path)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lie_about_the_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def misshape(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "intermediate_size": 64}), encoding="utf-8")


def other_tokenizer(folder: Path) -> None:
    from malmoi.tokens.vocabulary import learn

    learn(["other words, other merges, other words " * 50], 285).save_pretrained(folder)


def larger_tokenizer(folder: Path) -> None:
    from malmoi.tokens.vocabulary import learn

    learn([f"word{number} again word{number} " for number in range(2000)] * 2, 600).save_pretrained(folder)


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def garbage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "model.safetensors"),
        (remove_weights, "model.safetensors"),
        (lie_about_the_header, "model.safetensors"),
        (misshape, "mlp"),
        (other_tokenizer, "tokenizer"),
        (larger_tokenizer, "tokenizer"),
        (remove_config, "config.json"),
        (garbage_config, "config.json"),
    ],
)
def test_a_broken_model_folder_is_one_clear_error(malmoi, folder: Path, damage, word: str):
    damage(folder)
    malmoi("generate", folder, "The cat").is_one_clear_error(word, str(folder))


def test_weights_that_were_never_published(malmoi):
    malmoi("generate", "openai/gpt-4", "Hello").is_one_clear_error("never published", "quickstart")
