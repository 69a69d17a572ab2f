"""FILES -> DOCUMENTS: one document at a time, from whatever a person has.

A document is what the model learns in one breath: nothing of one document is seen while another is read. What a
document is follows from the kind of file:

- `.jsonl`: each line is a record; the document is its `text`, its `messages`, the field that is asked for (a text, or
  a list of turns), or a template over its fields.
- `.csv`, `.tsv`, `.parquet`: each row is a record; the document is a template over the columns.
- `.txt`: there are no records, so the file is cut where a reader would pause (see `split_text`).

A record may hold pictures (`pictures.py` reads those), and a path such as `village:60000` or `emoji:FOLDER` names a
reader of its own (`SCHEMES`).

Everything streams: neither a file of 50 GB nor a folder of a million files is ever held in memory.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from malmoi.config import MalmoiError, SourceConfig, nearest
from malmoi.data.records import Record, compile_template, json_records, parquet_records, table_records
from malmoi.data.streams import STANDARD_INPUT, find_files, open_bytes, read_blocks, read_lines, suffixes
from malmoi.tokens.picture import Picture

TARGET_CHARACTERS = 4_000  # of a document cut from plain text: some pages of a book, about a thousand tokens
VILLAGE = "village"
VILLAGE_DOCUMENTS = 50_000  # of the endless village, where nobody says how many
# Paths with a reader of their own, "scheme:argument": documents(argument, seed) of the module gives what is learned.
SCHEMES = {
    "scenes": "malmoi.data.village.pictures",
    "emoji": "malmoi.data.emoji",
    "mnist": "malmoi.data.mnist",
    "omniglot": "malmoi.data.omniglot",
}
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True, slots=True)
class Document:
    """The unit of learning: a text (or a conversation) that the model never reads across the end of.

    `messages` is a conversation, `({"role": "user", "content": "..."}, ...)`; `parts` are texts and pictures in any
    order. Where one of the two is set, `text` is empty.
    `given` names stretches of `text` (start, end in characters) or of `parts` (in parts) that are read but not learned,
    as a person's turns in a conversation are: a model that shall answer need not learn to guess the question.
    `source`, `id` and `license` say where the document comes from, and follow it into the token file.
    """

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None
    parts: tuple[str | Picture, ...] | None = None
    given: tuple[tuple[int, int], ...] = ()
    source: str = ""
    id: str = ""
    license: str = ""


def read(
    source: SourceConfig, *, max_documents: int | None = None, max_bytes: int | None = None, seed: int = 0
) -> Iterator[Document]:
    """The documents of one source of a mixture, in the order of its files.

    `max_documents` and `max_bytes` (of UTF-8 text) end the stream early. The path `"village"` is the embedded corpus,
    drawn with `seed`; it never ends by itself, so it gives `VILLAGE_DOCUMENTS` unless a bound or a number
    (`"village:200000"`) is given. Raises `MalmoiError` for input that cannot be read, with the file and the line or
    byte.
    """
    paths = (source.path,) if isinstance(source.path, str) else source.path
    name, license = source_name(source), source.license
    bounded = max_documents is not None or max_bytes is not None
    documents = itertools.chain.from_iterable(_documents(path, source, seed, bounded) for path in paths)
    size = 0
    for document in itertools.islice(documents, max_documents):
        yield replace(document, source=name, license=license or document.license)
        if max_bytes is not None:
            size += sum(len(text.encode("utf-8", "replace")) for text in texts_of(document))
            if size >= max_bytes:
                return


def texts_of(document: Document) -> Iterator[str]:
    """The texts in a document, whatever its form; pictures have none."""
    if document.messages is None:
        yield from (part for part in document.parts or (document.text,) if isinstance(part, str))
        return
    for turn in document.messages:
        content = turn.get("content", "")
        parts = [{"text": content}] if isinstance(content, str) else content
        yield from (part["text"] for part in parts if isinstance(part.get("text"), str))


def _documents(path: str, source: SourceConfig, seed: int, bounded: bool) -> Iterator[Document]:
    scheme, _, argument = path.partition(":")
    if scheme == VILLAGE:
        return _village(path, seed, bounded)
    if scheme in SCHEMES and argument and not Path(path).exists():
        return importlib.import_module(SCHEMES[scheme]).documents(argument, seed)
    if source.image is not None:
        from malmoi.data.pictures import read_pictured

        return itertools.chain.from_iterable(
            read_pictured(file, source.image, source.template) for file in find_files(path)
        )
    return read_paths([path], source.field, source.template)


def read_paths(
    paths: Iterable[str | Path], field: str | None = None, template: str | None = None
) -> Iterator[Document]:
    """The documents of files, folders and globs (see `streams.find_files`), in order; `"-"` is standard input.

    A file that holds no text at all is a mistake worth an error. Standard input is JSON lines where its first line is a
    JSON object, else a table (of tabs, or of commas) where a template is given, else plain text.
    """
    for path in paths:
        for file in find_files(path):
            empty = True
            for document in _read_file(file, field, template):
                empty = False
                yield document
            if empty:
                raise MalmoiError(f"{file}: holds no text.")


def source_name(source: SourceConfig) -> str:
    """The name that a source goes by: the one it was given, or the last two parts of its path without suffixes."""
    if source.name:
        return source.name
    first = source.path if isinstance(source.path, str) else source.path[0]
    if first == STANDARD_INPUT:
        return "stdin"
    if (scheme := first.partition(":")[0]) in (VILLAGE, *SCHEMES):
        return scheme
    last = Path(first).parts[-2:] or (first,)
    stem = last[-1].split(".")[0] or last[-1]
    name = stem if len(last) < 2 or last[0] in ("/", ".", "..", "**") else f"{last[0]}/{stem}"
    return name if isinstance(source.path, str) or len(source.path) == 1 else f"{name}+{len(source.path) - 1}"


def _village(path: str, seed: int, bounded: bool) -> Iterator[Document]:
    from malmoi.data import village

    _, colon, number = path.partition(":")
    if colon and not number.isdecimal():
        raise MalmoiError(f"{path}: after 'village:' comes a number of documents, as in village:200000.")
    count = int(number) if colon else None if bounded else VILLAGE_DOCUMENTS
    return itertools.islice(village.documents(seed), count)


def _read_file(file: str, field: str | None, template: str | None) -> Iterator[Document]:
    kind = suffixes(file)[0]
    if kind == ".parquet":
        yield from _from_records(parquet_records(file, field, template), file, field, template)
        return
    with open_bytes(file) as stream:
        if kind == ".txt":
            yield from _from_text(read_blocks(stream, file), file)
        elif kind:
            yield from _from_lines(kind, read_lines(stream, file), file, field, template)
        else:
            yield from _from_standard_input(stream, field, template)


def _from_standard_input(stream: BinaryIO, field: str | None, template: str | None) -> Iterator[Document]:
    name = "standard input"
    lines = read_lines(stream, name)
    seen = list(itertools.islice(lines, 1))
    first = seen[0][1] if seen else ""
    lines = itertools.chain(seen, lines)
    if field is not None or first.lstrip().startswith("{"):
        yield from _from_lines(".jsonl", lines, name, field, template)
    elif template is not None:
        yield from _from_lines(".tsv" if "\t" in first else ".csv", lines, name, field, template)
    else:
        yield from _from_text((text + "\n" for _, text in lines), name)


# Plain text


def _from_text(blocks: Iterable[str], file: str) -> Iterator[Document]:
    name = Path(file).name
    for number, text in enumerate(split_text(blocks)):
        yield Document(text=text, id=f"{name}#{number}")


def split_text(blocks: Iterable[str], target: int = TARGET_CHARACTERS) -> Iterator[str]:
    """Cut a long text into documents of `target` to `2 * target` characters, where a reader would pause.

    A language model learns most from whole stretches of prose: single lines teach it no connection between them, and
    one document of a megabyte could be shuffled and held out only as a whole. The cut is the first blank line after
    `target` characters; without one before `2 * target`, the last line end there; without one, the last end of a
    sentence, then the last space; a text without any of these is cut at `2 * target`. Blank lines around a cut go;
    nothing else is lost.
    """
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > 2 * target:
            cut = _cut(rest, start + target, start + 2 * target)
            if (text := rest[start:cut].strip("\n")) and not text.isspace():
                yield text
            start = cut
        rest = rest[start:]
    if (text := rest.strip("\n")) and not text.isspace():
        yield text


def _cut(text: str, low: int, high: int) -> int:
    if (blank := text.find("\n\n", low, high)) >= 0:
        return blank + 2
    for ends in (("\n",), (". ", "! ", "? ", "。", "！", "？"), (" ", "\t", "　")):
        if (found := max(text.rfind(end, low, high) + len(end) for end in ends)) > low:
            return found
    return high


# Records


def _from_lines(
    kind: str, lines: Iterator[tuple[int, str]], file: str, field: str | None, template: str | None
) -> Iterator[Document]:
    records = json_records(lines, file) if kind == ".jsonl" else table_records(kind, lines, file, field, template)
    yield from _from_records(records, file, field, template)


def _from_records(records: Iterable[Record], file: str, field: str | None, template: str | None) -> Iterator[Document]:
    name = Path(file).name
    fill = compile_template(template) if template is not None else None
    for number, record in records:
        where = f"{file}: {'row' if suffixes(file)[0] == '.parquet' else 'line'} {number}"
        own_id, own_license = record.get("id"), record.get("license")
        document = Document(
            id=f"{name}:{number}" if own_id is None else str(own_id),
            license=own_license if isinstance(own_license, str) else "",
        )
        value = fill(record, where) if fill else _content(record, field, where)
        if isinstance(value, list):
            if value:
                yield replace(document, messages=conversation(value, where))
        elif isinstance(value, str):
            if value and not value.isspace():
                check_surrogates(value, where)
                yield replace(document, text=value)
        elif value is not None:
            raise MalmoiError(
                f"{where}: field '{field or 'text'}' holds {type(value).__name__}, not a text or a list of turns."
            )


def check_surrogates(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise MalmoiError(f"{where}: the escape \\u{code:04x} is half of a character (a lone surrogate).") from None


def _content(record: Mapping[str, Any], field: str | None, where: str) -> Any:
    if field is not None:
        if field not in record:
            known = ", ".join(list(record)[:20])
            raise MalmoiError(f"{where}: there is no field '{field}'.{nearest(field, record)} Fields: {known}.")
        return record[field]
    for name in ("text", "messages"):
        if name in record:
            return record[name]
    known = ", ".join(list(record)[:20])
    raise MalmoiError(
        f"{where}: there is neither 'text' nor 'messages'. Name the field that holds the text, or give a template. "
        f"Fields: {known}."
    )


def conversation(turns: Sequence[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    """A list of turns in any of the usual spellings as `{"role", "content"}`.

    A turn is a record with `role` (also `from`, `speaker`) and `content` (also `value`, `text`), or just a text: then
    user and assistant alternate. Two speakers with names of their own ("agent_1", "agent_2") become user and
    assistant in the order in which they appear.
    """
    from malmoi.tokens.chat import ROLES

    messages: list[Mapping[str, Any]] = []
    speakers: dict[str, str] = {}
    for index, turn in enumerate(turns):
        if isinstance(turn, str):
            turn = {"role": ("user", "assistant")[index % 2], "content": turn}
        if not isinstance(turn, Mapping):
            raise MalmoiError(f"{where}: turn {index + 1} holds {type(turn).__name__}, not a text or a record.")
        role = next((turn[key] for key in ("role", "from", "speaker") if key in turn), None)
        content = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
        if not isinstance(role, str) or not isinstance(content, (str, list)):
            raise MalmoiError(
                f"{where}: turn {index + 1} needs 'role' and 'content' (texts). It has: {', '.join(map(str, turn))}."
            )
        role = _ROLES.get(role.lower(), role)
        if role not in ROLES:
            if role not in speakers and len(speakers) == 2:
                raise MalmoiError(
                    f"{where}: turn {index + 1} has a third speaker, '{role}'. Roles: {', '.join(ROLES)}."
                )
            role = speakers.setdefault(role, ("user", "assistant")[min(len(speakers), 1)])
        if isinstance(content, str):
            check_surrogates(content, where)
        messages.append({"role": role, "content": content})
    return tuple(messages)
