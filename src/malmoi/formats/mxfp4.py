"""MXFP4: four bits a weight, and one shared exponent for every 32 of them. The form in which gpt-oss was published.

A 4-bit number has a sign, two bits of exponent and one of mantissa (E2M1): 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
negatives. That is coarse, but 32 neighbours share one power of two (E8M0: a byte, 127 stands for 2^0), so that each
block of a matrix has the range it needs: 4.25 bits a weight. Every such number is exact in bfloat16 and float32, so
decoding loses nothing.

In a folder a matrix "x" of experts is two tensors of bytes: `x_blocks` (E, out, in/32, 16), two numbers a byte, the
first in the low half, and `x_scales` (E, out, in/32).
Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3, 5.4.1 and 6.3; gpt-oss model card, section 2.1.

E experts
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from malmoi.config import MalmoiError
from malmoi.formats.weights import Entry

BLOCK = 32  # numbers that share an exponent
BLOCKS, SCALES = "_blocks", "_scales"
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the low three bits; the fourth is the sign
_BIAS, _NAN = 127, 255
_LARGEST_EXPONENT = 2  # of 4.0 and 6.0


def _pairs(dtype: torch.dtype) -> torch.Tensor:
    """(256, 2): the two numbers that each byte holds."""
    values = torch.tensor([*_MAGNITUDES, *(-x for x in _MAGNITUDES)], dtype=dtype)
    byte = torch.arange(256)
    return torch.stack((values[byte & 15], values[byte >> 4]), dim=1)


def decode(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bytes (..., blocks, 16) and their exponents (..., blocks) as numbers (..., 32 * blocks).

    A block whose exponent is the code for NaN comes out as NaN. float16 cannot hold every exponent; the others can.
    """
    numbers = _pairs(dtype)[blocks.int()]  # (..., blocks, 16, 2)
    powers = torch.tensor([*(2.0 ** (code - _BIAS) for code in range(_NAN)), torch.nan], dtype=dtype)
    return numbers.mul_(powers[scales.int()][..., None, None]).flatten(-3)


def encode(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers (..., 32 * n) as bytes (..., n, 16) and exponents (..., n).

    The exponent is that of a block's largest number, less 2 (the largest that E2M1 has itself); each number then goes
    to its nearest neighbour, of two equally near to the one whose last bit is 0, and what is beyond 6 to 6. Numbers
    that were decoded come back bit for bit. Raises `ValueError` where the last dimension is no multiple of 32.
    """
    if numbers.shape[-1] % BLOCK:
        raise ValueError(f"MXFP4 needs a multiple of {BLOCK} numbers in a row, not {numbers.shape[-1]}.")
    grouped = numbers.float().contiguous().unflatten(-1, (-1, BLOCK))  # (..., n, 32)
    largest = grouped.abs().amax(dim=-1)
    exponent = torch.frexp(largest).exponent - 1 - _LARGEST_EXPONENT  # frexp's mantissa lies in [0.5, 1)
    exponent = exponent.clamp(-_BIAS, _NAN - 1 - _BIAS).masked_fill_(largest == 0, 0)
    scaled = torch.ldexp(grouped, -exponent[..., None])
    # halfway between neighbours: bucketize goes down there, which is right where that code is even
    between = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(_MAGNITUDES)])
    size = scaled.abs()
    code = torch.bucketize(size, between)
    code += (code % 2 == 1) & (size == between[code.clamp(max=len(between) - 1)])
    code = (code + 8 * scaled.signbit()).to(torch.uint8)
    return code[..., 0::2] | code[..., 1::2] << 4, (exponent + _BIAS).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Packed:
    """A stored pair of blocks and scales, read as the matrices (E, in, out) that the family names."""

    blocks: Entry
    scales: Entry

    @classmethod
    def of(cls, name: str, blocks: Entry, scales: Entry) -> Packed:
        """The pair of a matrix; raises `MalmoiError` where the two do not fit each other."""
        if (
            blocks.shape != (*scales.shape, BLOCK // 2)
            or len(scales.shape) != 3
            or {blocks.dtype, scales.dtype} != {"U8"}
        ):
            raise MalmoiError(
                f"{blocks.file}: '{name}' is packed as {blocks.dtype} {list(blocks.shape)} with scales {scales.dtype} "
                f"{list(scales.shape)}, but MXFP4 blocks are U8 (experts, out, in / {BLOCK}, {BLOCK // 2}) and their "
                f"scales U8 (experts, out, in / {BLOCK})."
            )
        return cls(blocks, scales)

    @property
    def file(self) -> Path:
        return self.blocks.file

    @property
    def shape(self) -> tuple[int, ...]:
        experts, out, groups, _ = self.blocks.shape
        return experts, groups * BLOCK, out

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * 16  # a number: 4 bytes decoded, 6 of its code as an index, 4 to check it

    def rows(self, chosen: slice) -> torch.Tensor:
        """The matrices of some experts, decoded to float32."""
        return decode(self.blocks.rows(chosen), self.scales.rows(chosen)).transpose(1, 2)
