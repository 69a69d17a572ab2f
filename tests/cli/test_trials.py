"""What sweep and scale share: one preparation, runs of any length, the same exam for all."""

import pytest

from cli.conftest import tiny_recipe
from malmoi.cli import trials
from malmoi.config import MalmoiError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30min", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("5", 300), ("1.5 min", 90)]
)
def test_a_length_of_time(text, seconds):
    assert trials.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "30 lightyears", "-5min", "0min", "1h and more"])
def test_no_length_of_time(text):
    with pytest.raises(MalmoiError):
        trials.seconds_of(text)


def test_changes_go_into_their_records(corpus):
    recipe = tiny_recipe(corpus)
    made = trials.changed(recipe, {"train.learning_rate": 0.5, "model.residual_dropout": 0.25})
    assert made.train == {**recipe.train, "learning_rate": 0.5}
    assert made.model == {**recipe.model, "residual_dropout": 0.25}
    assert trials.changed(made, {}) == made


def test_one_preparation_many_runs_one_exam(corpus, tmp_path):
    prepared = trials.prepare(tiny_recipe(corpus), tmp_path, lambda stage: None)
    manifest = tmp_path / "data" / "tokens" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    prepared = trials.prepare(tiny_recipe(corpus), tmp_path, lambda stage: None)
    assert manifest.stat().st_mtime_ns == before
    tokens = {}
    for rows in (2, 4):
        recipe = trials.changed(prepared.settings.recipe, {"train.per_device_train_batch_size": rows})
        settings = trials.resolved(prepared, recipe, 48 * 4 * 6, 3, 4096)
        _, exam = trials._batches(prepared, settings)
        tokens[rows] = [batch.num_target_tokens for batch in exam]
        steps = list(trials.run(prepared, settings, tmp_path / str(rows)))
        assert steps[-1].tokens == 48 * 4 * 6
        assert [step.step for step in steps if step.held_out_loss is not None] == [
            2 * 12 // rows // 3 * i for i in (1, 2, 3)
        ]
    assert tokens[2] == tokens[4]


def test_counts_of_steps_made_for_long_runs_are_cut_to_short_ones(corpus, tmp_path):
    prepared = trials.prepare(tiny_recipe(corpus), tmp_path, lambda stage: None)
    long = {"train.warmup_steps": 500, "train.decay_steps": 0.3, "train.early_stopping_patience": 2}
    train = trials.resolved(prepared, trials.changed(prepared.settings.recipe, long), 192 * 50, 8, 100).train
    assert (train.max_steps, train.warmup_steps, train.decay_steps) == (50, 10, 0.3)
    assert train.early_stopping_patience == 0
    assert train.eval_steps == 7


def test_the_pace_is_measured(corpus, tmp_path):
    prepared = trials.prepare(tiny_recipe(corpus), tmp_path, lambda stage: None)
    pace = trials.pace(prepared, prepared.settings)
    assert 0 < pace.seconds_per_token < 1
    assert 0 < pace.seconds_per_measured_token < 1


def test_data_of_another_recipe_are_made_anew(corpus, tmp_path):
    trials.prepare(tiny_recipe(corpus), tmp_path, lambda stage: None)
    other = trials.prepare(tiny_recipe(corpus, vocab_size=280), tmp_path, lambda stage: None)
    assert len(other.tokenizer) <= 280


def test_nothing_held_out_and_a_job_are_refused(corpus, tmp_path, monkeypatch):
    data = {"sources": [{"path": str(corpus)}], "held_out": 0}
    with pytest.raises(MalmoiError, match="Nothing is held out"):
        trials.prepare(tiny_recipe(corpus, data=data), tmp_path, lambda stage: None)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MalmoiError, match="without torchrun"):
        trials.prepare(tiny_recipe(corpus), tmp_path / "job", lambda stage: None)


def test_what_failed_at_once_leaves_only_whole_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "study.db").touch()
    (tmp_path / "data" / "recipe.yaml").touch()
    trials.discard(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    trials.check_new(tmp_path, "sweep")
    (tmp_path / "letter.txt").touch()
    with pytest.raises(MalmoiError, match="holds no sweep"):
        trials.check_new(tmp_path, "sweep")
