"""RECORDS WITH PICTURES -> DOCUMENTS: JSON lines and tables of which one field names a picture.

    {"image": "apple.png", "name": "사과"}

The field holds a path, beside the file or in a folder below it, or the picture itself as a data URI. A template says
where the picture stands in the document: `"{name}{image}"` teaches to draw, `"{image}한국어: {name}"` to describe;
every occurrence of `{image}` is the picture, whatever the field is called. JSON lines may hold conversations instead,
whose contents are lists of parts, one of them `{"type": "image", "image": "apple.png"}`.

A path is relative and never climbs: a list of pictures from elsewhere must not name files all over your disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.config import MalmoiError, SourceConfig, nearest
from malmoi.data.corpus import Document, check_surrogates, conversation, read
from malmoi.data.records import compile_template, json_records, table_records
from malmoi.data.streams import open_bytes, read_lines, suffixes
from malmoi.tokens.chat import checked_parts
from malmoi.tokens.picture import Picture, fit

PLACE = "{image}"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PIXELS = 128 * 2**20  # bytes of pixels that an image tokenizer learns from: 19,000 pictures of 48 pixels a side


def read_pictured(file: str, field: str, template: str | None = None) -> Iterator[Document]:
    """The documents of one file of records, `field` naming each record's picture.

    Raises `MalmoiError` with the line of a record that has no picture, or none that may be read. Pictures themselves
    are opened when they are needed.
    """
    kind = suffixes(file)[0]
    if kind not in (".jsonl", ".csv", ".tsv"):
        raise MalmoiError(f"{file}: 'image' names a field of .jsonl, .csv and .tsv files, not of this kind.")
    if kind != ".jsonl" and template is None:
        raise MalmoiError(f"{file}: say by a template where the picture stands, such as '{{{field}}}' beside texts.")
    pieces = [compile_template(piece) if "{" in piece else piece for piece in (template or "").split(PLACE)]
    if template is not None and len(pieces) == 1:
        raise MalmoiError(f"The template {template!r} does not say where the picture stands. Put {PLACE} there.")
    folder = Path(file).parent
    count = 0
    with open_bytes(file) as stream:
        lines = read_lines(stream, file)
        records = json_records(lines, file) if kind == ".jsonl" else table_records(kind, lines, file, field, template)
        for number, record in records:
            where = f"{file}: line {number}"
            document = _filled(record, field, pieces if template is not None else None, folder, where)
            own_id, own_license = record.get("id"), record.get("license")
            yield replace(
                document,
                id=f"{Path(file).name}:{number}" if own_id is None else str(own_id),
                license=own_license if isinstance(own_license, str) else "",
            )
            count += 1
    if not count:
        raise MalmoiError(f"{file}: holds no record.")


def pictures_of(document: Document) -> Iterator[Picture]:
    """The pictures in a document, in its order."""
    yield from (part for part in document.parts or () if isinstance(part, Picture))
    if document.messages is not None:
        for _, parts in checked_parts(document.messages):
            yield from (part for part in parts if isinstance(part, Picture))


def pictures_from(path: str, field: str | None = None, seed: int = 0) -> Iterator[Picture]:
    """Every picture of a file, of a folder and all below it, of records (`field`), or of a reader of its own
    ("emoji:FOLDER")."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(each for each in place.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        if not found:
            raise MalmoiError(f"{place}: holds no pictures ({', '.join(SUFFIXES)}).")
        yield from map(Picture, found)
    elif place.suffix.lower() in SUFFIXES:
        yield Picture(place)
    else:
        template = PLACE if field is not None else None  # of a record the picture alone is wanted
        for document in read(SourceConfig(path=path, image=field, template=template), seed=seed):
            yield from pictures_of(document)


def pixels_of(pictures: Iterable[Picture], size: int, most: int = MOST_PIXELS) -> np.ndarray:
    """Different pictures fitted into squares: (N, size, size, 3) uint8, of at most `most` bytes, the first ones."""
    seen: dict[str, np.ndarray] = {}
    for picture in pictures:
        if (len(seen) + 1) * 3 * size * size > most:
            break
        digest = picture.digest()
        if digest not in seen:
            seen[digest] = fit(picture.open(), size).pixels
    return np.stack(list(seen.values())) if seen else np.empty((0, size, size, 3), np.uint8)


def _filled(record: Mapping[str, Any], field: str, pieces: list[Any] | None, folder: Path, where: str) -> Document:
    """One record's document: its template filled, else its conversation."""
    if pieces is None:
        turns = record.get("messages")
        if not isinstance(turns, list) or not turns:
            raise MalmoiError(f"{where}: a record with a picture needs a template with {PLACE}, or 'messages'.")
        return Document(messages=tuple(_with_pictures(turn, folder, where) for turn in conversation(turns, where)))
    if field not in record:
        known = ", ".join(list(record)[:20])
        raise MalmoiError(f"{where}: there is no field '{field}'.{nearest(field, record)} Fields: {known}.")
    picture = _picture(record[field], folder, where)
    parts: list[str | Picture] = []
    for number, piece in enumerate(pieces):
        text = piece if isinstance(piece, str) else piece(record, where) or ""
        check_surrogates(text, where)
        parts += [picture] if number else []
        parts += [text] if text else []
    return Document(parts=tuple(parts))


def _with_pictures(turn: Mapping[str, Any], folder: Path, where: str) -> Mapping[str, Any]:
    if isinstance(turn["content"], str):
        return turn
    parts = []
    for part in turn["content"]:
        found = isinstance(part, Mapping) and part.get("type") == "image"
        parts.append({"type": "image", "image": _picture(part.get("image"), folder, where)} if found else part)
    return {**turn, "content": tuple(parts)}


def _picture(value: Any, folder: Path, where: str) -> Picture:
    if not isinstance(value, str) or not value:
        raise MalmoiError(f"{where}: the picture is {value!r:.40}, not a path or a data URI.")
    if value.startswith("data:"):
        try:
            return Picture.from_url(value)
        except MalmoiError as error:
            raise MalmoiError(f"{where}: {error}") from None
    path = Path(value)
    if path.is_absolute() or ".." in path.parts:
        raise MalmoiError(f"{where}: {value!r:.80} leads out of the file's folder. Put pictures beside it or below it.")
    if not (folder / path).is_file():
        raise MalmoiError(f"{where}: there is no picture {folder / path}.")
    return Picture(folder / path)
