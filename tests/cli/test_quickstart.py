"""`malmoi quickstart` from beginning to end, with a small village and a few seconds of training."""

import json
from pathlib import Path

import pytest

from malmoi.cli import pipeline, quickstart


@pytest.mark.slow
def test_from_nothing_to_a_model_that_was_examined_and_heard(malmoi, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(quickstart, "DOCUMENTS_A_CORE", 1200)
    monkeypatch.setattr(quickstart, "MOST_DOCUMENTS", 2400)
    monkeypatch.setattr(quickstart, "EXAMPLES", 1)
    monkeypatch.setattr(pipeline, "VILLAGE_SAMPLE", 2400)
    out = tmp_path / "first"
    outcome = malmoi("quickstart", "--minutes", 0.06, "--out", out)
    assert outcome.code == 0, outcome.err
    for prompt in quickstart.PROMPTS.values():
        assert sum(prompt in line for line in outcome.out.splitlines()) >= 5
    after = outcome.out[outcome.out.index("Try next") :]
    assert len([line for line in after.splitlines() if line.startswith("  malmoi ")]) == 4
    names = {path.name for path in out.iterdir()}
    assert names >= {"model", "loss.png", "metrics.jsonl", "config.yaml", "recipe.yaml", quickstart.EVALUATION}
    found = json.loads((out / quickstart.EVALUATION).read_text(encoding="utf-8"))
    assert {row["task"] for row in found["answers"]["rows"]} >= {"translation", "question1"}

    weights = (out / "model" / "model.safetensors").read_bytes()
    again = malmoi("quickstart", "--out", out)
    assert again.code == 0, again.err
    assert "holds a finished model" in again.out
    assert (out / "model" / "model.safetensors").read_bytes() == weights


def test_the_recipe_is_one_that_train_would_take():
    recipe = quickstart.recipe(minutes=2.5, size="nano", seed=3)
    settings = pipeline.resolve(recipe)
    assert settings.train.max_minutes == 2.5
    assert settings.train.max_steps is None
    assert settings.train.seed == 3
    assert settings.recipe.size == "nano"


@pytest.mark.parametrize("size", ["nano", "micro"])
def test_without_minutes_the_length_is_a_number_of_tokens_and_the_clock_its_limit(size: str):
    train = pipeline.resolve(quickstart.recipe(minutes=None, size=size, seed=0)).train
    assert train.max_steps is not None
    of_a_step = train.sequence_length * train.per_device_train_batch_size * train.gradient_accumulation_steps
    assert quickstart.TOKENS - of_a_step < train.max_steps * of_a_step <= quickstart.TOKENS
    assert train.max_minutes == quickstart.MOST_MINUTES


def test_an_unknown_size_leaves_nothing(malmoi, tmp_path: Path):
    malmoi("quickstart", "--size", "nanno", "--out", tmp_path / "run").is_one_clear_error("nano")
    assert list(tmp_path.iterdir()) == []
