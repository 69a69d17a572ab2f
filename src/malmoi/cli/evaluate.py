"""`malmoi eval`: exact answers by task and language, or bits per byte of any text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, count, print_json, setting, table
from malmoi.cli.data import unescaped
from malmoi.cli.folders import open_model

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


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
        print_json({"model": folder, **found})
    elif text:
        _show_text(found)
    else:
        _show_village(found)


def _on_text(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, paths: list[str], field: str | None, template: str | None
) -> dict[str, Any]:
    """Each file by itself, so that a bad one is named by its own error and a good one by its own number."""
    from malmoi.config import MalmoiError, SourceConfig
    from malmoi.data.corpus import read
    from malmoi.evaluate import bits_per_byte

    rows = []
    for path in paths:
        documents = read(SourceConfig(path=path, field=field, template=template))
        try:
            rows.append({"text": path, **bits_per_byte(model, tokenizer, documents)})
        except MalmoiError as error:
            raise error if path in str(error) else MalmoiError(f"{path}: {error}") from None
    return {"texts": rows}


def _on_village(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, n: int, seed: int) -> dict[str, Any]:
    from malmoi.evaluate import village_accuracy

    with working("answering") as progress:
        return village_accuracy(model, tokenizer, n, seed, progress=progress)


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on stderr that counts, in a terminal; nothing in a pipe."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda done, total: None
        return
    with screen.status(what) as status:
        yield lambda done, total: status.update(f"{what} {done:,}/{total:,}")


def _show_text(found: dict[str, Any]) -> None:
    headings = (
        "text",
        ">bits per byte",
        ">perplexity (token)",
        ">perplexity (word)",
        ">tokens",
        ">bytes",
        ">documents",
    )
    rows = [
        (
            row["text"],
            f"{row['bits_per_byte']:.4f}",
            f"{row['perplexity']:,.2f}",
            f"{row['perplexity_per_word']:,.1f}",
            count(row["tokens"]),
            count(row["bytes"]),
            count(row["documents"]),
        )
        for row in found["texts"]
    ]
    console().print(table(headings, rows))


def _show_village(found: dict[str, Any]) -> None:
    """One row a task and language, then the sums; the interval says how sure a share of so few examples is."""
    rows = [(row["task"], row["language"], *_share(row)) for row in found["rows"]]
    rows += [("all", language, *_share(share)) for language, share in found["languages"].items()]
    rows.append(("all", "all", *_share(found["total"])))
    headings = ("task", "language", ">exact", ">95 % interval", ">examples")
    console().print(table(headings, rows, title="Exact answers on held-out combinations"))


def _share(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['exact']:.0%}", f"{row['low']:.0%} to {row['high']:.0%}", count(row["n"])
