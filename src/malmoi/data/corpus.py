"""FILES -> DOCUMENTS: one document at a time, from whatever a person has.

A document is what the model learns in one breath: nothing of one document is seen while another is read. What a
document is follows from the kind of file:

- `.jsonl`: each line is a record; the document is its `text`, its `messages`, the field that is asked for (a text, or
  a list of turns), or a template over its fields.
- `.csv`, `.tsv`, `.parquet`: each row is a record; the document is a template over the columns.
- `.txt`: there are no records, so the file is cut where a reader would pause (see `split_text`).

Everything streams: neither a file of 50 GB nor a folder of a million files is ever held in memory.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from malmoi.config import MalmoiError, SourceConfig, nearest
from malmoi.data.streams import STANDARD_INPUT, find_files, open_bytes, read_blocks, read_lines, suffixes

TARGET_CHARACTERS = 4_000  # of a document cut from plain text: some pages of a book, about a thousand tokens
VILLAGE = "village"
VILLAGE_DOCUMENTS = 50_000  # of the endless village, where nobody says how many
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Document:
    """The unit of learning: a text (or a conversation) that the model never reads across the end of.

    `messages` is a conversation, `({"role": "user", "content": "..."}, ...)`; where it is given, `text` is empty.
    `source`, `id` and `license` say where the document comes from, and follow it into the token file.
    """

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] | None = None
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
    documents: Iterator[Document] = itertools.chain.from_iterable(
        _village(path, seed, bounded=max_documents is not None or max_bytes is not None)
        if path.partition(":")[0] == VILLAGE
        else read_paths([path], source.field, source.template)
        for path in paths
    )
    size = 0
    for document in itertools.islice(documents, max_documents):
        yield replace(document, source=name, license=license or document.license)
        if max_bytes is not None:
            turns = document.messages or ({"content": document.text},)
            size += sum(len(str(turn.get("content", "")).encode("utf-8", "replace")) for turn in turns)
            if size >= max_bytes:
                return


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
        yield from _from_records(_parquet_records(file, field, template), file, field, template)
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


# Lines that are records: JSON, comma- and tab-separated values


def _from_lines(
    kind: str, lines: Iterator[tuple[int, str]], file: str, field: str | None, template: str | None
) -> Iterator[Document]:
    records = _json_records(lines, file) if kind == ".jsonl" else _table_records(kind, lines, file, field, template)
    yield from _from_records(records, file, field, template)


Record = tuple[int, Mapping[str, Any]]


def _json_records(lines: Iterator[tuple[int, str]], file: str) -> Iterator[Record]:
    for number, line in lines:
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = " Is the whole file one JSON value? .jsonl has a record on each line." if number == 1 else ""
            raise MalmoiError(
                f"{file}: line {number}, column {error.colno}: not valid JSON ({error.msg}).{hint}"
            ) from None
        except RecursionError:
            raise MalmoiError(f"{file}: line {number}: JSON nested too deeply.") from None
        if not isinstance(record, dict):
            raise MalmoiError(f"{file}: line {number}: a record must be a JSON object, not {type(record).__name__}.")
        yield number, record


def _table_records(
    kind: str, lines: Iterator[tuple[int, str]], file: str, field: str | None, template: str | None
) -> Iterator[Record]:
    """Rows by column name and by column number (`"0"`, `"1"`, ...).

    Whether the first row is a header follows from what is asked of it: a name (a field, or `{en}` in a template) can
    only stand in a header; numbers alone (`{0}`) say that there is none. Tab-separated values have no quoting (as the
    IANA registration of text/tab-separated-values has it: a quotation mark is a quotation mark); comma-separated
    values have (RFC 4180), and may use semicolons, as spreadsheets do in countries that write 1,5.
    """
    wanted = [field] if field is not None else _columns(template) if template is not None else ["text"]
    named = [name for name in wanted if not name.isdecimal()]
    header: list[str] = []
    for number, row in _rows(kind, lines, file):
        if not header:
            header = row if named else [str(index) for index in range(len(row))]
            places = [*header, *(str(index) for index in range(len(row)))]
            for name in wanted:
                if name not in places:
                    raise _no_such_column(file, number, name, places[: len(row)], template, field)
            if named:
                continue
        if len(row) != len(header):
            raise MalmoiError(
                f"{file}: line {number}: {len(row)} columns where the first row has {len(header)}."
                + (" Only .csv files may quote a tab or a line end." if kind == ".tsv" else "")
            )
        yield number, {**{str(index): value for index, value in enumerate(row)}, **dict(zip(header, row, strict=True))}


def _rows(kind: str, lines: Iterator[tuple[int, str]], file: str) -> Iterator[tuple[int, list[str]]]:
    if kind == ".tsv":
        for number, line in lines:
            if line:
                yield number, line.split("\t")
        return
    seen = list(itertools.islice(lines, 1))
    first = seen[0][1] if seen else ""
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    feed = (text + "\n" for _, text in itertools.chain(seen, lines))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(1 << 30)
    try:
        end = 0
        for row in reader:
            begin, end = end + 1, reader.line_num  # a quoted field may run over several lines
            if row:
                yield begin, row
    except csv.Error as error:
        raise MalmoiError(
            f"{file}: line {reader.line_num}: not valid CSV ({error}). A quotation mark inside a quoted field is doubled."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _no_such_column(
    file: str, line: int, name: str, columns: Sequence[str], template: str | None, field: str | None
) -> MalmoiError:
    shown = ", ".join(columns[:20])
    if template is None and field is None:
        return MalmoiError(
            f"{file}: which columns make a document? Give a template over them, such as "
            f"'{{{columns[0]}}}' ({{0}}, {{1}}, ... for a file without a header). Columns: {shown}."
        )
    return MalmoiError(
        f"{file}: line {line}: there is no column '{name}'.{nearest(name, columns)} Columns: {shown}. "
        f"For a file without a header, write {{0}}, {{1}}, ..."
    )


def _parquet_records(file: str, field: str | None, template: str | None) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MalmoiError(f"{file}: reading .parquet needs the extra 'data': pip install 'malmoi[data]'.") from None
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as unpacked:
        where: Any = file
        if suffixes(file)[1]:  # the table of contents of a Parquet file is at its end, so it must be unpacked first
            with open_bytes(file) as stream:
                shutil.copyfileobj(stream, unpacked)
            where = unpacked
        try:
            table = pyarrow.parquet.ParquetFile(where)
            names = table.schema_arrow.names
            wanted = [field] if field is not None else _columns(template) if template is not None else None
            for name in wanted or ():
                if name not in names:
                    raise _no_such_column(file, 0, name, names, template, field)
            columns = wanted or [name for name in ("text", "messages") if name in names]
            if not columns:
                raise _no_such_column(file, 0, "text", names, template, field)
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=sorted({*columns, *({"id"} & {*names})})):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise MalmoiError(f"{file}: cannot be read as Parquet: {first}") from None


# Records -> documents


def _from_records(records: Iterable[Record], file: str, field: str | None, template: str | None) -> Iterator[Document]:
    name = Path(file).name
    fill = compile_template(template) if template is not None else None
    for number, record in records:
        where = f"{file}: line {number}"
        own_id, own_license = record.get("id"), record.get("license")
        document = Document(
            id=f"{name}:{number}" if own_id is None else str(own_id),
            license=own_license if isinstance(own_license, str) else "",
        )
        value = fill(record, where) if fill else _content(record, field, where)
        if isinstance(value, list):
            if value:
                yield replace(document, messages=_conversation(value, where))
        elif isinstance(value, str):
            if value and not value.isspace():
                _check_surrogates(value, where)
                yield replace(document, text=value)
        elif value is not None:
            raise MalmoiError(
                f"{where}: field '{field or 'text'}' holds {type(value).__name__}, but must hold a text or a list of turns."
            )


def _check_surrogates(text: str, where: str) -> None:
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


def _columns(template: str) -> list[str]:
    return list(dict.fromkeys(match.group(1) for match in _PLACE.finditer(template) if match.group(1) is not None))


def compile_template(template: str) -> Callable[[Mapping[str, Any], str], str | None]:
    """A function that puts a record's values into a template: `"English: {en}\\nFrench: {fr}"`.

    `{name}` is a column or field, `{0}` a column by number, `{{` and `}}` are braces. Only whole values are put in:
    there are no format codes and no attributes, so a template is data and cannot reach into the program. A record all
    of whose values are missing or empty gives None.
    """
    names = _columns(template)
    if not names:
        raise MalmoiError(f"The template {template!r} names no column. Write columns in braces: '{{en}}'.")

    def fill(record: Mapping[str, Any], where: str) -> str | None:
        values = {}
        for name in names:
            if name not in record:
                known = ", ".join(list(record)[:20])
                raise MalmoiError(
                    f"{where}: the template names '{name}', which is not there.{nearest(name, record)} Fields: {known}."
                )
            value = record[name]
            if isinstance(value, (dict, list)):
                raise MalmoiError(f"{where}: '{name}' holds a {type(value).__name__}, which no template can show.")
            values[name] = "" if value is None else str(value)
        if not any(values.values()):
            return None
        return _PLACE.sub(
            lambda match: match.group()[0] if match.group(1) is None else values[match.group(1)], template
        )

    return fill


def _conversation(turns: Sequence[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    """A list of turns in any of the usual spellings as `{"role", "content"}`.

    A turn is a record with `role` (also `from`, `speaker`) and `content` (also `value`, `text`), or just a text: then
    user and assistant alternate. Two speakers with names of their own ("agent_1", "agent_2") become user and
    assistant in the order in which they appear.
    """
    messages: list[Mapping[str, Any]] = []
    speakers: dict[str, str] = {}
    for index, turn in enumerate(turns):
        if isinstance(turn, str):
            turn = {"role": ("user", "assistant")[index % 2], "content": turn}
        if not isinstance(turn, Mapping):
            raise MalmoiError(f"{where}: turn {index + 1} holds {type(turn).__name__}, not a text or a record.")
        role = next((turn[key] for key in ("role", "from", "speaker") if key in turn), None)
        content = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise MalmoiError(
                f"{where}: turn {index + 1} needs a 'role' and a 'content' (texts). Its fields: {', '.join(map(str, turn))}."
            )
        role = _ROLES.get(role.lower(), role)
        if role not in _KNOWN_ROLES:
            if role not in speakers and len(speakers) == 2:
                raise MalmoiError(
                    f"{where}: turn {index + 1} is spoken by '{role}', a third speaker. Roles: {', '.join(_KNOWN_ROLES)}."
                )
            role = speakers.setdefault(role, ("user", "assistant")[min(len(speakers), 1)])
        _check_surrogates(content, where)
        messages.append({"role": role, "content": content})
    return tuple(messages)
