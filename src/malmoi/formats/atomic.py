"""A folder that changes all at once, or not at all.

The new content is written into a folder beside the old one, flushed to the disk, and takes its place by renaming. A
full disk or a killed process before that leaves the old folder as it was. Two renames are needed where a folder exists
(no portable call exchanges two folders); a process killed exactly between them leaves the old content under a known
name, and `recover` brings it back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malmoi.config import MalmoiError


def _beside(folder: Path, what: str) -> Path:
    return folder.parent / f".{folder.name}.{what}"


def recover(folder: Path) -> None:
    """Bring back the old content of a folder whose replacement was cut off between its two renames."""
    old = _beside(folder, "old")
    if old.is_dir() and not folder.exists():
        with suppress(OSError):
            old.rename(folder)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` when the `with` block ends well.

    Raises `MalmoiError` where the disk refuses; whatever goes wrong, `folder` stays what it was and nothing is left.
    """
    new, old = _beside(folder, "saving"), _beside(folder, "old")
    try:
        recover(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_over in (new, old):
            if left_over.exists():
                shutil.rmtree(left_over)
        new.mkdir()
        yield new
        _flush(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            recover(folder)
            raise
        _flush_directory(folder.parent)
    except OSError as error:
        raise MalmoiError(
            f"{folder}: cannot be saved: {error.strerror or error}. What was there before is unchanged; free some "
            f"space or choose another place, then save again."
        ) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def carry(source: Path, target: Path, but_not: set[str]) -> None:
    """Take over what lies in `source` and is not in `target` yet, without copying bytes where the disk can link."""
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        place = target / path.name
        if path.name in but_not or place.exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place, symlinks=True, copy_function=_link)
        else:
            _link(str(path), str(place))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and os.access(path, os.W_OK):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    _flush_directory(folder)


def _flush_directory(folder: Path) -> None:
    if os.name == "nt":
        return  # directories cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse
    finally:
        os.close(handle)
