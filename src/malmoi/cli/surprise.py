"""Tokens in colour: how sure the model was of each one.

A token's *surprise* is minus the base-2 logarithm of its probability: 0 bits for a certainty, 1 for the toss of a coin,
10 for one chance in a thousand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from malmoi.cli.console import harmless, table

if TYPE_CHECKING:
    from malmoi.generate.trace import TokenTrace

# bits below which a colour holds
SCALE = ((0.5, "green"), (2.0, "cyan"), (4.0, "yellow"), (7.0, "magenta"), (math.inf, "bold red"))
LEGEND = "surprise in bits: [green]< 0.5[/] [cyan]< 2[/] [yellow]< 4[/] [magenta]< 7[/] [bold red]more[/]"


def bits(trace: TokenTrace) -> float:
    return -trace.logprob / math.log(2)


def colour(trace: TokenTrace) -> str:
    return next(style for limit, style in SCALE if bits(trace) < limit)


def visible(text: str) -> str:
    """A token's text with its line breaks and leading spaces to be seen."""
    return harmless(text).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")


def trace_table(traces: list[TokenTrace]) -> Any:
    """One line a token: what was chosen, how likely it was, what else could have stood there, what the settings cut."""
    from rich.text import Text

    rows = []
    for trace in traces:
        others = "  ".join(
            f"{visible(other.bytes.decode('utf-8', 'replace'))} {math.exp(other.logprob):.0%}"
            for other in trace.alternatives
            if other.id != trace.id
        )
        removed = "  ".join(f"{name} {mass:.0%}" for name, mass in trace.removed.items() if mass >= 0.005)
        rows.append(
            (
                Text(visible(trace.text), style=colour(trace)),
                f"{math.exp(trace.logprob):.1%}",
                trace.rank,
                f"{bits(trace):.1f}",
                f"{trace.entropy / math.log(2):.1f}",
                others,
                removed,
            )
        )
    headings = (
        "token",
        ">probability",
        ">rank",
        ">surprise (bits)",
        ">entropy (bits)",
        "instead of",
        "moved by settings",
    )
    return table(headings, rows)
