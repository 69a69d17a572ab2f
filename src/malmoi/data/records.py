"""FILES -> RECORDS: the lines of JSON, the rows of tables, and templates that turn a record into text.

A record is a mapping from names to values, with the number of its line (or row) so that whatever is wrong with it can
be pointed at.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from malmoi.config import MalmoiError, nearest
from malmoi.data.streams import open_bytes, suffixes

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")

Record = tuple[int, Mapping[str, Any]]


def json_records(lines: Iterator[tuple[int, str]], file: str) -> Iterator[Record]:
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
        except ValueError as error:  # such as a number of more digits than Python converts
            raise MalmoiError(f"{file}: line {number}: cannot be read as JSON ({error}).") from None
        except RecursionError:
            raise MalmoiError(f"{file}: line {number}: JSON nested too deeply.") from None
        if not isinstance(record, dict):
            raise MalmoiError(f"{file}: line {number}: a record must be a JSON object, not {type(record).__name__}.")
        yield number, record


def table_records(
    kind: str, lines: Iterator[tuple[int, str]], file: str, field: str | None, template: str | None
) -> Iterator[Record]:
    """Rows by column name and by column number (`"0"`, `"1"`, ...).

    Whether the first row is a header follows from what is asked of it: a name (a field, or `{en}` in a template) can
    only stand in a header; numbers alone (`{0}`) say that there is none. Tab-separated values have no quoting (as the
    IANA registration of text/tab-separated-values has it: a quotation mark is a quotation mark); comma-separated
    values have (RFC 4180), and may use semicolons, as spreadsheets do in countries that write 1,5.
    """
    wanted = [field] if field is not None else _columns(template) if template is not None else ["text"]
    named: list[str] = []
    header: list[str] = []
    for number, row in _rows(kind, lines, file):
        if not header:
            named = [name for name in wanted if not name.isdecimal() or (int(name) >= len(row) and name in row)]
            header = row if named else [str(index) for index in range(len(row))]
            places = [*header, *(str(index) for index in range(len(row)))]
            for name in wanted:
                if name not in places:
                    raise _no_such_column(file, number, name, places[: len(row)], template, field)
                if header.count(name) > 1:
                    raise MalmoiError(
                        f"{file}: line {number}: there are several columns '{name}'. Name one by its number."
                    )
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
            f"{file}: line {reader.line_num}: not valid CSV ({error}). Inside a quoted field, double a quotation mark."
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


def parquet_records(file: str, field: str | None, template: str | None) -> Iterator[Record]:
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


# Templates


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
