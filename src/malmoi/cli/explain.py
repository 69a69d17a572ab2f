"""`malmoi explain temperature`: what a setting is, why it exists and what to try, in English or Korean."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from malmoi.cli.console import console, language, print_json, table, texts
from malmoi.config import CONFIGS, explain

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

LABELS = {
    "en": {
        "what": "What it is",
        "why": "Why it exists",
        "try": "What to try",
        "allowed": "Allowed",
        "default": "Default",
    },
    "ko": {"what": "무엇인가", "why": "왜 있는가", "try": "해 볼 것", "allowed": "허용 값", "default": "기본값"},
}


class Language(str, Enum):
    en = "en"
    ko = "ko"


@app.command()
def explain_setting(
    name: Annotated[
        str | None, typer.Argument(help="A setting, such as temperature. Without one: all of them.")
    ] = None,
    lang: Annotated[Language | None, typer.Option(help="Language; otherwise the environment's (LANG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a setting is, why it exists and what to try.

    Every setting of the model, of training, of generation and of recipes is explained once, here; the options of the
    other verbs show the same texts.

    [bold]Examples[/bold]

    \b
    malmoi explain temperature
    malmoi explain learning_rate --lang ko
    malmoi explain
    """
    chosen = lang.value if lang else language()
    if name is None:
        _list_all(chosen, as_json)
        return
    entries = explain(name.strip("-").replace("-", "_"), chosen)
    if as_json:
        print_json(entries)
        return
    screen = console()
    for entry in entries:
        screen.print(f"[bold]{entry['field']}[/bold]  ({entry['record']})")
        for key, label in LABELS[chosen].items():
            screen.print(f"  [cyan]{label}[/cyan]: ", end="")
            screen.print(entry[key].strip(), markup=False)
        screen.print()


def _list_all(chosen: str, as_json: bool) -> None:
    if as_json:
        print_json(
            {record: {field: words[chosen] for field, words in fields.items()} for record, fields in texts().items()}
        )
        return
    for cls in CONFIGS:
        rows = [(field, texts()[cls.__name__][field][chosen]["what"].strip()) for field in cls.model_fields]
        console().print(table(("setting", LABELS[chosen]["what"]), rows, title=cls.__name__))
