"""`malmoi eval`: exact answers by task and language, or bits per byte of any text."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from malmoi.cli.console import console, count, print_json, setting, table
from malmoi.cli.data import unescaped
from malmoi.cli.folders import open_model

app = typer.Typer(rich_markup_mode="rich")


@app.command("eval")
def evaluate(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Measure on these files instead. May be repeated.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(help="More files, after --text.", show_default=False)] = None,
    field: Annotated[str | None, typer.Option(help=setting("SourceConfig", "field"))] = None,
    template: Annotated[str | None, typer.Option(help=setting("SourceConfig", "template"))] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Examples of each task in each language.")] = 50,
    seed: Annotated[int, typer.Option(help="Another seed, other examples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model.

    Without --text: the share of exactly right answers to held-out questions of the Village, by task and language. With
    --text: how well the model predicts any text that Malmoi reads, in bits per byte (lower is better; comparable
    between tokenizers) and perplexity.

    [bold]Examples[/bold]

    \b
    malmoi eval runs/quickstart
    malmoi eval runs/books --text validation.txt more.jsonl --json
    """
    if more and not text:
        from malmoi.config import MalmoiError

        raise MalmoiError(f"Files to measure on come after --text: malmoi eval {folder} --text {' '.join(more)}")
    model, tokenizer = open_model(folder)
    if text:
        found = _on_text(model, tokenizer, [*text, *(more or [])], field, unescaped(template))
    else:
        found = _on_village(model, tokenizer, n, seed)
    if as_json:
        print_json(found)
    else:
        _show(found)
