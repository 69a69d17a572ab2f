"""How weights lie in memory and in a file: in the order in which the kernels read them.

A matrix (N outputs, K inputs) is cut into blocks of sixteen outputs, as many as a register holds; within a block, the
inputs follow each other, and for each step of inputs the sixteen outputs' weights stand together, so that one load
brings one step of sixteen sums:

    float32    [N/16][K][16]         one input a step
    bfloat16   [N/16][K/2][16][2]    two
    int8       [N/16][K/4][16][4]    four, as weight + 128 in a byte; a float32 scale for each output
    int4       [N/16][K/8][16][4]    eight: a byte's lower half is input 8s + j, its upper half 8s + 4 + j, both + 8;
                                     a float16 scale for each output and group of 64 inputs, [N/16][K/64][16]

N is padded to 16, K to 2 (floats) or 64 (whole numbers), with zeros. Experts come one after another.

N outputs, K inputs, E experts
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from malmoi.native.interface import Kind

LANES, GROUP, ALIGNMENT = 16, 64, 64
LAYOUT_VERSION = 1
_HUGE_PAGE = 2**21
STEP: Mapping[Kind, int] = {Kind.FLOAT32: 1, Kind.BFLOAT16: 2, Kind.INT8: 4, Kind.INT4: 8}
STORED: Mapping[Kind, type[np.generic]] = {
    Kind.FLOAT32: np.float32,
    Kind.BFLOAT16: np.uint16,
    Kind.INT8: np.uint8,
    Kind.INT4: np.uint8,
}


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed matrix: `data` begins at a multiple of 64 bytes; `scales` where the kind has them."""

    kind: Kind
    data: NDArray[np.generic]
    scales: NDArray[np.generic] | None = None


def up_to(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def packed_shape(kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored shape of a matrix (N, K) or of experts (E, N, K)."""
    *many, N, K = shape
    whole = kind in (Kind.INT8, Kind.INT4)
    blocks, steps = up_to(N, LANES) // LANES, up_to(K, GROUP if whole else 2) // STEP[kind]
    inner = {Kind.FLOAT32: (), Kind.BFLOAT16: (2,), Kind.INT8: (4,), Kind.INT4: (4,)}[kind]
    return (*many, blocks, steps, LANES, *inner)


def scales_shape(kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The stored shape of a matrix's scales, or None for a kind without."""
    *many, N, K = shape
    if kind == Kind.INT8:
        return (*many, up_to(N, LANES))
    if kind == Kind.INT4:
        return (*many, up_to(N, LANES) // LANES, up_to(K, GROUP) // GROUP, LANES)
    return None


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[np.generic]:
    """An array that begins at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def settled(arrays: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Copies of the arrays in one piece of memory, each at a cache line, in huge pages where the system has them.

    A decoding step reads all weights once. From pages of 4 kB, as in a file's map, a core reads little more than half
    as fast as from pages of 2 MB: most of the rest of the time it looks up where the next page lies.
    """
    offsets, end = [], 0
    for array in arrays:
        offsets.append(end)
        end = up_to(end + array.nbytes, ALIGNMENT)
    memory = mmap.mmap(-1, max(up_to(end, _HUGE_PAGE), _HUGE_PAGE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a wish: a kernel may be built without
            memory.madvise(mmap.MADV_HUGEPAGE)
    copies = []
    for array, offset in zip(arrays, offsets, strict=True):
        copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
    return copies


def pack(kind: Kind, numbers: NDArray[np.generic], scales: NDArray[np.floating] | None = None) -> Packed:
    """Lay out a matrix (N, K), or experts (E, N, K).

    `numbers` are float32 for FLOAT32 and BFLOAT16 (rounded to the nearest), signed whole numbers for INT8 (at most 127)
    and INT4 (-8 to 7), whose `scales` are (N,) and (N, groups), after (E,) where there are experts.
    """
    if numbers.ndim == 3:
        data = aligned(packed_shape(kind, numbers.shape), STORED[kind])
        parts = [pack(kind, one, None if scales is None else scales[e]) for e, one in enumerate(numbers)]
        for e, part in enumerate(parts):
            data[e] = part.data
        held = [part.scales for part in parts if part.scales is not None]
        return Packed(kind, data, np.stack(held) if held else None)
    N, K = numbers.shape
    data = aligned(packed_shape(kind, (N, K)), STORED[kind])
    rows, columns = data.shape[0] * LANES, data.shape[1] * STEP[kind]
    full = np.zeros((rows, columns), numbers.dtype)
    full[:N, :K] = numbers
    steps = full.reshape(rows // LANES, LANES, -1, STEP[kind]).transpose(0, 2, 1, 3)  # (N/16, K/step, 16, step)
    match kind:
        case Kind.FLOAT32:
            data[...] = steps[..., 0]
        case Kind.BFLOAT16:
            data[...] = to_bfloat16(np.ascontiguousarray(steps))
        case Kind.INT8:
            data[...] = (steps.astype(np.int16) + 128).astype(np.uint8)
        case Kind.INT4:
            halves = (steps.astype(np.int8) + 8).astype(np.uint8)
            data[...] = halves[..., :4] | halves[..., 4:] << 4
    return Packed(kind, data, None if scales is None else _packed_scales(kind, (N, K), scales))


def _packed_scales(kind: Kind, shape: tuple[int, int], scales: NDArray[np.floating]) -> NDArray[np.generic]:
    if kind == Kind.INT8:
        full = np.zeros(up_to(shape[0], LANES), np.float32)
        full[: shape[0]] = scales
        return full
    groups = up_to(shape[1], GROUP) // GROUP
    halves = np.zeros((up_to(shape[0], LANES), groups), np.float16)
    halves[: shape[0]] = scales
    return np.ascontiguousarray(halves.reshape(-1, LANES, groups).transpose(0, 2, 1))


def unpack(packed: Packed, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers that a packed matrix stands for, (N, K) or (E, N, K), as float32."""
    if len(shape) == 3:
        scales = packed.scales
        return np.stack(
            [
                unpack(Packed(packed.kind, packed.data[e], None if scales is None else scales[e]), shape[1:])
                for e in range(shape[0])
            ]
        )
    N, K = shape
    data, kind = packed.data, packed.kind
    match kind:
        case Kind.FLOAT32:
            steps = data[..., None].astype(np.float32)
        case Kind.BFLOAT16:
            steps = from_bfloat16(data)
        case Kind.INT8:
            steps = data.astype(np.float32) - 128
        case Kind.INT4:
            steps = np.concatenate((data & np.uint8(15), data >> np.uint8(4)), axis=-1).astype(np.float32) - 8
    full = steps.transpose(0, 2, 1, 3).reshape(data.shape[0] * LANES, -1)
    if packed.scales is not None and kind == Kind.INT8:
        full = full * packed.scales.astype(np.float32)[:, None]
    elif packed.scales is not None:
        scales = packed.scales.astype(np.float32).transpose(0, 2, 1).reshape(full.shape[0], -1)
        full = full * scales.repeat(GROUP, axis=1)
    return full[:N, :K]


def to_bfloat16(x: NDArray[np.generic]) -> NDArray[np.uint16]:
    """float32 to the upper half of its bits, rounded to the nearest, ties to even."""
    bits = x.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """bfloat16 bits to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
