"""DOCUMENTS -> TOKENS: the token file, a folder that everything after it reads.

Tokenising is done once; training, resuming, tracing an answer to its sources and checking for contamination all read
the same folder:

```
manifest.json            written last: sizes and SHA-256 of every file, the tokenizer's, sources and licences
shard-00000.ids          every token of the shard's documents, one after another: uint16, or uint32 where it must
shard-00000.documents    one record a document: where it ends, the hash of its text, its size in bytes, its source
shard-00000.names        the documents' own names, one a line
shard-00000.mask         one byte a token: 1 where the model shall learn it (only if a document is not learned whole)
token_bytes.u16          how many bytes of text each token stands for: the ruler for bits per byte
```

Numbers are little-endian. Files are memory-mapped, so a corpus may be larger than memory. Every document ends with the
end-of-text token. This module writes the folder; `tokenfile.py` reads it.

Shards are cut by number of documents and bytes of text, which the stream of documents decides, and each is written
whole by one process: the folder is the same, bit for bit, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.config import MalmoiError
from malmoi.data.corpus import Document, texts_of
from malmoi.data.encoding import encode, hashed_text
from malmoi.data.tokenfile import DOCUMENT, FORMAT, MANIFEST, VERSION, TokenFile, fingerprint

SHARD_DOCUMENTS = 65_536
SHARD_CHARACTERS = 8 << 20  # small enough that every worker holds one, large enough that files stay few
PICTURE = 4096  # characters that a picture counts for: its tokens are as many as those of so much text, roughly
_BATCH_BYTES = 1 << 20  # of text in one call of the tokenizer, which spreads it over the cores

Part = Callable[[], Iterable[Document]]
Progress = Callable[[int, int, int], None]


def build(
    documents: Iterable[Document] | Sequence[Part],
    tokenizer: Any,
    folder: str | Path,
    *,
    held_out: float = 0.0,
    held_out_seed: int = 0,
    workers: int = 0,
    shard_documents: int = SHARD_DOCUMENTS,
    shard_characters: int = SHARD_CHARACTERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TokenFile:
    """Tokenise documents into a folder and open it.

    `documents` is a stream, or a list of functions that each give the documents of one shard: those run inside the
    workers, so that reading (or making up) text is spread over processes too; they must be picklable. `workers=0`
    works in this process and lets the tokenizer use every core; more start that many processes. `held_out` is the
    share of documents kept aside (see `TokenFile.held_out`). `progress` is called with the numbers of documents,
    tokens and bytes so far.

    The folder appears whole or not at all: it is written under another name and renamed when its manifest is on disk.
    Raises `MalmoiError` where no document comes, the folder is in the way, or the disk is full.
    """
    limits = Limits(shard_documents, shard_characters)
    return assemble(
        lambda aside: _write_shards(documents, tokenizer, aside, workers, limits, progress),
        tokenizer,
        folder,
        held_out=held_out,
        held_out_seed=held_out_seed,
        overwrite=overwrite,
    )


def assemble(
    write: Callable[[Path], list[WrittenShard]],
    tokenizer: Any,
    folder: str | Path,
    *,
    held_out: float,
    held_out_seed: int,
    overwrite: bool,
) -> TokenFile:
    """Have shards written into a hidden folder by `write`, add the manifest, let all of it appear by one rename."""
    folder = Path(folder)
    if not 0 <= held_out <= 0.5:
        raise MalmoiError(f"held_out={held_out} is not between 0 and 0.5 (the share of documents kept aside).")
    if folder.exists() and not (overwrite and _is_replaceable(folder)):
        raise MalmoiError(f"{folder}: is already there. Remove it, or choose another folder.")
    if tokenizer.eos_token_id is None:
        raise MalmoiError("This tokenizer has no end-of-text token (eos_token), with which every document ends.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = _beside(folder, "building")
    except OSError as error:
        raise MalmoiError(f"{folder}: cannot be written: {error.strerror or error}.") from None
    try:
        shards = write(aside)
        if not shards:
            raise MalmoiError("There is no document to tokenise: the sources gave none.")
        manifest = _manifest(shards, tokenizer, aside, held_out, held_out_seed)
        _write(aside / MANIFEST, [json.dumps(manifest, ensure_ascii=False, indent=1).encode()])
        _take_place(aside, folder)
    except OSError as error:
        raise MalmoiError(
            f"{folder}: cannot be written: {error.strerror or error}. Nothing was left behind; "
            f"make room or choose another disk, and start again."
        ) from None
    finally:  # also after Ctrl-C
        shutil.rmtree(aside, ignore_errors=True)
    return TokenFile.open(folder)


def _is_replaceable(folder: Path) -> bool:
    """Only a token file (or an empty folder) may be replaced: a mistyped path must not cost anybody their files."""
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


def _beside(folder: Path, purpose: str) -> Path:
    """A new empty folder on the same disk, so that a rename is enough. (`tempfile`'s only their owner may read.)"""
    path = folder.parent / f".{folder.name}.{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    return path


def _take_place(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
        return
    old = _beside(folder, "old")
    folder.rename(old / "old")
    try:
        aside.rename(folder)
    except OSError:
        (old / "old").rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where shards are cut: behind the document with which one of these is reached."""

    documents: int = SHARD_DOCUMENTS
    characters: int = SHARD_CHARACTERS

    def reached(self, documents: int, characters: int) -> bool:
        return documents >= self.documents or characters >= self.characters


def characters_of(document: Document) -> int:
    """How much of a shard's limit a document takes."""
    pictures = [part for part in document.parts or () if not isinstance(part, str)]
    return sum(map(len, texts_of(document))) + PICTURE * len(pictures)


@dataclass
class WrittenShard:
    """What the manifest says about one shard."""

    files: dict[str, dict[str, Any]]
    documents: int
    tokens: int
    bytes: int
    max_id: int
    sources: list[dict[str, Any]] = field(default_factory=list)


# Every worker holds the tokenizer once. Processes are started afresh ("spawn"), on every system: a fork would copy the
# tokenizer's threads in whatever state they are.
_worker_tokenizer: Any = None


def _start_worker(tokenizer: Any) -> None:
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_tokenizer = tokenizer


def _work(number: int, documents: list[Document] | Part, folder: str) -> WrittenShard | None:
    stream = documents() if callable(documents) else documents
    return write_shard(number, stream, _worker_tokenizer, Path(folder), None)


def _write_shards(
    documents: Iterable[Document] | Sequence[Part],
    tokenizer: Any,
    aside: Path,
    workers: int,
    limits: Limits,
    progress: Progress | None,
) -> list[WrittenShard]:
    parts = _parts(documents, limits)
    done: list[WrittenShard] = []

    def report(more: tuple[int, int, int] = (0, 0, 0)) -> None:
        if progress is not None:
            totals = (sum(s.documents for s in done), sum(s.tokens for s in done), sum(s.bytes for s in done))
            progress(*(total + extra for total, extra in zip(totals, more, strict=True)))

    if workers < 1:
        for number, part in enumerate(parts):
            stream = part() if callable(part) else part
            shard = write_shard(number, stream, tokenizer, aside, report)
            done += [shard] if shard else []
            report()
    else:
        for shard in _in_processes(parts, tokenizer, aside, workers):
            done += [shard] if shard else []
            report()
    return done


def _parts(documents: Iterable[Document] | Sequence[Part], limits: Limits) -> Iterator[list[Document] | Part]:
    if isinstance(documents, Sequence) and documents and callable(documents[0]):
        yield from documents  # type: ignore[misc]
        return
    part: list[Document] = []
    size = 0
    for document in documents:
        assert isinstance(document, Document)
        part.append(document)
        size += characters_of(document)
        if limits.reached(len(part), size):
            yield part
            part, size = [], 0
    if part:
        yield part


def _in_processes(
    parts: Iterator[list[Document] | Part], tokenizer: Any, aside: Path, workers: int
) -> Iterator[WrittenShard | None]:
    import multiprocessing

    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (tokenizer,))
    waiting: deque[Future[WrittenShard | None]] = deque()
    try:
        for number, part in enumerate(parts):
            waiting.append(pool.submit(_work, number, part, str(aside)))
            if len(waiting) > workers:  # one shard in hand for each worker, one ready: memory stays bounded
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise MalmoiError(
            "A worker process died while tokenising, most often because memory ran out. Use fewer workers (0: none)."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(documents: Iterable[Document]) -> Iterator[tuple[list[Document], list[bytes]]]:
    batch: list[Document] = []
    texts: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        texts.append(hashed_text(document))
        size += len(texts[-1])
        if size >= _BATCH_BYTES:
            yield batch, texts
            batch, texts, size = [], [], 0
    if batch:
        yield batch, texts


def write_shard(
    number: int,
    documents: Iterable[Document],
    tokenizer: Any,
    folder: Path,
    report: Callable[[tuple[int, int, int]], None] | None,
) -> WrittenShard | None:
    """Tokenise documents and write one shard's files. Until then its tokens wait in memory, 2 or 4 bytes each."""
    id_type = id_dtype(len(tokenizer))
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    records: list[np.ndarray] = []
    names: list[str] = []
    sources: dict[tuple[str, str], int] = {}
    tokens = size = 0
    partly = False  # is there a document that is not learned as a whole?
    for batch, texts in _batches(documents):
        encoded, batch_masks = encode(batch, tokenizer)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        record = np.empty(len(batch), DOCUMENT)
        record["end"] = tokens + np.cumsum(lengths)
        record["hash"] = [int.from_bytes(hashlib.sha256(text).digest()[:8], "little") for text in texts]
        record["bytes"] = [len(text) for text in texts]
        keys = [(document.source, document.license) for document in batch]
        for key in keys:
            sources.setdefault(key, len(sources))
        record["source"] = [sources[key] for key in keys]
        names += [document.id.replace("\n", " ") for document in batch]
        tokens, size = int(record["end"][-1]), size + int(record["bytes"].sum())
        flat = np.fromiter(itertools.chain.from_iterable(encoded), id_type, int(lengths.sum()))
        ids.append(flat)
        mask = np.ones(len(flat), np.uint8)
        for end, one in zip(np.cumsum(lengths), batch_masks, strict=True):
            if one is not None:
                partly = True
                mask[end - len(one) : end] = one
        masks.append(mask)
        records.append(record)
        if report is not None:
            report((len(names), tokens, size))
    if not records:
        return None
    table = np.concatenate(records)
    contents: dict[str, list[Any]] = {
        "ids": ids,
        "documents": [table],
        "names": ["\n".join(names).encode("utf-8", "replace")],
        **({"mask": masks} if partly else {}),
    }
    stem = f"shard-{number:05d}"
    files = {f"{stem}.{kind}": _write(folder / f"{stem}.{kind}", content) for kind, content in contents.items()}
    return WrittenShard(files, len(table), tokens, size, max(int(one.max()) for one in ids), _listed(sources, table))


def _listed(sources: dict[tuple[str, str], int], table: np.ndarray) -> list[dict[str, Any]]:
    """A shard's sources for the manifest, in the order of the numbers that its records use."""
    lengths = np.diff(table["end"], prepend=0)
    listed = []
    for (name, license), number in sources.items():
        own = table["source"] == number
        counts = {"documents": own.sum(), "tokens": lengths[own].sum(), "bytes": table["bytes"][own].sum()}
        listed.append({"name": name, "license": license, **{key: int(count) for key, count in counts.items()}})
    return listed


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest number type that holds every id of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _manifest(
    shards: list[WrittenShard], tokenizer: Any, aside: Path, held_out: float, held_out_seed: int
) -> dict[str, Any]:
    special, largest = set(tokenizer.special_tokens.values()), max(shard.max_id for shard in shards)
    ruler = [0 if token in special else len(tokenizer.token_bytes(token)) for token in range(len(tokenizer))]
    return {
        "format": FORMAT,
        "version": VERSION,
        "vocab_size": len(tokenizer),
        "tokenizer_sha256": fingerprint(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        **({"pictures": True} if tokenizer.images and tokenizer.images.begin <= largest else {}),
        "dtype": id_dtype(len(tokenizer)).name,
        "max_id": largest,
        "documents": sum(shard.documents for shard in shards),
        "tokens": sum(shard.tokens for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "held_out": held_out,
        "held_out_seed": held_out_seed,
        "token_bytes": {"token_bytes.u16": _write(aside / "token_bytes.u16", [np.array(ruler, "<u2")])},
        "shards": [
            {
                "files": shard.files,
                "documents": shard.documents,
                "tokens": shard.tokens,
                "sources": shard.sources,
            }
            for shard in shards
        ],
    }


def _write(path: Path, contents: Iterable[bytes | np.ndarray]) -> dict[str, Any]:
    """Write a file to the disk itself, not only to the system's cache; its size and SHA-256 for the manifest."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for content in contents:
            data = content if isinstance(content, bytes) else content.tobytes()
            file.write(data)
            digest.update(data)
            size += len(data)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}
