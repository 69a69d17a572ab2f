"""Tensors on the disk: safetensors files, read with distrust and written with care.

A safetensors file is eight bytes (the header's length), a JSON header (each tensor's type, shape and place) and the
numbers. The header is held against the file's size before anything is allocated, so that a file that was cut short, or
one that lies about itself, is refused at once and by name. The numbers are then read through a memory map.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from malmoi.config import MalmoiError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # the format's own
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def catalogue(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder's safetensors files (one, or shards named by an index), checked against the file sizes.

    Raises `MalmoiError` for a missing, truncated or tampered file.
    """
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" ({', '.join(others)} may run code when opened and is not read)" if others else ""
        raise MalmoiError(f"{folder}: holds neither {SINGLE} nor {INDEX}, so there are no weights to load{hint}.")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): str(file) for name, file in index.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise MalmoiError(f"{folder / INDEX}: is not an index of weight files (JSON with a weight_map).") from None
    entries: dict[str, Entry] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise MalmoiError(f"{folder / INDEX}: names '{file}', which lies outside the folder.")
        entries |= read_header(folder / file)
    absent = sorted(set(places) - set(entries))
    if absent:
        raise MalmoiError(f"{folder / INDEX}: names tensors that no file holds: {listed(absent)}.")
    return entries


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors that a safetensors file says it holds; refuses a file whose numbers cannot be where it says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise MalmoiError(
                    f"{path}: is cut short or not a safetensors file: its header claims {length:,} bytes, but the "
                    f"whole file has {size:,}. Take it again from where it came."
                )
            header = json.loads(file.read(length).decode("utf-8"))
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, MalmoiError):
            raise
        raise MalmoiError(f"{path}: its header is not valid JSON. The file is damaged; take it again.") from None
    if not isinstance(header, dict):
        raise MalmoiError(f"{path}: its header is not a JSON object. The file is damaged; take it again.")
    header.pop("__metadata__", None)
    spans = sorted((_span(path, name, fields), name) for name, fields in header.items())
    end = 0
    for (begin, stop), name in spans:
        if begin != end:
            raise MalmoiError(f"{path}: tensor '{name}' begins at byte {begin:,} of the data, but {end:,} is next.")
        end = stop
    if 8 + length + end != size:
        raise MalmoiError(
            f"{path}: is cut short or has been tampered with: its tensors end at byte {8 + length + end:,}, but the "
            f"file has {size:,} bytes. Take it again from where it came."
        )
    return {name: Entry(path, fields["dtype"], tuple(fields["shape"])) for name, fields in header.items()}


def _span(path: Path, name: str, fields: Any) -> tuple[int, int]:
    """Where a tensor's bytes lie, once its type, shape and place agree with each other."""
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
        dtype, shape, begin, end = "", (), 0, 0
    if not whole:
        raise MalmoiError(f"{path}: the header's entry for tensor '{name}' makes no sense. The file is damaged.")
    if dtype not in _BYTES:
        # masks and other integers may lie beside the weights; their size is known to the library that reads them
        return begin, end
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise MalmoiError(
            f"{path}: tensor '{name}' of shape {list(shape)} in {dtype} needs {math.prod(shape) * _BYTES[dtype]:,} "
            f"bytes, but the header gives it {end - begin:,}. The file has been tampered with."
        )
    return begin, end


def read(entries: Mapping[str, Entry], name: str) -> torch.Tensor:
    """One tensor, copied out of the memory map, with NaN and infinity refused.

    The copy aligns the numbers and lets the file be replaced while the model lives (on Windows a mapped one cannot).
    """
    entry = entries[name]
    if entry.dtype not in _BYTES:
        raise MalmoiError(f"{entry.file}: tensor '{name}' has type {entry.dtype}; weights are {', '.join(_BYTES)}.")
    try:
        with safe_open(str(entry.file), framework="pt") as file:
            tensor = file.get_tensor(name).clone()
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise MalmoiError(f"{entry.file}: tensor '{name}' cannot be read: {error}.") from None
    if not bool(tensor.isfinite().all()):
        wrong = int((~tensor.isfinite()).sum())
        raise MalmoiError(
            f"{entry.file}: tensor '{name}' holds {wrong:,} values that are not finite (NaN or infinity). The training "
            f"run that wrote it had diverged; take an earlier checkpoint."
        )
    return tensor


def write(tensors: Mapping[str, torch.Tensor], folder: Path, shard_bytes: int = 5_000_000_000) -> list[Path]:
    """Write tensors as one safetensors file, or as shards of at most `shard_bytes` with an index; returns the files.

    Raises `OSError` or `SafetensorError` when the disk refuses.
    """
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor.detach().to("cpu").contiguous()
        filled += size
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(names, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    written = [folder / file for file in names]
    if count > 1:
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        written.append(folder / INDEX)
    return written


def listed(names: list[str], most: int = 5) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
