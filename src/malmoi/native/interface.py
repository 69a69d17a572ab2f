"""The C interface as Python sees it: the structs and numbers of `engine/malmoi.h`, field by field.

`VERSION` and the structs' sizes are passed with every call and checked on the other side, so that a library of another
version is refused and never misread.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import Any

VERSION = 1
BLOCK_SIZE = 32  # positions in a block of the cache


class Kind(IntEnum):
    """How the numbers of a matrix are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    INT4 = 3


class Status(IntEnum):
    """What a call returns."""

    OK = 0
    BAD_MODEL = 1
    BAD_BATCH = 2
    NOT_FINITE = 3
    NO_MEMORY = 4
    UNSUPPORTED = 5
    INTERNAL = 6


ROLES = (
    *("embedding", "head", "positions", "frequencies", "final_norm", "final_norm_bias"),
    *("first_norm", "first_norm_bias", "second_norm", "second_norm_bias"),
    *("query", "key", "value", "output", "query_bias", "key_bias", "value_bias", "output_bias"),
    *("query_norm", "key_norm", "sinks", "router", "router_bias"),
    *("gate", "up", "down", "gate_bias", "up_bias", "down_bias"),
)
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


class TensorStruct(ctypes.Structure):
    """`malmoi_tensor`."""

    _fields_ = (
        *((name, c_int32) for name in ("role", "layer", "kind", "reserved")),
        *(("data", c_void_p), ("bytes", c_uint64), ("scales", c_void_p), ("scale_bytes", c_uint64)),
    )


SHAPE_COUNTS = (
    *("vocabulary", "width", "layers", "heads", "shared_heads", "head_size", "hidden", "positions"),
    *("experts", "experts_per_token"),
)
SHAPE_SWITCHES = (
    *("rotary", "layer_norm", "norm_affine", "post_norm", "qk_norm", "gated", "activation"),
    *("attention_bias", "mlp_bias", "router_bias", "sinks", "tied"),
)
SHAPE_FACTORS = ("norm_eps", "rotary_factor", "limit", "reserved")


class ShapeStruct(ctypes.Structure):
    """`malmoi_shape`."""

    _fields_ = (
        *(("version", c_uint32), ("size", c_uint32)),
        *((name, c_int64) for name in SHAPE_COUNTS),
        *((name, c_int32) for name in SHAPE_SWITCHES),
        *((name, c_float) for name in SHAPE_FACTORS),
        ("windows", POINTER(c_int64)),
    )


class BatchStruct(ctypes.Structure):
    """`malmoi_batch`."""

    _fields_ = (
        *(("version", c_uint32), ("size", c_uint32)),
        *((name, c_int64) for name in ("rows", "sequences", "table_width", "wanted")),
        *((name, c_void_p) for name in ("tokens", "positions", "sequence", "tables", "wanted_rows", "logits")),
        *(("logits_size", c_int64), ("threads", c_int32), ("reserved", c_int32)),
    )


def declare(library: Any) -> None:
    """Tell ctypes what every function takes and returns."""
    for name, result, arguments in (
        ("version", c_int32, ()),
        ("message", c_char_p, ()),
        ("instructions", c_char_p, ()),
        ("open", c_int32, (POINTER(ShapeStruct), POINTER(TensorStruct), c_int64, c_char_p, POINTER(c_void_p))),
        ("close", None, (c_void_p,)),
        ("instructions_of", c_char_p, (c_void_p,)),
        ("cache_open", c_int32, (c_void_p, c_int64, POINTER(c_void_p))),
        ("cache_close", None, (c_void_p,)),
        ("cache_bytes", c_int64, (c_void_p, c_int64)),
        ("cache_copy", c_int32, (c_void_p, c_int64, c_int64)),
        ("step", c_int32, (c_void_p, c_void_p, POINTER(BatchStruct))),
    ):
        function = getattr(library, f"malmoi_{name}")
        function.restype, function.argtypes = result, arguments
