"""`malmoi sweep` from beginning to end on a tiny model: report, best.yaml, resume, Ctrl-C, clear errors."""

import json

import pytest

from cli.conftest import tiny_recipe
from malmoi.config import Recipe
from malmoi.train import sweep as sweep_module

pytest.importorskip("optuna")

OVER = ("--over", "learning_rate,per_device_train_batch_size=2|4", "--steps", 6, "--pruner", "none")


@pytest.fixture
def recipe(corpus, tmp_path, monkeypatch):
    """A recipe's file, in a folder where runs/ may be made."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe(corpus).to_yaml(), encoding="utf-8")
    return path


def values_of(folder):
    trials = json.loads((folder / "report.json").read_text())["trials"]
    return [(trial["values"], trial["loss"]) for trial in trials if trial["state"] != "interrupted"]


@pytest.mark.slow
def test_a_sweep_leaves_a_report_and_a_recipe_and_goes_on(recipe, malmoi, tmp_path):
    outcome = malmoi("sweep", recipe, *OVER, "--trials", 2)
    assert outcome.code == 0, outcome
    folder = tmp_path / "runs" / "sweep-tiny"
    for words in ("Best settings", "best so far", "repeated with seed +2", "bits per byte", "best.yaml"):
        assert words in outcome.out
    assert "# Sweep: tiny" in (folder / "report.md").read_text()
    assert not list(folder.glob("*/checkpoint-*"))
    best = Recipe.from_yaml(folder / "best.yaml")
    found = json.loads((folder / "report.json").read_text())["best"]["values"]
    assert best.train["learning_rate"] == found["train.learning_rate"]
    assert best.train["max_steps"] == 6  # the run's own length, not the trial's
    assert best.size == "nano"

    before = values_of(folder)
    outcome = malmoi("sweep", recipe, *OVER, "--trials", 4)  # two more
    assert "Going on after 2 trials" in outcome.out
    assert values_of(folder)[:2] == before
    outcome = malmoi("sweep", recipe, *OVER, "--trials", 4, "--out", "runs/straight")
    assert values_of(tmp_path / "runs" / "straight") == values_of(folder)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(recipe, malmoi, tmp_path, monkeypatch):
    straight = [*OVER, "--trials", 3, "--out", "straight"]
    assert malmoi("sweep", recipe, *straight).code == 0
    whole = sweep_module.Sweep._train
    trained = []

    def stopped_once(self, *given):
        trained.append(given)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return whole(self, *given)

    monkeypatch.setattr(sweep_module.Sweep, "_train", stopped_once)
    outcome = malmoi("sweep", recipe, *OVER, "--trials", 3)
    assert outcome.code == 130
    assert "Go on with: malmoi sweep" in outcome.out
    assert malmoi("sweep", recipe, *OVER, "--trials", 3).code == 0
    folder = tmp_path / "runs" / "sweep-tiny"
    assert values_of(folder) == values_of(tmp_path / "straight")
    found = json.loads((folder / "report.json").read_text())
    assert found["counts"]["interrupted"] == 1
    assert any("1 interrupted" in remark for remark in found["remarks"])


def test_json_and_settings_of_the_model(recipe, malmoi):
    outcome = malmoi(
        "sweep", recipe, "--over", "dropout=0|0.2,num_hidden_layers=1:2", "--steps", 4, "--trials", 2, "--json"
    )
    found = json.loads(outcome.out)
    assert {setting["name"] for setting in found["settings"]} == {"model.residual_dropout", "model.num_hidden_layers"}
    assert found["counts"]["finished"] == 2
    best = Recipe.from_yaml("runs/sweep-tiny/best.yaml")
    assert best.model["num_hidden_layers"] == found["best"]["values"]["model.num_hidden_layers"]


def test_a_budget_sets_the_length_and_is_kept(recipe, malmoi, monkeypatch):
    from malmoi.cli import trials

    monkeypatch.setattr(trials, "pace", lambda *_: trials.Pace(1e-4, 1e-4))
    outcome = malmoi("sweep", recipe, "--over", "learning_rate", "--budget", "1min", "--trials", 2, "--json")
    found = json.loads(outcome.out)
    assert found["trial_tokens"] == 6 * 48 * 4  # there is time for more, but the recipe's own run is no longer
    assert found["run_tokens"] == 6 * 48 * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--over", "learning_rat", "--trials", 2], "Did you mean 'learning_rate'"),
        (["--over", "seed", "--trials", 2], "it is chance"),
        (["--over", "learning_rate=0.1:0.01", "--trials", 2], "empty"),
        (["--over", "learning_rate=1:1000", "--trials", 2], "<= 10"),
        (["--over", "hidden_size=31|32", "--trials", 2], "31 cannot be taken"),
        (["--over", "optimizer=muon|sgd", "--trials", 2], "sgd cannot be taken"),
        (["--over", "learning_rate"], "needs an end"),
        (["--over", "learning_rate", "--budget", "soon"], "no length of time"),
        (["--over", "learning_rate", "--budget", "0.1s"], "too short"),
        (["--over", "learning_rate", "--trials", 2, "--sampler", "tpr"], "Did you mean 'tpe'"),
        (["--over", "learning_rate", "--trials", 2, "--pruner", "all"], "median, hyperband, none"),
    ],
)
def test_mistakes_are_one_clear_error_and_leave_no_sweep(recipe, malmoi, tmp_path, arguments, words):
    outcome = malmoi("sweep", recipe, *arguments)
    assert outcome.code == 1
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs" / "sweep-tiny" / "study.db").exists()


def test_another_sweep_and_another_folder_are_left_alone(recipe, malmoi, tmp_path):
    assert malmoi("sweep", recipe, "--over", "learning_rate", "--steps", 2, "--trials", 1).code == 0
    outcome = malmoi("sweep", recipe, "--over", "weight_decay", "--steps", 2, "--trials", 1)
    assert outcome.code == 1
    assert "holds another sweep: its ranges" in outcome.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    outcome = malmoi("sweep", recipe, "--over", "weight_decay", "--trials", 1, "--out", "mine")
    assert "holds no sweep" in outcome.err
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_without_optuna_the_extra_is_named(recipe, malmoi, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    outcome = malmoi("sweep", recipe, "--over", "learning_rate", "--trials", 1)
    outcome.is_one_clear_error("malmoi[sweep]")
    assert not (tmp_path / "runs").exists()
