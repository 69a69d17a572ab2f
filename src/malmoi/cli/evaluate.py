"""`malmoi eval`: exact answers by task and language, bits per byte of any text, or the questions of benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, count, json_text, print_json, setting, table
from malmoi.cli.data import unescaped
from malmoi.cli.folders import open_model, open_speaker, quantised_folder

if TYPE_CHECKING:
    from malmoi.generate.backend import Backend
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def _benchmark(name: str, **words: Any) -> Any:
    """An option that goes with --tasks."""
    return typer.Option(name, rich_help_panel="Benchmarks", **words)


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
    tasks: Annotated[
        list[str] | None, _benchmark("--tasks", help="Ask these benchmarks instead: names, separated by commas.")
    ] = None,
    data: Annotated[str | None, _benchmark("--data", help="The folder (or file) that their questions are in.")] = None,
    include: Annotated[list[str] | None, _benchmark("--include", help="A folder with tasks of your own.")] = None,
    limit: Annotated[int | None, _benchmark("--limit", min=1, help="Only the first questions of each.")] = None,
    num_fewshot: Annotated[
        int | None, _benchmark("--num-fewshot", min=0, help="Solved examples shown before each question.")
    ] = None,
    batch_size: Annotated[
        int | None, _benchmark("--batch-size", min=1, help="Questions read together; else as many as fit.")
    ] = None,
    chat: Annotated[bool, _benchmark("--chat", help="Ask in the form of a conversation.")] = False,
    out: Annotated[
        Path | None, _benchmark("--out", help="Write the results here as JSON, with every question and answer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model.

    Without --text or --tasks: the share of exactly right answers to held-out questions of the Village, by task and
    language. With --text: how well the model predicts any text that Malmoi reads, in bits per byte (lower is better;
    comparable between tokenizers) and perplexity. With --tasks: the questions of benchmarks, by lm-evaluation-harness.

    [bold]Examples[/bold]

    \b
    malmoi eval runs/quickstart
    malmoi eval runs/books --text validation.txt more.jsonl --json
    malmoi eval runs/books --tasks lambada_local,arc_easy_local --data eval/ --limit 100
    """
    settings = {"data": data, "include": include, "limit": limit, "num_fewshot": num_fewshot, "batch_size": batch_size}
    settings = {name: value for name, value in settings.items() if value is not None} | ({"chat": True} if chat else {})
    _check(folder, text, more, tasks, {**settings, "out": out})
    if tasks:
        found = _on_tasks(*open_model(folder), tasks, settings, out)
    elif text:
        model, tokenizer = _opened(folder)
        found = _on_text(model, tokenizer, [*text, *(more or [])], field, unescaped(template))
    else:
        model, tokenizer = _opened(folder)
        found = _on_village(model, tokenizer, n, seed)
    if as_json:
        print_json({"model": folder, **found})
    else:
        show = _show_tasks if tasks else _show_text if text else _show_village
        show(found)


def _opened(folder: str) -> tuple[GPT4LMHeadModel | Backend, GPT4Tokenizer]:
    """A model in torch, or what `malmoi quantise` wrote, in the native engine that it is for."""
    if quantised_folder(folder) is None:
        return open_model(folder)
    speaker = open_speaker(folder)
    return speaker.backend, speaker.tokenizer


def _check(
    folder: str, text: list[str] | None, more: list[str] | None, tasks: list[str] | None, settings: dict[str, Any]
) -> None:
    """Wishes that do not go together, and a missing extra, before the model is opened."""
    from malmoi.config import MalmoiError

    if more and not text:
        raise MalmoiError(f"Files to measure on come after --text: malmoi eval {folder} --text {' '.join(more)}")
    if text and tasks:
        raise MalmoiError("--text and --tasks are two ways of measuring. Ask for one of them at a time.")
    alone = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is not None]
    if alone and not tasks:
        raise MalmoiError(f"{', '.join(alone)}: only benchmarks have that. Name some with --tasks.")
    if tasks:
        from malmoi.evaluate.harness import malmoi_lm

        malmoi_lm()


def _on_tasks(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, tasks: list[str], settings: dict[str, Any], out: Path | None
) -> dict[str, Any]:
    from malmoi.evaluate.benchmarks import benchmarks
    from malmoi.tokens.folder import write_text

    names = [name.strip() for group in tasks for name in group.split(",") if name.strip()]
    with working("asking") as progress:
        found = benchmarks(model, tokenizer, names, samples=out is not None, progress=progress, **settings)
    if out is not None:
        write_text(out, json_text(found) + "\n")
    return {name: value for name, value in found.items() if name != "samples"}


def _on_text(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    paths: list[str],
    field: str | None,
    template: str | None,
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


def _on_village(model: GPT4LMHeadModel | Backend, tokenizer: GPT4Tokenizer, n: int, seed: int) -> dict[str, Any]:
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


def _show_tasks(found: dict[str, Any]) -> None:
    """One row a measure; the arrow says which way is better."""
    rows = []
    for name, task in found["tasks"].items():
        first = (name, str(task["shots"]), count(task["n"]) if task["n"] is not None else "")
        for metric, row in task["metrics"].items():
            sure = "" if row["stderr"] is None else f"± {_number(row['stderr'])}"
            rows.append((*first, metric, "↑" if row["better"] == "higher" else "↓", _number(row["value"]), sure))
            first = ("", "", "")
    headings = ("task", ">shots", ">questions", "measure", "better", ">value", ">standard error")
    title = f"The first {found['limit']} questions of each task: a look, not a score" if found["limit"] else None
    console().print(table(headings, rows, title=title))


def _number(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 1e5 else f"{value:.3g}"


def _show_village(found: dict[str, Any]) -> None:
    """One row a task and language, then the sums; the interval says how sure a share of so few examples is."""
    rows = [(row["task"], row["language"], *_share(row)) for row in found["rows"]]
    rows += [("all", language, *_share(share)) for language, share in found["languages"].items()]
    rows.append(("all", "all", *_share(found["total"])))
    headings = ("task", "language", ">exact", ">95 % interval", ">examples")
    console().print(table(headings, rows, title="Exact answers on held-out combinations"))


def _share(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['exact']:.0%}", f"{row['low']:.0%} to {row['high']:.0%}", count(row["n"])
