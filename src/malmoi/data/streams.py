"""PATHS -> TEXT: find the files that a person means, unpack them, and read them as UTF-8, a block at a time.

A file may be larger than memory, so nothing here holds more than a block (1 MiB) or one line. Text is passed on
exactly as it was written: no normalisation of Unicode, because composed and decomposed Hangul, ligatures and the like
are differences that an author (or a file system) made and that a byte-level model can learn; whoever changes them at
training time has to change every prompt in the same way for ever after. Two things belong to the file and not to the
text, and are removed: a byte order mark at the very beginning, and the carriage return of a Windows line end.
"""

from __future__ import annotations

import codecs
import functools
import glob
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from malmoi.config import MalmoiError, nearest

BLOCK = 1 << 20
STANDARD_INPUT = "-"
FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
PACKINGS = (".xz", ".gz", ".zst")
KNOWN = f"{', '.join(FORMATS)}, and each of them packed as {', '.join(PACKINGS)}"
# In a folder of data these are about the data: nobody means to train on the licence that lies beside a corpus.
_ABOUT = ("readme", "license", "licence", "notice", "copying", "about", "translators")


def suffixes(path: str | Path) -> tuple[str, str]:
    """The format and the packing of a file by its name: `(".jsonl", ".xz")`; empty where unknown or not packed."""
    found = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    packing = found.pop() if found and found[-1] in PACKINGS else ""
    return (found[-1] if found and found[-1] in FORMATS else ""), packing


def find_files(path: str | Path) -> list[str]:
    """The files that a path means, in an order that is the same everywhere.

    A file is itself (its suffix must be known); a folder is every readable file below it, sorted, without hidden
    files and without README, LICENSE, NOTICE and the like; a glob (`*`, `?`, `[...]`, `**`) is what it matches,
    sorted; `"-"` is standard input.
    """
    if str(path) == STANDARD_INPUT:
        return [STANDARD_INPUT]
    text = os.path.expanduser(str(path))  # noqa: PTH111 - Path would swallow the "//" and "." of a glob
    place = Path(text)
    if place.is_file():
        if not suffixes(place)[0]:
            shown = "".join(place.suffixes[-2:]) or "no suffix"
            raise MalmoiError(f"{place}: cannot tell its format from its name ({shown}). Known: {KNOWN}.")
        return [text]
    if place.is_dir():
        files = _below(text)
        if not files:
            raise MalmoiError(f"{place}: this folder holds no file that can be read. Known: {KNOWN}.")
        return files
    if glob.has_magic(text):
        return _matches(text)
    if place.exists():
        raise MalmoiError(f"{place}: is neither a file nor a folder. For a stream, use '-' and standard input.")
    beside = [name.name for name in place.parent.iterdir()] if place.parent.is_dir() else []
    raise MalmoiError(f"{place}: there is no such file or folder.{nearest(place.name, beside)}")


def _below(folder: str) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            about = Path(name).name.lower().startswith(_ABOUT)
            if suffixes(name)[0] and not name.startswith(".") and not about:
                files.append(os.path.join(parent, name))  # noqa: PTH118
    return files


def _matches(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    if not matches:
        raise MalmoiError(f"{pattern}: no file matches this pattern (working folder: {Path.cwd()}).")
    files: dict[str, None] = {}  # a "**" names a folder and what lies in it: each file counts once
    for match in matches:
        if Path(match).is_dir():
            files.update(dict.fromkeys(_below(match)))
        elif suffixes(match)[0]:
            files[match] = None
    if not files:
        raise MalmoiError(f"{pattern}: no file that matches can be read ({matches[0]}). Known: {KNOWN}.")
    return list(files)


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file (or of standard input). Damage to an archive raises when it is reached."""
    if path == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    packing = suffixes(path)[1]
    try:
        with _opener(packing, path) as stream:
            yield stream
    except MalmoiError:
        raise
    except (EOFError, zlib.error, *_damage(packing)) as error:
        kind = packing.lstrip(".")
        raise MalmoiError(
            f"{path}: is not a whole {kind} archive ({error}). It may be damaged or cut off; get or pack it again."
        ) from None
    except OSError as error:
        if packing == ".gz" and error.errno is None:  # gzip.BadGzipFile
            raise MalmoiError(f"{path}: is not a whole gz archive ({error}). Get or pack it again.") from None
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _opener(packing: str, path: str) -> Any:
    if packing == ".gz":
        import gzip

        return gzip.open(path, "rb")
    if packing == ".xz":
        import lzma

        return lzma.open(path, "rb")
    if packing == ".zst":
        return io.BufferedReader(_Zstandard(path), BLOCK)  # type: ignore[arg-type]
    return Path(path).open("rb")


def _damage(packing: str) -> tuple[type[BaseException], ...]:
    if packing == ".xz":
        import lzma

        return (lzma.LZMAError,)
    if packing == ".zst":
        return (_zstandard().ZstdError,)
    return ()


@functools.cache
def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MalmoiError("Reading .zst needs the extra 'data': pip install 'malmoi[data]'.") from None
    return zstandard


class _Zstandard(io.RawIOBase):
    """Zstandard frames as a stream. Written out because the library's reader takes a cut-off file for a whole one."""

    def __init__(self, path: str) -> None:
        self._library = _zstandard()
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed with the stream
        self._frame: Any = None
        self._text, self._packed = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._text:
            packed = self._packed or self._file.read(BLOCK)
            self._packed = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            self._text = self._frame.decompress(packed)
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(target), len(self._text))
        target[:size], self._text = self._text[:size], self._text[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def read_blocks(stream: BinaryIO, path: str) -> Iterator[str]:
    """The text of a stream in pieces of about `BLOCK` bytes, checked as it comes.

    Raises `MalmoiError` for a file without a byte, for one that is not text (NUL bytes), and for bytes that are not
    UTF-8, with the line and the byte (both counted in the unpacked file: lines from 1, bytes from 0).
    """
    position, line, carry = 0, 1, b""
    while True:
        read = stream.read(BLOCK)
        data = carry + read
        if not position and not data:
            raise MalmoiError(f"{path}: is empty.")
        if position == 0:
            _refuse_other_encodings(data, path)
            if data.startswith(codecs.BOM_UTF8):
                data, position = data[3:], 3
        if (nul := data.find(b"\0")) >= 0:
            raise MalmoiError(
                f"{path}: is not a text file: byte {position + nul} (line {line + data.count(10, 0, nul)}) is NUL. "
                f"Is it an image, an archive or a program? Text files must be UTF-8."
            )
        try:
            text, used = codecs.utf_8_decode(data, "strict", not read)
        except UnicodeDecodeError as error:
            raise _broken(data, error, path, position, line) from None
        if text.endswith("\r") and read:  # its line feed may be in the next block
            text, used = text[:-1], used - 1
        if text:
            yield text.replace("\r\n", "\n")
        line += data.count(10, 0, used)
        position += used
        carry = data[used:]
        if not read:
            return


def _refuse_other_encodings(data: bytes, path: str) -> None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise MalmoiError(f"{path}: is UTF-16 (it begins with {data[:2].hex(' ')}). Save it as UTF-8.")


def _broken(data: bytes, error: UnicodeDecodeError, path: str, position: int, line: int) -> MalmoiError:
    """Name the place, and the encoding that the line probably has: old Korean and French files are CP949 and CP1252."""
    begin = data.rfind(b"\n", 0, error.start) + 1
    end = data.find(b"\n", error.start)
    sample = data[begin : end if end >= 0 else len(data)][:1000]
    guess = ""
    for encoding, letters in (("cp949", lambda c: "가" <= c <= "힣"), ("cp1252", str.isalpha)):
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        foreign = [character for character in text if not character.isascii()]
        if foreign and sum(map(letters, foreign)) > 0.7 * len(foreign):
            shown = text.strip()[:30]
            guess = f" It may be {encoding.upper()} ('{shown}'): iconv -f {encoding} -t utf-8 OLD > NEW."
            break
    return MalmoiError(
        f"{path}: line {line + data.count(10, 0, error.start)}, byte {position + error.start}: not UTF-8 "
        f"(0x{data[error.start]:02x}, {error.reason}).{guess or ' Save the file as UTF-8.'}"
    )


def read_lines(stream: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, from 1, without its line end. Only a line feed ends a line (U+2028 does not)."""
    number, parts = 0, []
    for block in read_blocks(stream, path):
        first, *rest = block.split("\n")
        parts.append(first)
        if rest:
            number += 1
            yield number, "".join(parts)
            for text in rest[:-1]:
                number += 1
                yield number, text
            parts = [rest[-1]]
    if last := "".join(parts):
        yield number + 1, last
