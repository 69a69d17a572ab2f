"""What a run shows: lines in a pipe, a small table in place in a terminal."""

import io
import math
import re
import sys

import pytest

from malmoi.cli.pipeline import Stage
from malmoi.cli.progress import REMEMBERED, Screen, sparkline
from malmoi.train.loop import Step


def step(number: int, **changes: object) -> Step:
    values: dict = {
        "step": number,
        "max_steps": 10,
        "loss": 4.0,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": 100 * number,
        "tokens_per_second": 2000.0,
        "seconds": 2.0 * number,
        "epoch": 0,
    }
    return Step(**{**values, **changes})


def test_lines_in_a_pipe(capsys):
    with Screen(lines_every=0.0) as screen:
        screen(Stage("tokens", "3 documents"))
        screen(step(1))
        screen(
            step(5, bits_per_byte=1.25, held_out_loss=3.0, events=("evaluated", "saved"), message="Saved checkpoint-5.")
        )
        screen(step(10, message="Overfitting: stop."))
    text = capsys.readouterr().out
    assert "tokens: 3 documents" in text
    assert "step 5/10  loss 4.000  held-out 1.250 bits/byte  2,000 tokens/s  0:10 left" in text
    assert "0:20 in all" in text
    assert "Overfitting: stop." in text
    assert "Saved" not in text
    assert screen.history == [1.25]


def test_few_lines_where_nothing_happens(capsys):
    with Screen(lines_every=1e9) as screen:
        for number in range(1, 11):
            screen(step(number))
    assert len(capsys.readouterr().out.splitlines()) == 2  # the first and the last


def test_the_loss_shown_is_smoothed_and_survives_a_skipped_step():
    screen = Screen(lines_every=1e9)
    screen(step(1, loss=4.0))
    screen(step(2, loss=float("nan")))
    assert screen.loss == 4.0
    screen(step(3, loss=2.0))
    assert 2.0 < screen.loss < 4.0


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def in_a_terminal(monkeypatch, width: int = 80) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    return terminal


def last_view(terminal) -> list[str]:
    """The lines that stay in the terminal from the last step on."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).replace("\r", "\n")
    return [line.rstrip() for line in text[text.rindex("step ") :].splitlines()]


def test_a_table_in_place_in_a_terminal(monkeypatch):
    terminal = in_a_terminal(monkeypatch)
    with Screen() as screen:
        screen(Stage("tokens", "1 document"))
        screen(Stage("tokens", "2 documents"))
        screen(step(1, joules=2.5))
        screen(step(5, loss=2.0, bits_per_byte=2.0))
        screen(step(10, loss=2.0, bits_per_byte=1.0, gap=0.25, skipped=3, message="Finished.", joules=1234.0))
    text = terminal.getvalue()
    assert "\r\x1b[2K" in text  # a stage is written over
    assert "Finished." in text
    head, *rows = last_view(terminal)
    assert re.fullmatch(r"step 10/10 ━+ 0:20 in all", head) and len(head) == 80
    assert [re.split(r"  +", row) for row in rows[:6]] == [
        ["loss", f"{screen.loss:.3f}", "█▁▁"],
        ["held-out", "1.000 bits/byte", "█▁"],
        ["gap", "+0.250"],
        ["speed", "2,000 tokens/s"],
        ["energy", "1.23 kJ"],
        ["skipped", "3"],
    ]


@pytest.mark.parametrize("width", [30, 40, 49, 50, 80, 200])
def test_every_width_holds_the_table(monkeypatch, width):
    terminal = in_a_terminal(monkeypatch, width)
    with Screen() as screen:
        for number in range(1, 100):
            screen(step(number, max_steps=99, loss=5 - number / 40, joules=1.0 * number, bits_per_byte=9.0 / number))
    head, *rows = last_view(terminal)
    assert head.startswith("step 99/99") and max(map(len, (head, *rows))) <= width
    assert ("━" in head) == (width >= 50)
    if width >= 40:
        assert "in all" in head and rows[0].endswith("▁") and rows[3].split() == ["energy", "99", "J"]
    curve = rows[0].split()[-1]
    assert len(curve) <= 60


def test_a_terminal_without_unicode_gets_no_curve(monkeypatch):
    terminal = in_a_terminal(monkeypatch)
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    with Screen() as screen:
        screen(step(1))
        screen(step(2, loss=1.0))
    assert not set("▁▂▃▄▅▆▇█") & set(terminal.getvalue())


def test_energy_in_a_line(capsys):
    with Screen(lines_every=0.0) as screen:
        screen(step(1, joules=12345.0))
        screen(step(2))  # not logged, so not known anew
    assert capsys.readouterr().out.count("12.3 kJ") == 2


def test_a_sparkline_runs_from_lowest_to_highest():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, 8, 1, 1], 4) == "██▁▁"
    assert sparkline([5.0] * 9, 4) == "▁▁▁▁"
    assert sparkline(range(1000), 10) == "▁▂▃▃▄▅▆▆▇█"
    assert sparkline([1.0], 10) == sparkline([], 10) == sparkline([1, 2], 3) == ""


def test_a_long_run_is_remembered_whole_in_little():
    screen = Screen(lines_every=1e9)
    total = 10 * REMEMBERED
    for number in range(total):
        screen._remember(float(number))
    screen._remember(math.pi)
    assert REMEMBERED / 2 <= len(screen.losses) < REMEMBERED
    assert screen.losses[0] < total / 100 and screen.losses[-1] > total * 0.98
    assert screen.losses == sorted(screen.losses)
