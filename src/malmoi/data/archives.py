"""ARCHIVES -> FILES, without unpacking anything onto the disk.

Picture data sets travel as one .tar.xz or .zip of many small pictures. Their members are handed on as (name, bytes);
a name is a key here and never a path that is written to, and a member that is larger than any small picture (or that
says it is smaller than it turns out to be) is refused, so that a hostile archive can fill neither disk nor memory.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from malmoi.config import MalmoiError

MAX_MEMBER = 4 * 2**20  # bytes of one picture
MAX_MEMBERS = 1_000_000


def members(path: str | Path, suffix: str = ".png") -> Iterator[tuple[str, bytes]]:
    """The files in an archive whose names end in `suffix`, in its order.

    Raises `MalmoiError` for an archive that is damaged or of another kind, and for a member that is too large.
    """
    path = Path(path)
    try:
        found = _zipped(path, suffix) if path.suffix == ".zip" else _tarred(path, suffix)
        for number, member in enumerate(found):
            if number == MAX_MEMBERS:
                raise MalmoiError(f"{path}: holds more than {MAX_MEMBERS:,} files.")
            yield member
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file.") from None
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise MalmoiError(f"{path}: is damaged or no archive ({error}). Take it again from where it came.") from None


def _tarred(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(suffix):
                _check(path, member.name, member.size)
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read(MAX_MEMBER)


def _zipped(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir() and member.filename.endswith(suffix):
                _check(path, member.filename, member.file_size)
                if member.flag_bits & 1:
                    raise MalmoiError(f"{path}: '{member.filename}' is encrypted. Unpack it with its password first.")
                with archive.open(member) as file:
                    data = file.read(MAX_MEMBER + 1)
                _check(path, member.filename, len(data))
                yield member.filename, data


def _check(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER:
        raise MalmoiError(f"{path}: '{name}' has {size:,} bytes; a picture in an archive has at most {MAX_MEMBER:,}.")
