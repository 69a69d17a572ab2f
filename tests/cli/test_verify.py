"""`malmoi verify`: a table that a person reads, JSON that a program reads, an exit code that CI reads."""

import json

from cli.conftest import tiny_recipe
from malmoi.train import proofs


def test_a_recipe_is_verified_and_nothing_is_left(corpus, tmp_path, malmoi):
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny_recipe(corpus).to_yaml(), encoding="utf-8")
    outcome = malmoi("verify", path, "--steps", 2)
    assert outcome.code == 0, outcome
    for words in ("interrupted = straight", "planned = counted", "bit for bit", "All 8 promises hold here."):
        assert words in outcome.out
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


def test_json_and_a_broken_promise(finished_run, malmoi, monkeypatch):
    bad = tuple((name, 0.0, lambda *_: 0.5) for name, _, _ in proofs.PROOFS[:1])
    monkeypatch.setattr(proofs, "PROOFS", bad)
    before = sorted(path.name for path in finished_run.iterdir())
    outcome = malmoi("verify", finished_run, "--json")
    assert outcome.code == 1
    found = json.loads(outcome.out)
    assert [(proof["name"], proof["holds"]) for proof in found] == [("interrupted", False), ("planned", True)]
    assert before == sorted(path.name for path in finished_run.iterdir())


def test_a_folder_that_is_no_run(tmp_path, malmoi):
    malmoi("verify", tmp_path).is_one_clear_error("is not the folder of a run")


def test_korean(finished_run, malmoi, monkeypatch):
    monkeypatch.setattr(proofs, "PROOFS", ())
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    assert "약속 1가지가 모두 지켜집니다" in malmoi("verify", finished_run).out
