"""`malmoi runs`: finished and unfinished runs in one table, the best first; their curves in one picture."""

import json
import shutil

import pytest


@pytest.fixture
def two(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "runs" / "good")
    worse = tmp_path / "runs" / "inner" / "worse"
    worse.mkdir(parents=True)
    lines = [
        {"step": 1, "loss": 9.0, "val_loss": 9.5, "bpb": 7.0, "tokens": 10},
        {"step": 2, "loss": 8.9, "tokens": 20},
    ]
    (worse / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo', "utf-8"
    )
    return tmp_path / "runs"


def test_runs_are_listed_best_first(two, malmoi, monkeypatch):
    outcome = malmoi("runs", two, "--json")
    assert outcome.code == 0, outcome
    good, worse = json.loads(outcome.out)
    assert good["finished"] and good["folder"].endswith("good") and good["parameters"] > 0 and good["steps"] == 6
    spent = json.loads((two / "good" / "summary.json").read_text(encoding="utf-8"))["energy"]
    assert good["joules"] == pytest.approx(spent["joules"], abs=0.1) and good["energy_method"] == spent["method"]
    assert good["joules_per_token"] == spent["joules_per_token"] > 0
    assert worse["joules"] is worse["energy_method"] is None
    assert not worse["finished"] and worse["best_held_out_loss"] == 9.5 and worse["steps"] == 2
    monkeypatch.chdir(two.parent)
    shown = malmoi("runs").out
    assert shown.index("good") < shown.index("worse") and "2 …" in shown


def test_an_estimate_is_marked_as_one(two, malmoi):
    for method, said in (("measured (RAPL)", " 1.23 kJ"), ("estimated (a table)", "~1.23 kJ")):
        (two / "good" / "energy.json").write_text(json.dumps({method: 1234.0}), encoding="utf-8")
        assert said in malmoi("runs", two / "good").out


def test_one_picture(two, tmp_path, malmoi):
    pytest.importorskip("matplotlib")
    outcome = malmoi("runs", two, "--plot", tmp_path / "all.png")
    assert outcome.code == 0 and "Drawn" in outcome.out
    assert (tmp_path / "all.png").read_bytes()[1:4] == b"PNG"
    malmoi("runs", two, "--plot", tmp_path / "no" / "all.png").is_one_clear_error("cannot be written")


def test_no_runs_and_no_folder(tmp_path, malmoi):
    malmoi("runs", tmp_path).is_one_clear_error("There is no run in", "metrics.jsonl")
    malmoi("runs", tmp_path / "nowhere").is_one_clear_error("there is no such folder")
