"""`malmoi explain`: one text for each setting, in two languages."""

import json

import pytest

from malmoi.config import CONFIGS, texts


def test_a_setting_in_both_languages(malmoi):
    english, korean = malmoi("explain", "temperature"), malmoi("explain", "temperature", "--lang", "ko")
    said = texts()["GenerationConfig"]["temperature"]
    assert (
        said["en"]["try"].split("\n")[0][:40] in english.out.replace("\n", " ") or said["en"]["try"][:30] in english.out
    )
    assert "무엇인가" in korean.out
    assert "What it is" in english.out
    assert "GenerationConfig" in english.out


def test_the_environments_language_is_taken(malmoi, monkeypatch):
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    assert "무엇인가" in malmoi("explain", "top_p").out


def test_json(malmoi):
    entries = json.loads(malmoi("explain", "learning_rate", "--json").out)
    assert entries[0]["record"] == "TrainConfig"
    assert "> 0" in entries[0]["allowed"]
    assert {"what", "why", "try", "default"} <= set(entries[0])


def test_alone_it_lists_every_setting(malmoi):
    outcome = malmoi("explain")
    assert outcome.code == 0
    for cls in CONFIGS:
        for field in cls.model_fields:
            assert field in outcome.out
    listed = json.loads(malmoi("explain", "--json").out)
    assert set(listed) == {cls.__name__ for cls in CONFIGS}


@pytest.mark.parametrize("spelling", ["--top-p", "top-p", "top_p"])
def test_an_options_spelling_is_understood(malmoi, spelling: str):
    assert "top_p" in malmoi("explain", "--", spelling).out


def test_an_unknown_setting_names_the_nearest(malmoi):
    malmoi("explain", "temprature").is_one_clear_error("temprature", "Did you mean 'temperature'?")
