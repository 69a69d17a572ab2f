"""What a run shows: lines in a pipe, one bar in a terminal."""

import io
import sys

from malmoi.cli.pipeline import Stage
from malmoi.cli.progress import Screen
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


def test_one_bar_in_place_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Screen() as screen:
        screen(Stage("tokens", "1 document"))
        screen(Stage("tokens", "2 documents"))
        screen(step(1))
        screen(step(10, message="Finished."))
    text = terminal.getvalue()
    assert "\r\x1b[2K" in text  # a stage is written over
    assert "step 10/10" in text
    assert "Finished." in text
