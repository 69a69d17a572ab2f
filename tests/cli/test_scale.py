"""`malmoi scale` from beginning to end on tiny models: the ladder, the report, resume, fitting runs that exist."""

import json
import shutil

import pytest

from cli.conftest import tiny_recipe
from malmoi.cli import scale, trials
from malmoi.plan import ladder


@pytest.fixture
def recipe(corpus, tmp_path, monkeypatch):
    """A recipe whose ladder takes seconds: tiny batches, few steps, a machine whose speed is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ladder, "LEAST_STEPS", 6)
    monkeypatch.setattr(trials, "pace", lambda *_: trials.Pace(1e-3, 1e-9))
    train = {"sequence_length": 32, "per_device_train_batch_size": 2, "eval_steps": 5, "max_steps": 100}
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe(corpus, train=train).to_yaml(), encoding="utf-8")
    return path


BUDGET = ("--budget", "20s")  # 3 sizes, 6 to 48 steps at the speed above


@pytest.mark.slow
def test_a_ladder_is_climbed_fitted_and_not_climbed_twice(recipe, malmoi, tmp_path, monkeypatch):
    outcome = malmoi("scale", recipe, *BUDGET, "--flops", "1e10")
    assert outcome.code == 0, outcome
    for words in ("12 runs: 3 sizes", "The law", "twice the tokens", "1e+10 FLOPs", "report.md"):
        assert words in outcome.out
    folder = tmp_path / "runs" / "scale-tiny"
    found = json.loads((folder / "report.json").read_text())
    assert len(found["runs"]) == 12
    assert found["missing"] == 0
    assert found["own"]["tokens"] == 100 * 64
    assert found["unit"] == "bits per byte"
    assert not list(folder.glob("runs/*/checkpoint-*"))

    monkeypatch.setattr(scale, "_run", lambda *_: pytest.fail("a finished run was repeated"))
    again = json.loads(malmoi("scale", recipe, *BUDGET, "--flops", "1e10", "--json").out)
    assert again == found

    fitted = json.loads(malmoi("scale", "--runs", folder / "runs", "--out", "law", "--json").out)
    assert fitted["law"] == found["law"]
    assert (tmp_path / "law" / "report.md").is_file()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(recipe, malmoi, monkeypatch):
    whole, calls = scale._run, []

    def stopped(*given):
        calls.append(given)
        return False if len(calls) == 3 else whole(*given)

    monkeypatch.setattr(scale, "_run", stopped)
    outcome = malmoi("scale", recipe, *BUDGET)
    assert outcome.code == 130
    assert "Go on with: malmoi scale" in outcome.out
    outcome = malmoi("scale", recipe, *BUDGET)
    assert outcome.code == 0
    assert len(calls) == 3 + 10  # two were finished


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give a recipe"),
        (["tiny.yaml"], "How long may it take"),
        (["tiny.yaml", "--budget", "1s"], "too short"),
        (["tiny.yaml", "--budget", "5h", "--flops", "-1"], "no budget"),
        (["tiny.yaml", "--runs", "."], "Give a recipe"),
        (["--runs", "nowhere"], "no such folder"),
        (["--runs", "."], "no finished, measured run"),
    ],
)
def test_mistakes_are_one_clear_error(recipe, malmoi, tmp_path, arguments, words):
    outcome = malmoi("scale", *arguments)
    assert outcome.code == 1
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs" / "scale-tiny" / "plan.json").exists()


def test_a_model_too_small_for_a_ladder_and_a_text_too_short(recipe, malmoi, corpus, monkeypatch):
    model = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    recipe.write_text(tiny_recipe(corpus, model=model).to_yaml(), encoding="utf-8")
    assert malmoi("scale", recipe, "--budget", "1h").err.startswith("The model is too small")
    monkeypatch.setattr(ladder, "LEAST_STEPS", 10_000)
    recipe.write_text(tiny_recipe(corpus).to_yaml(), encoding="utf-8")
    assert "too little text" in malmoi("scale", recipe, "--budget", "9h", "--out", "other").err


def test_runs_that_cannot_be_compared(finished_run, malmoi, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(finished_run, tmp_path / name)
    config = tmp_path / "b" / "config.yaml"
    config.write_text(config.read_text().replace("eval_tokens: 100000", "eval_tokens: 50"), encoding="utf-8")
    malmoi("scale", "--runs", tmp_path / "a", "--runs", tmp_path / "b").is_one_clear_error("cannot be compared")
    malmoi("scale", "--runs", tmp_path / "a").is_one_clear_error("at least six finished runs")
