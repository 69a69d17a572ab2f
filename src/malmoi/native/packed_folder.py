"""A quantised model folder: written packed, opened by a memory map.

`model.safetensors` holds every matrix in the layout that the kernels read (`malmoi.native.packed`), under the model's
own name and a suffix: `….weight.int8` and `….weight.scales`, `….int4` and `….scales`, `….bfloat16`, `….float32`.
Matrices come first and begin at multiples of 64 bytes, so that the file can be used where it lies, by its memory map:
nothing is converted, and several processes share it. Copying it once into huge pages is faster for each token, and the
default. `config.json` says under `quantization_config` how the weights were rounded, the version of the layout, and the
model's settings in our own words, so that this path needs neither torch nor the configuration's class.

Format of the file: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError
from malmoi.native.description import Description, Tensor, describe, tensors
from malmoi.native.interface import Kind
from malmoi.native.packed import ALIGNMENT, LAYOUT_VERSION, STORED, Packed, aligned, packed_shape, scales_shape, settled

CONFIG, WEIGHTS = "config.json", "model.safetensors"
METHOD = "malmoi"  # quant_method
SCALES = ".scales"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_HEADER_LIMIT = 100_000_000  # the format's own
_TYPES = {
    "U8": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "F32": np.dtype(np.float32),
}
_NAMES = {Kind.FLOAT32: "F32", Kind.BFLOAT16: "BF16", Kind.INT8: "U8", Kind.INT4: "U8"}

Stored = Mapping[str, "Packed | NDArray[np.float32]"]  # by the names of `description.tensors`


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready for the engine: its sizes, each tensor's numbers, packed or plain, and the ids that begin, end and
    pad its texts (under `GenerationConfig`'s names)."""

    description: Description
    tensors: Stored
    ids: Mapping[str, Any] = field(default_factory=dict)

    def settled(self) -> Opened:
        """The same with all matrices copied into huge pages (`malmoi.native.packed.settled`)."""
        packed = {name: tensor for name, tensor in self.tensors.items() if isinstance(tensor, Packed)}
        arrays = [array for tensor in packed.values() for array in (tensor.data, tensor.scales) if array is not None]
        copies = iter(settled(arrays))
        moved = {
            name: Packed(tensor.kind, next(copies), None if tensor.scales is None else next(copies))
            for name, tensor in packed.items()
        }
        return Opened(self.description, {**self.tensors, **moved}, self.ids)


def suffix(kind: Kind) -> str:
    """What a packed tensor's name ends with."""
    return f".{kind.name.lower()}"


def is_quantised(folder: Path) -> bool:
    """Whether a folder's `config.json` says that it was written by `malmoi quantise`."""
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return said["quantization_config"]["quant_method"] == METHOD
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def write_weights(path: Path, tensors_by_name: Iterable[tuple[str, Packed | NDArray[np.float32]]]) -> None:
    """Write the tensors as one safetensors file. Raises `OSError` when the disk refuses."""
    parts: list[tuple[str, str, NDArray[np.generic]]] = []
    for name, tensor in tensors_by_name:
        if isinstance(tensor, Packed):
            parts.append((name + suffix(tensor.kind), _NAMES[tensor.kind], tensor.data))
            if tensor.scales is not None:
                parts.append((name + SCALES, "F16" if tensor.scales.dtype == np.float16 else "F32", tensor.scales))
        else:
            parts.append((name, "F32", tensor.astype(np.float32, copy=False)))
    parts.sort(key=lambda part: (part[2].nbytes % ALIGNMENT != 0, part[2].nbytes % 4 != 0))  # stable: whole lines first
    header: dict[str, Any] = {"__metadata__": {"format": METHOD, "layout_version": str(LAYOUT_VERSION)}}
    end = 0
    for name, kind, array in parts:
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, _, array in parts:
            file.write(np.ascontiguousarray(array).data)


def open_folder(folder: Path) -> Opened:
    """Map a quantised folder's weights and say what they are.

    Raises `MalmoiError` for a folder that is not quantised, of another layout, or whose file does not hold what its
    settings ask for.
    """
    said = _config(folder)
    version = said.get("layout_version")
    if version != LAYOUT_VERSION:
        raise MalmoiError(
            f"{folder}: was quantised with layout {version!r}, but this Malmoi reads layout {LAYOUT_VERSION}. Quantise "
            f"the original model again: malmoi quantise FOLDER"
        )
    try:
        description = describe(said["model"], float(said["rotary_factor"]))
    except MalmoiError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalmoiError(f"{folder / CONFIG}: quantization_config makes no sense: {error}.") from None
    path = folder / WEIGHTS
    held = _map(path)
    found: dict[str, Packed | NDArray[np.float32]] = {}
    for tensor in tensors(description):
        found[tensor.name] = _take(path, held, tensor)
    if held:
        raise MalmoiError(f"{path}: holds tensors that such a model does not have: {', '.join(sorted(held)[:5])}.")
    return Opened(description, found, {name: said["model"].get(name) for name in _IDS})


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        settings = said.get("quantization_config")
    except FileNotFoundError:
        raise MalmoiError(f"{folder}: there is no {CONFIG}, so this is not a model folder.") from None
    except OSError as error:
        raise MalmoiError(f"{folder / CONFIG}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError, AttributeError):
        raise MalmoiError(f"{folder / CONFIG}: is not a JSON object. The file is damaged or cut short.") from None
    if not isinstance(settings, dict) or settings.get("quant_method") != METHOD:
        raise MalmoiError(f"{folder}: is not quantised by Malmoi. To do that: malmoi quantise {folder} --to int8")
    return settings


def _map(path: Path) -> dict[str, NDArray[np.generic]]:
    """Every tensor of a file as an array in its memory map, once the header agrees with the file's size."""
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file.") from None
    except (OSError, ValueError) as error:
        raise MalmoiError(f"{path}: cannot be mapped: {error}. The file is empty or damaged.") from None
    length = int.from_bytes(memory[:8], "little")
    if len(memory) < 8 or length > min(len(memory) - 8, _HEADER_LIMIT):
        raise MalmoiError(f"{path}: is cut short or not a safetensors file. Quantise the model again.")
    try:
        header = json.loads(memory[8 : 8 + length])
        header.pop("__metadata__", None)
        entries = {name: (_TYPES[entry["dtype"]], tuple(entry["shape"])) for name, entry in header.items()}
        spans = {name: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise MalmoiError(
            f"{path}: its header makes no sense. The file is damaged; quantise the model again."
        ) from None
    found: dict[str, NDArray[np.generic]] = {}
    data = 8 + length
    for name, (dtype, shape) in entries.items():
        begin, end = spans[name]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        size = 1
        for number in shape if whole else ():
            size *= number
        if not whole or end - begin != size * dtype.itemsize or data + end > len(memory):
            raise MalmoiError(
                f"{path}: tensor '{name}' cannot lie where the header says. The file is cut short or has been "
                f"tampered with; quantise the model again."
            )
        found[name] = np.frombuffer(memory, np.uint8, end - begin, data + begin).view(dtype).reshape(shape)
    return found


def _take(path: Path, held: dict[str, NDArray[np.generic]], tensor: Tensor) -> Packed | NDArray[np.float32]:
    """One tensor out of what the file holds, of the type and shape that its place in the model asks for."""

    def array(name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
        found = held.pop(name, None)
        if found is None:
            raise MalmoiError(f"{path}: tensor '{name}' is missing. Quantise the model again.")
        if found.dtype != dtype or found.shape != shape:
            raise MalmoiError(
                f"{path}: tensor '{name}' is {found.dtype} of shape {list(found.shape)}, but {np.dtype(dtype)} of "
                f"shape {list(shape)} is needed. Quantise the model again."
            )
        if found.ctypes.data % ALIGNMENT == 0:
            return found
        copy = aligned(found.shape, dtype)  # a file that another program wrote
        copy[...] = found
        return copy

    if tensor.form == "vector":
        return array(tensor.name, np.float32, tensor.shape)
    kinds = [kind for kind in Kind if tensor.name + suffix(kind) in held]
    if len(kinds) != 1:
        raise MalmoiError(f"{path}: tensor '{tensor.name}' must be there once, but is there {len(kinds)} times.")
    kind, scales = kinds[0], scales_shape(kinds[0], tensor.shape)
    data = array(tensor.name + suffix(kind), STORED[kind], packed_shape(kind, tensor.shape))
    if scales is None:
        return Packed(kind, data)
    number = np.float32 if kind == Kind.INT8 else np.float16
    return Packed(kind, data, array(tensor.name + SCALES, number, scales))
