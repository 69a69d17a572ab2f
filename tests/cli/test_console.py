"""Numbers as people read them, JSON that every reader accepts, the environment's language."""

import json

import pytest

from malmoi.cli import console
from malmoi.cli.verbs import VERBS
from malmoi.config import MalmoiError, texts


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (999, "999"), (1_234, "1.23 k"), (1_002_240, "1 M"), (125_850_624, "126 M"), (1.7e12, "1.7 T")],
)
def test_short(number: float, expected: str):
    assert console.short(number) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (65.9, "1:05"), (3_600, "1:00:00"), (-1, "0:00")])
def test_duration(seconds: float, expected: str):
    assert console.duration(seconds) == expected


def test_json_holds_no_nan_and_keeps_hangul(capsys):
    console.print_json({"말": float("nan"), "list": (1, float("inf")), "bytes": b"\xff"})
    text = capsys.readouterr().out
    assert "말" in text
    assert json.loads(text) == {"말": None, "list": [1, None], "bytes": "ff"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "en_GB.UTF-8"}, "en"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "en"),
        ({}, "en"),
    ],
)
def test_language_follows_the_environment(monkeypatch, variables: dict, expected: str):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert console.language() == expected


def test_a_table_in_a_pipe_is_plain_and_wide_enough(capsys):
    long = "x" * 100
    console.console().print(console.table(("name", ">number"), [(long, 1), ("[bold]not markup[/bold]", 22)]))
    text = capsys.readouterr().out
    assert long in text
    assert "[bold]not markup[/bold]" in text
    assert "\x1b" not in text


def test_a_model_cannot_command_the_terminal(capsys, monkeypatch):
    import sys

    hostile = "\x1b]0;title\x07 안녕\n\x9b2J\x7f"
    console.write(hostile)
    assert capsys.readouterr().out == hostile  # a pipe gets exactly what was written
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.write(hostile)
    assert capsys.readouterr().out == "␛]0;title␇ 안녕\n\ufffd2J␡"


def test_a_setting_is_explained_by_the_one_text_there_is():
    mark = console.setting("TrainConfig", "learning_rate")
    assert texts()["TrainConfig"]["learning_rate"]["en"]["what"].split()[0] in console.with_settings(f"{mark} More.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_page_explains_its_settings(malmoi, verb: str):
    page = malmoi(verb, "--help")
    assert page.code == 0
    assert not console.MARK.search(page.out)


def test_broken_utf8_on_standard_input_names_the_byte(monkeypatch):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\xffdef")))
    with pytest.raises(MalmoiError, match=r"byte 3 \(0xff\)"):
        console.read_stdin()


@pytest.mark.parametrize(
    ("joules", "expected"),
    [(0, "0 J"), (0.0012, "1.2 mJ"), (5, "5 J"), (999, "999 J"), (1234, "1.23 kJ"), (3.6e6, "3.6 MJ")],
)
def test_energy(joules, expected):
    assert console.energy(joules) == expected
