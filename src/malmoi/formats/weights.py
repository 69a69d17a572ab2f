"""Tensors on the disk: safetensors files, read with distrust and written with care.

A safetensors file is eight bytes (the header's length), a JSON header (each tensor's type, shape and place) and the
numbers. The header is held against the file's size before anything is allocated, so that a file that was cut short, or
one that lies about itself, is refused at once and by name. The numbers are then read through a memory map that covers a
few rows at a time, so that a model is never held twice.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from malmoi.config import MalmoiError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # the format's own
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORED = {**DTYPES, "U8": torch.uint8}  # bytes hold packed numbers (`malmoi.formats.mxfp4`)
_WINDOW = 16 * 2**20  # bytes of a file that are looked at together


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int  # its first byte in the file

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * _STORED[self.dtype].itemsize

    def rows(self, chosen: slice) -> torch.Tensor:
        """Some rows, still in the memory map (where they lie on a multiple of their size: else a copy)."""
        dtype, row = _STORED[self.dtype], self.row_bytes
        shape, begin = (chosen.stop - chosen.start, *self.shape[1:]), self.begin + chosen.start * row
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        try:
            mapped = np.memmap(self.file, dtype=np.uint8, mode="c", offset=begin, shape=(shape[0] * row,))
        except (OSError, ValueError) as error:
            raise MalmoiError(f"{self.file}: cannot be read: {error}.") from None
        aligned = mapped if begin % dtype.itemsize == 0 else mapped.copy()
        return torch.from_numpy(aligned).view(dtype).view(shape)


def catalogue(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder's safetensors files (one, or shards named by an index), checked against the file sizes.

    Raises `MalmoiError` for a missing, truncated or tampered file.
    """
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise MalmoiError(
            f"{folder}: holds neither {SINGLE} nor {INDEX}, so there are no weights to load.{_hint(folder)}"
        )
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


def _hint(folder: Path) -> str:
    """What to do with a folder that holds weights in another form."""
    pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")))
    if pickles:
        where = folder.as_posix()
        return (
            f" {listed(pickles)} may run code when opened and is not read. If you trust where it is from, let "
            f'transformers write {SINGLE} beside it, once: python -c "from transformers import AutoModelForCausalLM as '
            f"M; M.from_pretrained('{where}', dtype='auto').save_pretrained('{where}')\""
        )
    if any(folder.glob("*.gguf")):
        return " It holds a GGUF file: those are for llama.cpp; open the folder that the file was made from."
    return ""


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
    return {
        name: Entry(path, fields["dtype"], tuple(fields["shape"]), 8 + length + fields["data_offsets"][0])
        for name, fields in header.items()
    }


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
    if dtype not in _STORED:
        # masks and other integers may lie beside the weights; their size is known to the library that reads them
        return begin, end
    needed = math.prod(shape) * _STORED[dtype].itemsize
    if end - begin != needed:
        raise MalmoiError(
            f"{path}: tensor '{name}' of shape {list(shape)} in {dtype} needs {needed:,} bytes, but the header "
            f"gives it {end - begin:,}. The file has been tampered with."
        )
    return begin, end


class Source(Protocol):
    """Something that gives a tensor's rows (its first dimension) piece by piece."""

    @property
    def file(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def row_bytes(self) -> int:
        """How much memory reading one row needs."""
        ...

    def rows(self, chosen: slice) -> torch.Tensor:
        """Rows `chosen.start` to `chosen.stop`, to be copied at once: they may lie in the memory map."""
        ...


def pour(source: Source, name: str, views: Sequence[tuple[tuple[slice, ...], torch.Tensor]], axis: int) -> None:
    """Copy a stored tensor into its places, some rows at a time; NaN and infinity are refused.

    `views` are pairs of a part of the stored tensor and the place for it, which may be of another type and layout;
    several parts lie beside each other along dimension `axis`. What was copied outlives the file.
    """
    whole = axis == 0 and len(views) > 1
    count = source.shape[0]
    step = max(count if whole else _WINDOW // max(source.row_bytes, 1), 1)
    for start in range(0, count, step):
        chosen = slice(start, min(start + step, count))
        part = source.rows(chosen)
        _check_numbers(source, name, part, views[0][1].dtype)
        for index, view in views:
            (view if whole else view[chosen]).copy_(part[index])


def _check_numbers(source: Source, name: str, part: torch.Tensor, target: torch.dtype) -> None:
    """Refuse what is no number. The smallest and the largest tell: looking at them needs no memory."""
    if part.numel() == 0:
        return
    lowest, highest = (float(value) for value in part.aminmax())
    if not math.isfinite(lowest) or not math.isfinite(highest):
        wrong = part.numel() - int(part.isfinite().sum())
        raise MalmoiError(
            f"{source.file}: tensor '{name}' holds {wrong:,} values that are not finite (NaN or infinity). The "
            f"training run that wrote it had diverged; take an earlier checkpoint."
        )
    if max(-lowest, highest) > torch.finfo(target).max:
        raise MalmoiError(
            f"{source.file}: tensor '{name}' holds {max(-lowest, highest):.4g}, which is more than "
            f"{str(target).removeprefix('torch.')} can hold. Open the model in bfloat16 or float32."
        )


def write(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, shard_bytes: int = 5_000_000_000) -> list[Path]:
    """Write tensors as one safetensors file, or as shards of at most `shard_bytes` with an index; returns the files.

    The tensors are asked for one after another and let go with their shard, so that ones which have to be made first
    need no more room than a shard. Raises `OSError` or `SafetensorError` when the disk refuses.
    """
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    total = filled = 0

    def put_down() -> None:
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if held and filled + size > shard_bytes:
            put_down()
            filled = 0
        held[name] = tensor.detach().to("cpu").contiguous()
        filled, total = filled + size, total + size
    put_down()
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for number, file in enumerate(names):
        (folder / f"shard-{number}").rename(folder / file)
    written = [folder / file for file in names]
    if count > 1:
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        written.append(folder / INDEX)
    return written


def listed(names: list[str], most: int = 5) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
