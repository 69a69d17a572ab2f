"""DOCUMENTS -> TOKENS on many machines: the folder of `shards.py`, bit for bit, made by the workers of a Ray cluster.

Where shards are cut follows from all documents before them, which seems to make cutting a thing for one reader. But the
cuts need only the documents' sizes, and those can be had by many readers at once:

    survey      each file is read by some worker, which tells the sizes of its documents (in characters)
    plan        here the sizes are gone through in order: every shard's first document, its count and its characters
    tokenise    each run of shards is read again by some worker, tokenised and written

Reading is many times faster than tokenising, so reading twice costs little, and neither texts nor tokens pass through
the machine that plans. Ray Data (https://docs.ray.io/en/latest/data/data.html) spreads the work, keeps every worker
busy, and gives the work of one that died to another; a shard is written under a name of its own first, so a second
writer does no harm.

All machines need the same Malmoi, and must see texts and token folder under the same paths.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.config import MalmoiError, SourceConfig
from malmoi.data.corpus import VILLAGE, Document, read, source_name
from malmoi.data.shards import (
    SHARD_CHARACTERS,
    SHARD_DOCUMENTS,
    Limits,
    Progress,
    WrittenShard,
    assemble,
    characters_of,
    write_shard,
)
from malmoi.data.streams import STANDARD_INPUT, find_files
from malmoi.data.tokenfile import TokenFile

LOCAL = "local"
READERS_OF_A_FILE = 8  # runs that begin in one file at most: each reads the file up to its beginning
RUNS_OF_A_WORKER = 16  # at least, where there is enough work: the last ones to finish are then soon done
TRIES = 3  # of a run that brings down its worker
STARTS = 3  # of Ray on this machine
ATTEMPT = "attempt-"


def build_on_cluster(
    sources: Sequence[SourceConfig],
    tokenizer: Any,
    folder: str | Path,
    *,
    address: str = LOCAL,
    workers: int = 0,
    held_out: float = 0.0,
    held_out_seed: int = 0,
    shard_documents: int = SHARD_DOCUMENTS,
    shard_characters: int = SHARD_CHARACTERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TokenFile:
    """Tokenise the documents of `sources` into a folder with Ray Data, and open it.

    The folder is the one that `shards.build` makes of the same documents, whatever the number of workers. `address` is
    that of a cluster ("auto": the one this machine belongs to) or "local": Ray is then started here and stopped at the
    end. `workers`: processes that tokenise at a time; 0: one for each processor.

    Raises `MalmoiError` for what `shards.build` does, and where Ray is missing or not reached, texts or folder are not
    seen by the workers, or workers die again and again.
    """
    files = [file for source in sources for file in _files(source)]
    limits = Limits(shard_documents, shard_characters)
    folder = Path(folder).resolve()  # a worker's working folder may be another one

    def write(aside: Path) -> list[WrittenShard]:
        with _ray(address, workers) as (ray_data, count):
            plans = list(plan(_survey(ray_data, files), limits))
            return _tokenise(ray_data, count, files, plans, tokenizer, aside, progress)

    return assemble(write, tokenizer, folder, held_out=held_out, held_out_seed=held_out_seed, overwrite=overwrite)


def _files(source: SourceConfig) -> Iterator[SourceConfig]:
    """One source for each file of a source, of the same name."""
    for path in (source.path,) if isinstance(source.path, str) else source.path:
        if path == STANDARD_INPUT:
            raise MalmoiError("Standard input cannot be read by several workers. Write it to a file first.")
        found = (
            [path] if path.partition(":")[0] == VILLAGE else [str(Path(file).resolve()) for file in find_files(path)]
        )
        for file in found:
            yield source.replace(path=file, name=source_name(source))


# ---- the plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """One shard: it begins with document `first` of file `file` and goes on, through later files if need be."""

    number: int
    file: int
    first: int
    documents: int
    characters: int


def plan(sizes: Iterable[np.ndarray], limits: Limits) -> Iterator[Plan]:
    """The shards of a stream of documents, from their sizes file by file: cut where `shards.build` cuts."""
    number = documents = characters = 0
    begin = (0, 0)
    for file, of_file in enumerate(sizes):
        for index, size in enumerate(of_file.tolist()):
            if not documents:
                begin = (file, index)
            documents, characters = documents + 1, characters + size
            if limits.reached(documents, characters):
                yield Plan(number, *begin, documents, characters)
                number, documents, characters = number + 1, 0, 0
    if documents:
        yield Plan(number, *begin, documents, characters)


def runs(plans: Sequence[Plan], workers: int) -> list[list[Plan]]:
    """Neighbouring shards that one worker makes in one reading.

    Who begins in the middle of a file must read up to there, so a file that makes many shards is shared by few runs.
    """
    in_file: dict[int, int] = {}
    for each in plans:
        in_file[each.file] = in_file.get(each.file, 0) + 1
    fair = max(len(plans) // (RUNS_OF_A_WORKER * workers), 1)
    found: list[list[Plan]] = []
    for each in plans:
        if found and len(found[-1]) < max(fair, -(-in_file[found[-1][0].file] // READERS_OF_A_FILE)):
            found[-1].append(each)
        else:
            found.append([each])
    return found


# ---- what the workers do --------------------------------------------------------------------------------------------


def _told(work: Callable[[], Any], where: str) -> dict[str, list[Any]]:
    """A row of what work gave, as JSON or bytes; a failure is told too, so that it ends the build in plain words."""
    try:
        return {"error": [""], "given": [work()]}
    except MalmoiError as error:
        return {"error": [str(error)], "given": [b""]}
    except OSError as error:
        return {"error": [f"{error.filename or where}: {error.strerror or error} (on {_host()})."], "given": [b""]}
    except Exception as error:
        return {"error": [f"{where}: {type(error).__name__}: {error}"], "given": [b""]}


def _host() -> str:
    import socket

    return socket.gethostname()


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("malmoi", "tokenizers")}


class _Surveyor:
    """Tells the sizes of the documents of a file."""

    def __init__(self, files: Sequence[SourceConfig]) -> None:
        self.files = files

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        (number,) = (int(each) for each in row["number"])

        def sizes() -> bytes:
            return np.fromiter(map(characters_of, read(self.files[number])), "<u4").tobytes()

        return {"number": [number], **_told(sizes, str(self.files[number].path))}


class _Tokeniser:
    """A worker: it holds the tokenizer, and makes the shards of one run after another."""

    def __init__(self, tokenizer: Any, files: Sequence[SourceConfig], folder: str, versions: dict[str, str]) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
        self.tokenizer, self.files, self.folder, self.versions = tokenizer, files, Path(folder), versions

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        (number,), (text,) = row["number"], row["run"]
        run = [Plan(**each) for each in json.loads(str(text))]
        where = f"{self.files[run[0].file].path}, from document {run[0].first + 1} on"
        return {"number": [int(number)], **_told(lambda: self._shards(run, where), where)}

    def _shards(self, run: list[Plan], where: str) -> bytes:
        if self.versions != _versions():
            raise MalmoiError(f"{_host()} has {_versions()}, but the build was begun with {self.versions}.")
        if not self.folder.is_dir():
            raise MalmoiError(f"{self.folder}: is not seen from {_host()}. All machines need the same folder there.")
        attempts = list(self.folder.glob(f"{ATTEMPT}{run[0].number}-*"))  # left by workers that died
        if len(attempts) >= TRIES:
            raise MalmoiError(
                f"{where}: {len(attempts)} workers died of this, most often because memory ran out. "
                f"Use fewer workers on a machine."
            )
        aside = self.folder / f"{ATTEMPT}{run[0].number}-{secrets.token_hex(8)}"
        aside.mkdir()
        try:
            stream = self._documents(run[0])
            return json.dumps([asdict(self._shard(each, stream, aside)) for each in run]).encode()
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _documents(self, begin: Plan) -> Iterator[Document]:
        yield from itertools.islice(read(self.files[begin.file]), begin.first, None)
        for file in self.files[begin.file + 1 :]:
            yield from read(file)

    def _shard(self, each: Plan, stream: Iterator[Document], aside: Path) -> WrittenShard:
        seen = 0

        def counted() -> Iterator[Document]:
            nonlocal seen
            for document in itertools.islice(stream, each.documents):
                seen += characters_of(document)
                yield document

        written = write_shard(each.number, counted(), self.tokenizer, aside, None)
        if written is None or (written.documents, seen) != (each.documents, each.characters):
            raise MalmoiError(f"{self.files[each.file].path}: has changed while it was read. Build again.")
        for name in written.files:
            (aside / name).replace(self.folder / name)
        return written


# ---- what is asked of Ray -------------------------------------------------------------------------------------------


@contextmanager
def _ray(address: str, workers: int) -> Iterator[tuple[Any, int]]:
    """`ray.data`, connected, and how many workers there shall be; Ray is stopped again if it was started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # who does not ask to be counted is not
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception too
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MalmoiError("Tokenising with Ray needs the extra 'ray': pip install 'malmoi[ray]'.") from None
    ours = not ray.is_initialized()
    try:
        if ours:
            _connect(ray, address, workers)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray.data, workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    except ray.exceptions.RayError as error:
        raise MalmoiError(f"The work was broken off; nothing is left of it. Ray says: {_line(error, -1)}") from None
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str, workers: int) -> None:
    own = address == LOCAL
    settings = {"num_cpus": workers or os.cpu_count(), "include_dashboard": False} if own else {}
    # Ray gives its helpers 15 seconds to start; on a busy machine they need longer the first time than the second.
    for tries_left in reversed(range(STARTS if own else 1)):
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **settings)
            return
        except Exception as error:  # Ray raises many kinds here, and also `Exception` itself
            if tries_left:
                continue
            what = "could not be started here" if own else f"at '{address}' cannot be reached (is it up? ray status)"
            raise MalmoiError(f"Ray {what}: {_line(error, 0)}") from None


def _line(error: BaseException, number: int) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[number].strip()


def _rows(dataset: Any) -> Iterator[tuple[int, bytes]]:
    """(number, given) of each row, in order of the numbers; the first error among them ends it."""
    waiting: dict[int, Any] = {}
    due = 0
    for row in dataset.iter_rows():
        waiting[int(row["number"])] = row
        while due in waiting:
            done = waiting.pop(due)
            if done["error"]:
                raise MalmoiError(done["error"])
            yield due, done["given"]
            due += 1


def _survey(ray_data: Any, files: Sequence[SourceConfig]) -> Iterator[np.ndarray]:
    """The sizes of the documents of each file."""
    items = ray_data.from_items([{"number": number} for number in range(len(files))], override_num_blocks=len(files))
    for _, sizes in _rows(items.map_batches(_Surveyor(files).__call__, batch_size=1)):
        yield np.frombuffer(sizes, "<u4")


def _tokenise(
    ray_data: Any,
    workers: int,
    files: Sequence[SourceConfig],
    plans: Sequence[Plan],
    tokenizer: Any,
    aside: Path,
    progress: Progress | None,
) -> list[WrittenShard]:
    tasks = [
        {"number": n, "run": json.dumps([asdict(each) for each in run])} for n, run in enumerate(runs(plans, workers))
    ]
    rows = ray_data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Tokeniser,
        fn_constructor_args=(tokenizer, files, str(aside), _versions()),
        batch_size=1,
        compute=ray_data.ActorPoolStrategy(size=min(workers, len(tasks))),
    )
    done: list[WrittenShard] = []
    for _, given in _rows(rows):
        done += [WrittenShard(**each) for each in json.loads(given)]
        if progress is not None:
            progress(sum(s.documents for s in done), sum(s.tokens for s in done), sum(s.bytes for s in done))
    for attempt in aside.glob(f"{ATTEMPT}*"):
        shutil.rmtree(attempt, ignore_errors=True)
    return done
