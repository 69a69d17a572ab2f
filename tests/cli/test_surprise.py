"""Surprise in bits, its colours, and the table of a trace."""

import math

import pytest

from malmoi.cli import surprise
from malmoi.generate.trace import Alternative, TokenTrace


def trace(probability: float, spelling: bytes = b" cat") -> TokenTrace:
    other = Alternative(9, " 개".encode(), math.log(0.25), -math.inf)
    return TokenTrace(
        id=5,
        bytes=spelling,
        position=3,
        logprob=math.log(probability),
        rank=2,
        entropy=math.log(2),
        probability=probability,
        alternatives=(Alternative(5, spelling, math.log(probability), 0.0), other),
        removed={"top_k": 0.25, "min_p": 0.0},
    )


@pytest.mark.parametrize(
    ("probability", "bits", "style"),
    [(1.0, 0, "green"), (0.5, 1, "cyan"), (0.125, 3, "yellow"), (2**-6, 6, "magenta"), (2**-10, 10, "bold red")],
)
def test_bits_and_colour(probability: float, bits: float, style: str):
    assert surprise.bits(trace(probability)) == pytest.approx(bits)
    assert surprise.colour(trace(probability)) == style


def test_invisible_characters_are_shown():
    assert surprise.visible(" a\n\tb") == "·a⏎⇥b"


def test_the_table_says_what_else_could_have_stood_there(capsys):
    from malmoi.cli.console import console

    console().print(surprise.trace_table([trace(0.5), trace(0.5, "각".encode()[:2])]))
    text = capsys.readouterr().out
    assert "·cat" in text
    assert "50.0%" in text
    assert "·개 25%" in text
    assert "top_k 25%" in text
    assert "min_p" not in text
    assert "\ufffd" in text  # a part of a character is shown as such, not hidden
