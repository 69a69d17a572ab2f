"""`malmoi tokenizer learn | report | show`: a vocabulary, what it costs each language, and what it does to a text."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, count, harmless, print_json, read_stdin, setting, table
from malmoi.cli.data import unescaped
from malmoi.cli.folders import model_folder
from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.data.corpus import Document
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="Learn a vocabulary, measure it, look at its tokens.",
)

REPORT_DOCUMENTS = 1500  # of the village, where no texts are given
COLOURS = ("black on bright_yellow", "black on bright_cyan", "black on bright_green", "black on bright_magenta")


@app.command()
def learn(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, - for standard input, or village.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    vocab_size: Annotated[int, typer.Option(help=setting("Recipe", "vocab_size"))] = 8192,
    field: Annotated[str | None, typer.Option(help=setting("SourceConfig", "field"))] = None,
    template: Annotated[str | None, typer.Option(help=setting("SourceConfig", "template"))] = None,
    seed: Annotated[int, typer.Option(help="Which part of a large text is sampled.")] = 0,
) -> None:
    """Learn a tokenizer (byte-level BPE) from text.

    [bold]Examples[/bold]

    \b
    malmoi tokenizer learn books/ reviews.jsonl --vocab-size 8192 --out my-tokenizer
    malmoi tokenizer learn village --vocab-size 2048 --out village-tokenizer
    """
    from malmoi.tokens.vocabulary import learn as learn_vocabulary

    if (out / "tokenizer.json").exists():
        raise MalmoiError(f"{out}: holds a tokenizer already. Choose another --out, or delete it first.")
    tokenizer = learn_vocabulary(document_texts(_read(paths, field, template)), vocab_size, seed=seed)
    tokenizer.save_pretrained(out)
    console().print(f"{out}: {count(tokenizer.vocab_size)} tokens. Look at them: malmoi tokenizer show {out} TEXT")


@app.command()
def report(
    folder: Annotated[
        str, typer.Argument(help="A folder with a tokenizer (a model folder, too), or a name on the hub.")
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Texts to measure on, as FILE or LANGUAGE=FILE; without any: the village."),
    ] = None,
    field: Annotated[str | None, typer.Option(help=setting("SourceConfig", "field"))] = None,
    template: Annotated[str | None, typer.Option(help=setting("SourceConfig", "template"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How many tokens each language costs (fertility), beside a GPT-2-style BPE that learned English only.

    Fewer tokens for the same text: a cheaper, faster model that sees further back. Languages should be near each other.

    [bold]Examples[/bold]

    \b
    malmoi tokenizer report runs/quickstart
    malmoi tokenizer report my-tokenizer ko=korean.txt en=english.txt --json
    """
    from malmoi.tokens.vocabulary import report as measure

    tokenizer = open_tokenizer(folder)
    texts = _by_language(paths, field, template) if paths else _village_by_language()
    english = texts.get("en") or _village_by_language()["en"]
    found = measure(tokenizer, texts, english_only_texts=english)
    if as_json:
        print_json(found.as_dict())
        return
    rows = [
        (
            row["language"],
            count(row["characters"]),
            count(row["tokens"]),
            f"{row['tokens_per_character']:.3f}",
            f"{row['tokens_per_byte']:.3f}",
            f"{row['english_only_tokens_per_character']:.3f}",
            f"{row['saved']:.0%}",
        )
        for row in found.rows
    ]
    headings = (
        "language",
        ">characters",
        ">tokens",
        ">per character",
        ">per byte",
        ">English-only: per character",
        ">saved",
    )
    screen = console()
    screen.print(table(headings, rows, title=f"{folder}: {count(found.vocab_size)} tokens"))
    screen.print(
        f"English-only: a GPT-2-style BPE of {count(found.english_only_vocab_size)} tokens, learned from English alone."
    )


@app.command()
def show(
    folder: Annotated[
        str, typer.Argument(help="A folder with a tokenizer (a model folder, too), or a name on the hub.")
    ],
    text: Annotated[str, typer.Argument(help="The text to cut; - reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the tokens of a text, coloured, with their ids.

    [bold]Examples[/bold]

    \b
    malmoi tokenizer show runs/quickstart "옛날에 a cat lived 🐈"
    """
    from rich.text import Text

    tokenizer = open_tokenizer(folder)
    given = read_stdin() if text == "-" else text
    ids = tokenizer.encode(given)
    pieces = [tokenizer.token_bytes(index) for index in ids]
    if as_json:
        tokens = [
            {"id": index, "text": piece.decode("utf-8", "replace"), "bytes": list(piece)}
            for index, piece in zip(ids, pieces, strict=True)
        ]
        print_json({"text": given, "count": len(ids), "tokens": tokens})
        return
    coloured = Text()
    for piece, colour in zip(pieces, itertools.cycle(COLOURS), strict=False):
        coloured.append(_shown(piece), style=colour)
        if not sys.stdout.isatty():
            coloured.append("|")  # where there are no colours, the borders still show
    screen = console()
    screen.print(coloured, soft_wrap=True)
    screen.print(" ".join(map(str, ids)), soft_wrap=True)
    characters, size = len(given), len(given.encode())
    screen.print(f"[dim]{len(ids)} tokens, {characters} characters, {size} bytes[/dim]")


def open_tokenizer(name: str) -> GPT4Tokenizer:
    """A tokenizer from its folder, from a model's or a run's."""
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    return GPT4Tokenizer.from_pretrained(model_folder(name))


def document_texts(documents: Iterator[Document]) -> Iterator[str]:
    """What a tokenizer learns from: the texts, and of conversations what was said."""
    from malmoi.data.corpus import texts_of

    for document in documents:
        yield from texts_of(document)


def _read(paths: list[str], field: str | None, template: str | None) -> Iterator[Document]:
    from malmoi.config import SourceConfig
    from malmoi.data.corpus import read

    return read(SourceConfig(path=tuple(paths), field=field, template=unescaped(template)))


def _shown(piece: bytes) -> str:
    """A token's bytes as text; parts of a character as hexadecimal."""
    try:
        return harmless(piece.decode("utf-8")).replace("\n", "⏎\n")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in piece)


def _by_language(paths: list[str], field: str | None, template: str | None) -> dict[str, Any]:
    """Texts by language: of `ko=file` the named one, else the language that a text is written in."""
    from malmoi.tokens.vocabulary import guess_language

    groups: dict[str, list[str]] = {}
    for path in paths:
        name, sign, rest = path.partition("=")
        named = bool(sign) and name.isalpha() and not Path(path).exists()
        for text in document_texts(_read([rest if named else path], field, template)):
            groups.setdefault(name if named else guess_language(text), []).append(text)
    return groups


def _village_by_language() -> dict[str, Any]:
    """Stories and questions of the village, which are in one language each."""
    from malmoi.data import village

    weights = {"story": 1.0, "question1": 1.0, "dialogue": 1.0}
    groups: dict[str, Any] = {language: [] for language in village.LANGUAGES}
    for document in village.documents(stop=REPORT_DOCUMENTS, weights=weights):
        groups[document.id.rpartition("/")[2]] += document_texts(iter([document]))
    return groups
