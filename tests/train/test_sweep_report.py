"""The report of a sweep: the best, what mattered, and every reason for doubt."""

import json
import math

import pytest

from malmoi.train import sweep_report as report
from malmoi.train.progress import Step
from malmoi.train.search_space import Setting
from malmoi.train.sweep import PARTS, Length, Sweep

pytest.importorskip("optuna")

RATE = Setting("train.learning_rate", low=1e-4, high=1e-2, scale="log")
ROWS = Setting("train.per_device_train_batch_size", choices=(2, 4, 8), ordered=True)
OWN = {"train.learning_rate": 2e-4, "train.per_device_train_batch_size": 4}


def study(folder, valley, trials=8, repeats=2, noise=0.001, **options):
    def training(values, place, extra_seed):
        for part in range(1, PARTS + 1):
            loss = 3 - 0.1 * part + math.log10(values["train.learning_rate"] / valley) ** 2 + noise * extra_seed
            yield Step(part, PARTS, 1.0, 0.1, 1.0, 9 * part, 1.0, 1.0, 0, loss, loss / 2)

    sweep = Sweep(folder, (RATE, ROWS), OWN, **options)
    for _ in range(trials):
        sweep.try_next(training)
    for _ in range(repeats):
        sweep.repeat_best(training)
    return sweep


def test_the_best_what_it_gains_and_what_is_as_good(tmp_path):
    found = report.facts(study(tmp_path, 1e-3), Length(1000, None, 1.0), run_tokens=50_000)
    found = json.loads(json.dumps(found))
    best = found["best"]
    assert report.measure(best) == min(
        report.measure(trial) for trial in found["trials"] if trial["state"] == "finished"
    )
    assert report.unit(found) == "bits per byte"
    assert found["gain"] == pytest.approx(report.measure(found["own"]) - found["mean"])
    said = " ".join(found["remarks"])
    assert "That is more than chance" in said
    assert "the recipe's own run reads 50,000" in said
    assert "finished trials for 2 settings are few" in said


def test_an_optimum_at_the_end_of_its_range_is_said(tmp_path):
    found = report.facts(study(tmp_path, 1e-7, sampler="grid"), Length(1000, None, 1.0), run_tokens=None)
    assert any("learning_rate = 0.0001 lies at the lower end" in remark for remark in found["remarks"])


def test_a_gain_within_chance_and_an_unrepeated_best_are_said(tmp_path):
    noisy = report.facts(study(tmp_path / "a", 1e-3, noise=5.0), Length(1000, None, 1.0), run_tokens=None)
    assert any("no more than chance" in remark for remark in noisy["remarks"])
    assert noisy["level_with_best"]
    alone = report.facts(study(tmp_path / "b", 1e-3, repeats=0), Length(1000, None, 1.0), run_tokens=None)
    assert alone["spread"] is None
    assert any("not repeated" in remark for remark in alone["remarks"])


def test_the_page_and_the_picture(tmp_path):
    found = report.facts(study(tmp_path, 1e-3), Length(1000, None, 1.0), run_tokens=None)
    page = report.markdown(found, "mine", "malmoi sweep mine.yaml", True)
    for words in ("# Sweep: mine", "train.learning_rate", "2\\|4\\|8", "best.yaml", "sweep.png", "## All trials"):
        assert words in page
    assert len([line for line in page.split("## All trials")[1].splitlines() if line.startswith("| ")]) == 2 + 8
    pytest.importorskip("matplotlib")
    assert report.draw(found, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_without_a_finished_trial_has_a_page_and_no_picture(tmp_path):
    found = report.facts(Sweep(tmp_path, (RATE,), {}), Length(1000, None, 1.0), run_tokens=None)
    assert "No trial was finished yet" in report.markdown(found, "mine", "malmoi sweep mine.yaml", False)
    assert not report.draw(found, tmp_path / "sweep.png")
