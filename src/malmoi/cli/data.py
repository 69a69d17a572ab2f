"""`malmoi data build | show | village`: what is in your files, the token file, and the embedded world."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, count, print_json, setting, table
from malmoi.config import DataConfig, MalmoiError, Recipe, SourceConfig

if TYPE_CHECKING:
    from malmoi.data.corpus import Document
    from malmoi.data.village import Example
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="See what is in your files; make the token file.",
)

PICTURE = "[picture]"
SAMPLE_SHOWN = 600  # characters
Paths = Annotated[list[str], typer.Argument(help="A recipe (.yaml), or files, folders, globs, -, village.")]
Field = Annotated[str | None, typer.Option(help=setting("SourceConfig", "field"))]
Template = Annotated[str | None, typer.Option(help=setting("SourceConfig", "template"))]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def build(
    paths: Paths,
    tokenizer: Annotated[str, typer.Option(help="A folder with a tokenizer, or a model's.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    field: Field = None,
    template: Template = None,
    held_out: Annotated[float, typer.Option(help=setting("DataConfig", "held_out"))] = 0.02,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one (with --ray: all).")] = 0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster does the work: auto, HOST:PORT; local starts one here."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a token file that is there.")] = False,
) -> None:
    """Make a token file: the memory-mapped ids that training reads.

    However many workers share the work, on one machine or on many, the folder is the same, bit for bit.

    [bold]Examples[/bold]

    \b
    malmoi data build books/ reviews.jsonl --tokenizer my-tokenizer --out tokens/
    malmoi data build pairs.tsv --template "English: {en}\\nFrench: {fr}" --tokenizer my-tokenizer --out tokens/
    malmoi data build crawl/ --tokenizer my-tokenizer --out tokens/ --ray auto
    """
    from malmoi.cli.tokenizer import open_tokenizer
    from malmoi.data.cluster_shards import build_on_cluster
    from malmoi.data.shards import build as build_tokens

    data = data_config(paths, field, template, held_out)
    settings: dict[str, Any] = {"held_out": data.held_out, "workers": workers, "overwrite": overwrite}
    if ray is not None:
        made = build_on_cluster(data.sources, open_tokenizer(tokenizer), out, address=ray, **settings)
    else:
        documents = itertools.chain.from_iterable(_documents(data))
        made = build_tokens(documents, open_tokenizer(tokenizer), out, **settings)
    screen = console()
    screen.print(
        f"{out}: {count(made.num_documents)} documents, {count(made.num_tokens)} tokens, {count(made.num_bytes)} bytes "
        f"of text; held out: {count(len(made.held_out))} documents."
    )
    screen.print(f"See it: malmoi data show {out}")


@app.command()
def show(
    paths: Annotated[
        list[str], typer.Argument(help="A token file's folder, a recipe, or files, folders, globs, -, village.")
    ],
    field: Field = None,
    template: Template = None,
    samples: Annotated[int, typer.Option(min=0, help="How many documents to print.")] = 3,
    as_json: AsJson = False,
) -> None:
    """What is in a corpus: documents, tokens, sources, licences, samples.

    [bold]Examples[/bold]

    \b
    malmoi data show books/
    malmoi data show pairs.tsv --template "English: {en}\\nFrench: {fr}" --samples 5
    malmoi data show runs/quickstart/tokens --json
    """
    folder = Path(paths[0])
    if len(paths) == 1 and (folder / "manifest.json").is_file():
        found = _of_token_file(folder, samples)
    else:
        found = _of_documents(data_config(paths, field, template), samples)
    if as_json:
        print_json(found)
        return
    screen = console()
    headings = ("source", ">documents", ">tokens", ">bytes", "licence")
    rows = [
        (
            row["source"],
            count(row["documents"]),
            _optional(row["tokens"]),
            count(row["bytes"]),
            row["license"] or "not said",
        )
        for row in found["sources"]
    ]
    screen.print(table(headings, rows))
    for number, text in enumerate(found["samples"], start=1):
        screen.print(f"[dim]--- sample {number}[/dim]")
        screen.print(text if len(text) <= SAMPLE_SHOWN else f"{text[:SAMPLE_SHOWN]} ...", markup=False, soft_wrap=True)


@app.command()
def village(
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many documents.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed, other documents.")] = 0,
    task: Annotated[str | None, typer.Option(help="Only examples of one task, with their answers.")] = None,
    lang: Annotated[str | None, typer.Option(help="With --task: ko, en, fr; for translation en-ko, fr-en ...")] = None,
    as_json: AsJson = False,
) -> None:
    """Print documents of the Village, the embedded world that the quickstart trains on.

    [bold]Examples[/bold]

    \b
    malmoi data village --n 3
    malmoi data village --task translation --lang en-ko --n 5
    """
    from malmoi.data import village as world

    if task is None:
        documents = list(itertools.islice(world.documents(seed), n))
        if as_json:
            print_json([_document_record(document) for document in documents])
            return
        for number, document in enumerate(documents, start=1):
            console().print(f"[dim]--- {number}[/dim]")
            print(readable(document))
        return
    languages = [lang] if lang else world.labels(task) if task in world.TASKS else ["en"]
    examples = [example for name in languages for example in world.examples(task, name, n, seed=seed)]
    if as_json:
        print_json([_example_record(example) for example in examples])
        return
    for example in examples:
        console().print(f"[dim]--- {example.task}, {example.language}[/dim]")
        for message in example.messages or ():
            print(f"{message['role']}: {message['content']}")
        if example.messages is None:
            print(example.prompt, end="")
        print(example.answer)


def data_config(paths: list[str], field: str | None, template: str | None, held_out: float = 0.02) -> DataConfig:
    """What a command line's PATHS mean: one recipe's data, or the files themselves."""
    if len(paths) == 1 and Path(paths[0]).suffix in (".yaml", ".yml"):
        return Recipe.from_yaml(paths[0]).data
    source = SourceConfig(path=tuple(paths), field=field, template=unescaped(template))
    return DataConfig(sources=(source,), held_out=held_out)


def unescaped(template: str | None) -> str | None:
    """A template as typed in a shell: \\n and \\t mean a line break and a tab."""
    return template if template is None else template.replace("\\n", "\n").replace("\\t", "\t")


def readable(document: Document) -> str:
    """A document for reading: its text, or its messages with their roles; a picture as a word in brackets."""
    from malmoi.tokens.chat import checked_parts

    def joined(parts: Iterable[object]) -> str:
        return "".join(part if isinstance(part, str) else PICTURE for part in parts)

    if document.messages is None:
        return document.text if document.parts is None else joined(document.parts)
    return "\n".join(f"{role}: {joined(parts)}" for role, parts in checked_parts(document.messages))


def _documents(data: DataConfig) -> Iterator[Iterator[Document]]:
    from malmoi.data.corpus import read

    return (read(source) for source in data.sources)


def _of_documents(data: DataConfig, samples: int) -> dict[str, Any]:
    """Counted while the files stream by; tokens are not known without a tokenizer."""
    totals: dict[tuple[str, str], list[int]] = {}
    shown: list[str] = []
    for document in itertools.chain.from_iterable(_documents(data)):
        entry = totals.setdefault((document.source, document.license), [0, 0])
        entry[0] += 1
        entry[1] += len(readable(document).encode("utf-8", "replace"))
        if len(shown) < samples:
            shown.append(readable(document))
    if not totals:
        raise MalmoiError("There is no document in this. Is the file empty, or the field or template wrong?")
    sources = [
        {"source": name, "license": license, "documents": documents, "tokens": None, "bytes": size}
        for (name, license), (documents, size) in totals.items()
    ]
    return {"sources": sources, "samples": shown}


def _of_token_file(folder: Path, samples: int) -> dict[str, Any]:
    from malmoi.data.tokenfile import TokenFile

    tokens = TokenFile.open(folder)
    sources = [
        {"source": s.name, "license": s.license, "documents": s.documents, "tokens": s.tokens, "bytes": s.bytes}
        for s in tokens.sources
    ]
    tokenizer_folder = next(
        (p for p in (folder, folder.parent / "tokenizer") if (p / "tokenizer.json").is_file()), None
    )
    shown: list[str] = []
    if tokenizer_folder is not None:
        from malmoi.tokens.tokenizer import GPT4Tokenizer

        tokenizer = GPT4Tokenizer.from_pretrained(tokenizer_folder)
        shown = [_decoded(tokenizer, tokens.ids(number)) for number in range(min(samples, tokens.num_documents))]
    return {"sources": sources, "held_out_documents": len(tokens.held_out), "samples": shown}


def _decoded(tokenizer: GPT4Tokenizer, ids: Any) -> str:
    from malmoi.tokens.interleave import BEGIN

    images = tokenizer.images
    if images is None:
        return tokenizer.decode(ids)
    kept = [index for index in ids.tolist() if index <= images.begin or index >= images.first + images.count]
    return tokenizer.decode(kept).replace(BEGIN, PICTURE)


def _document_record(document: Document) -> dict[str, Any]:
    text = document.text if document.parts is None else readable(document)
    return {"text": text, "messages": document.messages, "source": document.source, "id": document.id}


def _example_record(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "language": example.language,
        "prompt": example.prompt,
        "messages": example.messages,
        "answer": example.answer,
    }


def _optional(number: int | None) -> str:
    return "" if number is None else count(number)
