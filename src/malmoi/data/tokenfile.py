"""TOKENS ON DISK: open a token file, check it, look documents up, take the part of it that one wants.

`shards.py` describes the folder and writes it. Documents are numbered from 0 through all shards; a `View` is a choice
among them (what is trained on, what is held out, one source). Which documents are held out is decided by the hash of
their text and a key: exact duplicates fall on the same side, whatever their order, their file or what is added later.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from malmoi import randomness
from malmoi.config import MalmoiError, nearest

MANIFEST = "manifest.json"
FORMAT, VERSION = "malmoi-tokens", 1
DOCUMENT = np.dtype([("end", "<i8"), ("hash", "<u8"), ("bytes", "<i8"), ("source", "<u4")])  # packed: 28 bytes

_NUMBERS = ("vocab_size", "eos_token_id", "max_id", "documents", "tokens", "bytes", "held_out", "held_out_seed")

Split = Literal["train", "held_out", "all"]


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what decides a tokenizer's ids: its `tokenizer.json`, without layout, padding and truncation, and of
    an image tokenizer its weights."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        content = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
        weights = Path(folder) / "image_tokenizer" / "model.safetensors"
        images = {"images": hashlib.sha256(weights.read_bytes()).hexdigest()} if weights.is_file() else {}
    content = images | {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from, under which licence, and how much of them there is."""

    name: str
    license: str
    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The memory-mapped arrays of one shard: `ids` (T,), `documents` (N,) records, `mask` (T,) or None."""

    ids: np.ndarray
    documents: np.ndarray
    mask: np.ndarray | None
    names: Path


class TokenFile:
    """A tokenised corpus, made by `shards.build`, opened by `TokenFile.open(folder)`, read only where it is needed."""

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[Shard], token_bytes: np.ndarray) -> None:
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.token_bytes = token_bytes  # (V,) how many bytes of text a token stands for; 0 for control tokens
        self.vocab_size: int = manifest["vocab_size"]
        self.eos_token_id: int = manifest["eos_token_id"]
        self.num_documents: int = manifest["documents"]
        self.num_tokens: int = manifest["tokens"]
        self.num_bytes: int = manifest["bytes"]
        self.has_pictures = bool(manifest.get("pictures"))  # then bytes of text are no measure of what is learned
        self.has_loss_mask = any(shard.mask is not None for shard in shards)
        self.first_document = np.cumsum([0, *(len(shard.documents) for shard in shards)])  # (shards + 1,)
        self.first_token = np.cumsum([0, *(len(shard.ids) for shard in shards)])

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Any = None, vocab_size: int | None = None) -> TokenFile:
        """Open a folder and check the size of every file; with a tokenizer or a model's `vocab_size`, that they fit.

        Raises `MalmoiError` for a folder that is not a whole token file, naming the file that is missing, cut off or
        too long.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            token_type = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}[manifest["dtype"]]
            shards = [_open_shard(folder, entry, token_type) for entry in manifest["shards"]]
            ((name, facts),) = manifest["token_bytes"].items()
            ruler = _map(folder, name, facts, np.dtype("<u2"))
            if len(ruler) != manifest["vocab_size"] or manifest["max_id"] >= manifest["vocab_size"]:
                raise MalmoiError(
                    f"{folder / MANIFEST}: contradicts itself: the vocabulary is not as large as it says."
                )
            token_file = cls(folder, manifest, shards, np.array(ruler, np.int64))
            if token_file.first_document[-1] != token_file.num_documents or (
                token_file.first_token[-1] != token_file.num_tokens
            ):
                raise MalmoiError(f"{folder / MANIFEST}: contradicts itself: its shards do not add up.")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, MalmoiError):
                raise
            raise MalmoiError(f"{folder / MANIFEST}: is damaged ({error}). Build the token file again.") from None
        if tokenizer is not None and fingerprint(tokenizer) != manifest["tokenizer_sha256"]:
            raise MalmoiError(
                f"{folder}: was written with another tokenizer (vocabulary {token_file.vocab_size}; this one has "
                f"{len(tokenizer)}), so that its ids mean other texts. Build it again with this tokenizer."
            )
        if vocab_size is not None and manifest["max_id"] >= vocab_size:
            raise MalmoiError(
                f"{folder}: holds token {manifest['max_id']}, but the model's vocab_size is {vocab_size}. "
                f"Use the tokenizer that belongs to the model."
            )
        return token_file

    def verify(self) -> None:
        """Read every byte and compare with the manifest's hashes. Raises `MalmoiError` naming the file that differs."""
        entries = [self.manifest["token_bytes"], *(entry["files"] for entry in self.manifest["shards"])]
        for name, facts in (item for entry in entries for item in entry.items()):
            digest = hashlib.sha256()
            with (self.folder / name).open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != facts["sha256"]:
                raise MalmoiError(
                    f"{self.folder / name}: is not what was written (its SHA-256 differs from the manifest's). "
                    f"Build the token file again."
                )

    # Documents

    @functools.cached_property
    def documents(self) -> np.ndarray:
        """(N,) records of all documents: `end` (in its shard), `hash`, `bytes`, `source` (an index of `sources`)."""
        table = np.concatenate([shard.documents for shard in self.shards])
        for shard, first in enumerate(self.first_document[:-1]):
            part = table[first : self.first_document[shard + 1]]
            places = np.array([self._source_numbers[_key(source)] for source in self._shard_sources(shard)], np.uint32)
            part["source"] = places[part["source"]]
        return table

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) where each document begins among all the tokens of all shards."""
        shift = np.repeat(self.first_token[:-1], np.diff(self.first_document))
        return np.concatenate([[0], self.documents["end"] + shift])

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every source with its licence and its share, in the order of first appearance."""
        totals = {key: np.zeros(3, np.int64) for key in self._source_numbers}
        for shard in range(len(self.shards)):
            for source in self._shard_sources(shard):
                totals[_key(source)] += [source["documents"], source["tokens"], source["bytes"]]
        return tuple(Source(*key, *map(int, counts)) for key, counts in totals.items())

    @functools.cached_property
    def _source_numbers(self) -> dict[tuple[str, str], int]:
        numbers: dict[tuple[str, str], int] = {}
        for shard in range(len(self.shards)):
            for source in self._shard_sources(shard):
                numbers.setdefault(_key(source), len(numbers))
        return numbers

    def _shard_sources(self, shard: int) -> list[dict[str, Any]]:
        return self.manifest["shards"][shard]["sources"]

    def ids(self, document: int) -> np.ndarray:
        """(T,) the tokens of one document, its end-of-text token last."""
        shard, begin, end = self._place(document)
        return self.shards[shard].ids[begin:end]

    def loss_mask(self, document: int) -> np.ndarray:
        """(T,) 1 where the model shall learn the token: of a text what is not given, of a conversation the answers."""
        shard, begin, end = self._place(document)
        mask = self.shards[shard].mask
        return np.ones(end - begin, np.uint8) if mask is None else mask[begin:end]

    def _place(self, document: int) -> tuple[int, int, int]:
        if not 0 <= document < self.num_documents:
            raise MalmoiError(f"{self.folder}: has documents 0 to {self.num_documents - 1}, but not {document}.")
        shard = int(np.searchsorted(self.first_document, document, side="right")) - 1
        row = document - int(self.first_document[shard])
        ends = self.shards[shard].documents["end"]
        return shard, int(ends[row - 1]) if row else 0, int(ends[row])

    def name(self, document: int) -> str:
        """The document's own name: `Document.id`, by default the file and line it was read from."""
        shard = self._place(document)[0]
        return self._names(shard)[document - int(self.first_document[shard])]

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a handful of shards, and a token file lives as long as the program
    def _names(self, shard: int) -> list[str]:
        return self.shards[shard].names.read_text(encoding="utf-8").split("\n")

    # Views

    def view(self, split: Split = "all", source: str | None = None) -> View:
        """The documents of one side of the held-out split, and of one source by name."""
        chosen = np.ones(self.num_documents, bool)
        if split != "all":
            side = held_out(self.documents["hash"], self.manifest["held_out"], self.manifest["held_out_seed"])
            chosen &= side if split == "held_out" else ~side
        if source is not None:
            numbers = [number for (name, _), number in self._source_numbers.items() if name == source]
            if not numbers:
                names = [name for name, _ in self._source_numbers]
                raise MalmoiError(
                    f"{self.folder}: has no source '{source}'.{nearest(source, names)} Sources: {', '.join(names)}."
                )
            chosen &= np.isin(self.documents["source"], numbers)
        label = f"{self.folder}" + (f" ({source})" if source else "") + ("" if split == "all" else f", {split}")
        return View(self, np.flatnonzero(chosen), label)

    @functools.cached_property
    def train(self) -> View:
        """What is learned from: every document that is not held out."""
        return self.view("train")

    @functools.cached_property
    def held_out(self) -> View:
        """What is only measured on."""
        return self.view("held_out")


class View:
    """A choice of documents of a token file: `documents` (n,) their numbers, `label` what to call it in an error."""

    def __init__(self, token_file: TokenFile, documents: np.ndarray, label: str) -> None:
        self.token_file, self.documents, self.label = token_file, documents, label

    def __len__(self) -> int:
        return len(self.documents)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each document, end-of-text included."""
        offsets = self.token_file.offsets
        return offsets[self.documents + 1] - offsets[self.documents]

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_bytes(self) -> int:
        """Of the documents' text in UTF-8."""
        return int(self.token_file.documents["bytes"][self.documents].sum())


def held_out(hashes: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """(n,) which of the documents with these 64-bit hashes are held out: a keyed, even share of all possible hashes.

    The hash is mixed with the key (SplitMix64's finaliser: Steele, Lea & Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) and compared with the share, so that a larger share contains the smaller one.
    """
    mixed = hashes.astype(np.uint64) ^ np.uint64(randomness.key(seed, "held out"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def _key(source: dict[str, Any]) -> tuple[str, str]:
    return source["name"], source["license"]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = "is not a token file: it has no manifest" if folder.is_dir() else "there is no such folder"
        raise MalmoiError(f"{folder}: {what}. Was its building interrupted? Build it again.") from None
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise MalmoiError(f"{path}: is damaged ({error}). Build the token file again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise MalmoiError(f"{path}: is not the manifest of a token file.")
    if manifest.get("version") != VERSION:
        raise MalmoiError(
            f"{path}: is of version {manifest.get('version')}, but this Malmoi reads version {VERSION}. "
            f"Build the token file again."
        )
    for key in _NUMBERS:
        if not isinstance(manifest.get(key), (int, float)):
            raise MalmoiError(f"{path}: is damaged ('{key}' is not a number). Build the token file again.")
    if not isinstance(manifest.get("tokenizer_sha256"), str):
        raise MalmoiError(f"{path}: is damaged ('tokenizer_sha256' is missing). Build the token file again.")
    return manifest


def _open_shard(folder: Path, entry: dict[str, Any], token_type: np.dtype[Any]) -> Shard:
    files = {Path(name).suffix: (name, facts) for name, facts in entry["files"].items()}
    ids = _map(folder, *files[".ids"], token_type)
    documents = _map(folder, *files[".documents"], DOCUMENT)
    mask = _map(folder, *files[".mask"], np.dtype("u1")) if ".mask" in files else None
    _map(folder, *files[".names"], np.dtype("u1"))
    if len(documents) != entry["documents"] or len(ids) != entry["tokens"] or int(documents["end"][-1]) != len(ids):
        raise MalmoiError(f"{folder / files['.documents'][0]}: does not fit the tokens beside it. Build it again.")
    if mask is not None and len(mask) != len(ids):
        raise MalmoiError(f"{folder / files['.mask'][0]}: does not fit the tokens beside it. Build it again.")
    return Shard(ids, documents, mask, folder / files[".names"][0])


def _map(folder: Path, name: str, facts: dict[str, Any], kind: np.dtype[Any]) -> np.ndarray:
    """Memory-map a file of the manifest's size, as a plain array: slicing a `numpy.memmap` itself is slow."""
    if Path(name).name != name:
        raise MalmoiError(f"{folder / MANIFEST}: names a file outside its folder: {name}.")
    path = folder / name
    try:
        size = path.stat().st_size
    except OSError:
        raise MalmoiError(f"{path}: is missing. Build the token file again.") from None
    if size != facts["size"] or size % kind.itemsize:
        raise MalmoiError(
            f"{path}: has {size} bytes, but {facts['size']} were written. It was cut off or changed; build it again."
        )
    if size == 0:
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, "r"))
