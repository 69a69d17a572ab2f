"""A run from recipe to model folder: what it leaves, how it goes on, what it refuses before anything is written."""

import dataclasses
import json
from pathlib import Path

import pytest

from cli.conftest import tiny_recipe
from malmoi import GPT4LMHeadModel, GPT4Tokenizer, presets
from malmoi.cli.pipeline import Stage, model_config, resolve, run, village_parts
from malmoi.config import MalmoiError, Recipe, SourceConfig


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_finished_run_leaves_everything_that_was_promised(finished_run: Path):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"recipe.yaml", "tokenizer", "tokens", "config.yaml", "versions.json", "metrics.jsonl", "model"}
    model_files = {path.name for path in (finished_run / "model").iterdir()}
    assert model_files >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "recipe.yaml",
    }
    assert not [name for name in names if name.startswith(".")], "something half-written was left behind"
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["bpb"] is not None
    assert lines[-1]["val_loss"] < lines[2]["val_loss"]


def test_the_public_classes_open_it(finished_run: Path):
    tokenizer = GPT4Tokenizer.from_pretrained(finished_run / "model")
    model = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    assert model.config.vocab_size == len(tokenizer) == 320
    assert model.generation_config.temperature == 0.7
    inputs = tokenizer.encode("The cat", return_tensors="pt")
    assert model.generate(inputs, max_length=12, num_return_sequences=2, temperature=0.7).shape[0] == 2


def test_show_sees_the_stages_in_order_and_every_step(corpus: Path, tmp_path: Path):
    seen: list[object] = []
    result = run(tiny_recipe(corpus), tmp_path / "run", show=seen.append)
    stages = [event.name for event in seen if isinstance(event, Stage)]
    assert list(dict.fromkeys(stages)) == ["tokenizer", "tokens", "model", "train", "save"]
    assert [event.step for event in seen if not isinstance(event, Stage)] == [1, 2, 3, 4, 5, 6]
    assert result.model_folder == tmp_path / "run" / "model"
    assert not result.interrupted


def test_the_recipe_that_a_run_leaves_repeats_it_bit_for_bit(corpus: Path, finished_run: Path, tmp_path: Path):
    again = Recipe.from_yaml(finished_run / "recipe.yaml")
    run(again, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(finished_run)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run's own code runs after it."""


def test_a_run_that_died_goes_on_and_ends_with_the_same_bits(corpus: Path, finished_run: Path, tmp_path: Path):
    def die_after_four(event: object) -> None:
        if getattr(event, "step", 0) == 4:
            raise Killed

    with pytest.raises(Killed):
        run(tiny_recipe(corpus), tmp_path / "run", show=die_after_four)
    assert not (tmp_path / "run" / "model").exists()
    run(Recipe.from_yaml(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(finished_run)


def test_a_model_can_be_the_start_of_another_run(corpus: Path, finished_run: Path, tmp_path: Path):
    values = tiny_recipe(corpus).model_dump(exclude_unset=True)
    for name in ("size", "vocab_size", "model"):
        values.pop(name)
    values["train"]["learning_rate"] = values["train"]["matrix_learning_rate"] = 1e-9
    run(Recipe(**values, start_from=str(finished_run)), tmp_path / "more")
    before = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    after = GPT4LMHeadModel.from_pretrained(tmp_path / "more" / "model")
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert (old - new).abs().max() < 1e-4, name


def test_weights_and_validation_files(corpus: Path, tmp_path: Path):
    other = tmp_path / "numbers.txt"
    other.write_text("one two three four five. " * 300, encoding="utf-8")
    data = {
        "sources": [
            {"path": str(corpus), "name": "animals", "weight": 0.8},
            {"path": str(other), "name": "numbers", "weight": 0.2},
        ],
        "validation": [{"path": str(other)}],
    }
    result = run(tiny_recipe(corpus, data=data), tmp_path / "run")
    assert (tmp_path / "run" / "validation" / "manifest.json").is_file()
    assert result.last is not None
    assert result.last.bits_per_byte is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"learning_rat": 1}}, ["learning_rat", "learning_rate"]),
        ({"train": {"learning_rate": -1}}, ["learning_rate"]),
        ({"model": {"hidden_sise": 32}}, ["hidden_size"]),
        ({"model": {"vocab_size": 50}}, ["vocab_size"]),
        ({"size": "nanno"}, ["nano"]),
        ({"vocab_size": 100_000}, ["vocab_size", "100000"]),
        ({"data": {"sources": [{"path": "/nowhere/at/all.txt"}]}}, ["/nowhere/at/all.txt"]),
        ({"data": {"sources": [{"path": "-"}]}}, ["standard input"]),
        ({"start_from": "somewhere"}, ["start_from"]),
        ({"model": {"max_position_embeddings": 16}}, ["max_position_embeddings", "sequence_length"]),
        ({"train": {"sequence_length": 100_000}, "model": {}}, ["100,000", "tokens"]),
    ],
)
def test_a_mistake_is_found_before_training_and_leaves_no_folder(
    corpus: Path, tmp_path: Path, change: dict, words: list
):
    with pytest.raises(MalmoiError) as error:
        run(tiny_recipe(corpus, **change), tmp_path / "run")
    for word in words:
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_never_writes_over_another(corpus: Path, finished_run: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    with pytest.raises(MalmoiError, match="holds a run already"):
        run(tiny_recipe(corpus), finished_run)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(MalmoiError, match="not empty"):
        run(tiny_recipe(corpus), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_resuming_needs_a_run(corpus: Path, tmp_path: Path):
    with pytest.raises(MalmoiError, match="no run here"):
        run(tiny_recipe(corpus), tmp_path / "run", resume=True)


def test_what_follows_from_a_size_follows_anew_where_the_recipe_changes_it(corpus: Path):
    nano = presets.size("nano")
    recipe = tiny_recipe(corpus, model={"hidden_size": 2 * nano.hidden_size, "num_hidden_layers": 3})
    config = model_config(recipe, "nano", 320, resolve(recipe).train)
    assert len(config.layer_types) == 3
    assert config.num_attention_heads == nano.num_attention_heads
    assert config.num_key_value_heads == nano.num_key_value_heads
    assert config.head_dim == 2 * nano.head_dim
    assert config.intermediate_size > nano.intermediate_size


def test_the_village_in_parts_is_the_village(tmp_path: Path):
    from malmoi.data.corpus import read

    source = SourceConfig(path="village:25")
    parts = village_parts([source], seed=3)
    together = [document for part in parts for document in part()]
    assert together == [dataclasses.replace(document) for document in read(source, seed=3)]
    assert village_parts([source, SourceConfig(path="file.txt")], seed=3) == []
