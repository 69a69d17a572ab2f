"""A model in the native engine: open it, run steps, share the blocks of its cache.

A step takes rows. A row is one token of one sequence at one position; a call may mix the 500 rows of a prompt, the
single next token of twenty conversations, and four guessed tokens of another to be checked. For every row that is
wanted it gives the logits of what comes next.

Keys and values of the past lie in blocks of 32 positions. The caller says by a block table which blocks are whose, so
that sequences with a common beginning can share its blocks, and hands out free ones; `copy_block` makes a private copy
of a block that one of its sharers is about to write to.

What a row's logits are depends on its sequence alone: not on the other rows, on how the sequence was cut into calls, on
the number of threads, or on the instruction set. Bit for bit.

R rows, S sequences, W wanted rows, V vocabulary
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.native.description import tensors
from malmoi.native.interface import (
    BLOCK_SIZE,
    ROLES,
    SHAPE_COUNTS,
    SHAPE_SWITCHES,
    VERSION,
    BatchStruct,
    Kind,
    ShapeStruct,
    TensorStruct,
)
from malmoi.native.library import INSTRUCTIONS, check, load
from malmoi.native.packed import Packed, up_to
from malmoi.native.packed_folder import Opened, open_folder

if TYPE_CHECKING:
    from types import TracebackType

    from malmoi.model.gpt import GPT4LMHeadModel

_MOST_THREADS = 1024


class NativeModel:
    """A model and a cache of `num_blocks` blocks in the native engine: a `Backend` of the generation engine.

    Make one with `open` (a quantised folder) or `from_model`. `threads` None: every core that this process may use.
    `instructions` None: the best set that this CPU has (or the one that MALMOI_NATIVE_INSTRUCTIONS names).
    `num_blocks` None: enough for four sequences of the model's full length. Memory for the cache is taken as it is
    first written to.
    """

    batch_invariant = True  # a row's logits are the same bits whatever else is in the call

    def __init__(
        self,
        opened: Opened,
        num_blocks: int | None = None,
        threads: int | None = None,
        instructions: str | None = None,
    ) -> None:
        self._model, self._cache = ctypes.c_void_p(), ctypes.c_void_p()
        self._library = load()
        self.generation_config = GenerationConfig()  # the model's own settings
        self.description, self._held = opened.description, opened.tensors  # the engine reads the weights in place
        self.threads = _threads(threads)
        wanted = instructions or os.environ.get(INSTRUCTIONS)
        shape, windows = _shape(opened)
        structs = _tensors(opened)
        check(
            self._library.malmoi_open(
                ctypes.byref(shape),
                structs,
                len(structs),
                wanted.encode() if wanted else None,
                ctypes.byref(self._model),
            ),
            "The native engine cannot open the model",
        )
        del windows
        blocks = 4 * up_to(self.max_position, BLOCK_SIZE) // BLOCK_SIZE if num_blocks is None else num_blocks
        self.num_blocks = blocks
        check(
            self._library.malmoi_cache_open(self._model, _whole("num_blocks", blocks), ctypes.byref(self._cache)),
            f"The native engine cannot make a cache of {blocks} blocks",
        )

    @classmethod
    def open(
        cls,
        folder: str | Path,
        num_blocks: int | None = None,
        threads: int | None = None,
        instructions: str | None = None,
        mapped: bool = False,
    ) -> NativeModel:
        """The model of a folder written by `malmoi quantise`; torch is not needed and not imported.

        `mapped` reads the weights from the file's memory map: no copy, shared with other processes, and slower for
        each token than the copy in huge pages that is made otherwise.
        """
        from malmoi.formats.folder import read_generation

        folder = Path(folder).expanduser()
        opened = open_folder(folder)
        made = cls(opened if mapped else opened.settled(), num_blocks, threads, instructions)
        made.generation_config = read_generation(folder, GenerationConfig(**opened.ids))
        return made

    @classmethod
    def from_model(
        cls,
        model: GPT4LMHeadModel,
        to: str = "bfloat16",
        head: str | None = None,
        num_blocks: int | None = None,
        threads: int | None = None,
        instructions: str | None = None,
    ) -> NativeModel:
        """A torch model in the engine, its matrices as `to` (float32, bfloat16, int8, int4), the head's as `head`.

        Raises `UnsupportedModelError` for a model that the engine does not compute: use torch for it.
        """
        from malmoi.native.prepare import prepare

        made = cls(prepare(model, to, head).settled(), num_blocks, threads, instructions)
        made.generation_config = model.generation_config
        return made

    @property
    def vocab_size(self) -> int:
        return self.description["vocabulary"]

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    @property
    def max_position(self) -> int:
        return self.description["positions"]

    @property
    def instructions(self) -> str:
        """The instruction set in use."""
        return self._library.malmoi_instructions_of(self._model).decode()

    @property
    def engine(self) -> str:
        """In a few words what computes: the weights' numbers, the instruction set, the threads."""
        kinds = Counter(tensor.kind for tensor in self._held.values() if isinstance(tensor, Packed))
        return f"native, {kinds.most_common(1)[0][0].name.lower()}, {self.instructions}, {self.threads} threads"

    @property
    def cache_bytes(self) -> int:
        """The memory that the cache takes once all of it has been used."""
        return self._library.malmoi_cache_bytes(self._model, self.num_blocks)

    @property
    def weight_bytes(self) -> int:
        """What is read for one token of one sequence: all weights once, but of the embedding only the head's use."""
        total = 0
        for tensor in self._held.values():
            arrays = (tensor.data, tensor.scales) if isinstance(tensor, Packed) else (tensor,)
            total += sum(array.nbytes for array in arrays if array is not None)
        return total

    def step(
        self, tokens: ArrayLike, positions: ArrayLike, sequences: ArrayLike, block_tables: ArrayLike, wanted: ArrayLike
    ) -> NDArray[np.float32]:
        """Run R rows through the network, write their keys and values, and return logits (W, V).

        `tokens`, `positions`, `sequences` (R,): what, where, and whose; a sequence is a row of `block_tables` (S,
        blocks), whose entry i names the block for positions 32i to 32i + 31. `wanted` (W,): rows whose logits are
        given. Rows of one sequence stand in ascending position; each sees all positions up to its own, those of the
        same call included. Raises `NativeError` for a batch that makes no sense (nothing is then written), or when
        NaN or infinity came up.
        """
        if not self._cache:
            raise MalmoiError("The native model has been closed.")
        rows = [_array(name, given, 1) for name, given in (("tokens", tokens), ("positions", positions))]
        rows += [_array("sequences", sequences, 1)]
        tables, chosen = _array("block_tables", block_tables, 2), _array("wanted", wanted, 1)
        if len({len(array) for array in rows}) != 1:
            raise MalmoiError(f"tokens, positions and sequences must be equally many, not {[len(a) for a in rows]}.")
        logits = np.empty((len(chosen), self.vocab_size), np.float32)
        batch = BatchStruct(VERSION, ctypes.sizeof(BatchStruct))
        batch.rows, batch.wanted = len(rows[0]), len(chosen)
        batch.sequences, batch.table_width = tables.shape
        batch.tokens, batch.positions, batch.sequence = (array.ctypes.data for array in rows)
        batch.tables, batch.wanted_rows = tables.ctypes.data, chosen.ctypes.data
        batch.logits, batch.logits_size = logits.ctypes.data, logits.size
        batch.threads = self.threads
        check(self._library.malmoi_step(self._model, self._cache, ctypes.byref(batch)), "The step cannot be run")
        return logits

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of a block, in all layers."""
        if not self._cache:
            raise MalmoiError("The native model has been closed.")
        status = self._library.malmoi_cache_copy(self._cache, _whole("source", source), _whole("target", target))
        check(status, "The block cannot be copied")

    def close(self) -> None:
        """Give back the engine's memory and threads; also done when the object is collected."""
        if self._cache:
            self._library.malmoi_cache_close(self._cache)
        if self._model:
            self._library.malmoi_close(self._model)
        self._model, self._cache = ctypes.c_void_p(), ctypes.c_void_p()

    def __enter__(self) -> NativeModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_library"):
            self.close()


def _threads(wanted: int | None) -> int:
    if wanted is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(available, _MOST_THREADS)
    if not 1 <= wanted <= _MOST_THREADS:
        raise MalmoiError(f"threads={wanted} must be from 1 to {_MOST_THREADS}.")
    return wanted


def _whole(name: str, number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise MalmoiError(f"{name}={number} is out of range.")
    return int(number)


def _array(name: str, given: ArrayLike, dimensions: int) -> NDArray[np.int32]:
    """Whole numbers as the engine reads them; numbers that do not fit are refused and never cut."""
    array = np.asarray(given)
    if array.ndim != dimensions or (array.size and array.dtype.kind not in "iu"):
        raise MalmoiError(
            f"{name} must be whole numbers in {dimensions} dimension(s), not {array.dtype} {array.shape}."
        )
    if array.dtype == np.int32:  # as the generation engine gives them: nothing to look through for each token
        return np.ascontiguousarray(array)
    if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise MalmoiError(f"{name} holds numbers that do not fit into 32 bits.")
    return np.ascontiguousarray(array, np.int32)


def _shape(opened: Opened) -> tuple[ShapeStruct, Any]:
    values, windows = opened.description.values, opened.description.windows
    shape = ShapeStruct(VERSION, ctypes.sizeof(ShapeStruct))
    whole = {*SHAPE_COUNTS, *SHAPE_SWITCHES}
    for name, value in values.items():
        setattr(shape, name, _whole(name, int(value)) if name in whole else value)
    held = (ctypes.c_int64 * max(len(windows), 1))(*windows)
    shape.windows = ctypes.cast(held, ctypes.POINTER(ctypes.c_int64))
    return shape, held


def _tensors(opened: Opened) -> Any:
    described = list(tensors(opened.description))
    structs = (TensorStruct * len(described))()
    for struct, tensor in zip(structs, described, strict=True):
        stored = opened.tensors[tensor.name]
        struct.role, struct.layer = ROLES.index(tensor.role), tensor.layer
        packed = stored if isinstance(stored, Packed) else Packed(Kind.FLOAT32, stored)
        struct.kind = packed.kind
        struct.data, struct.bytes = packed.data.ctypes.data, packed.data.nbytes
        if packed.scales is not None:
            struct.scales, struct.scale_bytes = packed.scales.ctypes.data, packed.scales.nbytes
    return structs
