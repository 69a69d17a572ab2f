"""The structs in Python are the structs in C, and malformed ones are refused, never a crash.

The sanitised build (`make sanitise`) runs the same tests: there, reading one byte too far ends the process.
"""

import ctypes
import os
import re
from pathlib import Path

import numpy as np
import pytest

import malmoi.native
from malmoi.native import core, interface
from malmoi.native.interface import ROLES, BatchStruct, Kind, ShapeStruct, Status, TensorStruct
from malmoi.native.library import load
from malmoi.native.prepare import prepare
from small_models import build

HEADER = (Path(malmoi.native.__file__).parent / "engine" / "malmoi.h").read_text(encoding="utf-8")
ROUNDS = int(os.environ.get("MALMOI_FUZZ", "400"))
ODD = (0, 1, -1, 2, 7, 16, 31, 33, 64, 100, 1000, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)


def of_header(struct: str) -> list[str]:
    """The names of a struct's fields, in order."""
    body = re.search(rf"typedef struct {struct} \{{(.*?)\}} {struct};", HEADER, re.DOTALL)[1]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    return [name for line in body.split(";") for name in re.findall(r"(\w+)\s*(?:,|$)", line.replace("*", " ").strip())]


@pytest.mark.parametrize(
    ("name", "struct"), [("malmoi_tensor", TensorStruct), ("malmoi_shape", ShapeStruct), ("malmoi_batch", BatchStruct)]
)
def test_the_structs_are_those_of_the_header(name: str, struct: type):
    assert [field for field, _ in struct._fields_] == of_header(name)


def test_the_numbers_are_those_of_the_header():
    roles = re.search(r"typedef enum malmoi_role \{(.*?)\}", HEADER, re.DOTALL)[1]
    assert [f"MALMOI_{role.upper()}" for role in ROLES] == re.findall(r"MALMOI_\w+", roles)[:-1]
    for enum in (Kind, Status):
        for entry in enum:
            assert re.search(rf"MALMOI_{entry.name} = {entry.value}\b", HEADER)
    assert f"#define MALMOI_BLOCK {interface.BLOCK_SIZE} " in HEADER
    assert f"#define MALMOI_VERSION {interface.VERSION} " in HEADER


def odd(struct: type, field: str, random: np.random.Generator):
    kind = dict(struct._fields_)[field]
    if kind is ctypes.c_float:
        return float(random.choice([0, -1, 1e-9, 1e30, np.nan, np.inf]))
    bits = 8 * ctypes.sizeof(kind)
    value = int(random.choice(np.array(ODD, dtype=object))) if random.random() < 0.7 else int(random.integers(-3, 70))
    value &= (1 << bits) - 1
    signed = kind in (ctypes.c_int32, ctypes.c_int64)
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def try_to_open(opened, disturb) -> int:
    library, model = load(), ctypes.c_void_p()
    shape, held = core._shape(opened)
    tensors = core._tensors(opened)
    count = disturb(shape, tensors, held)
    status = library.malmoi_open(ctypes.byref(shape), tensors, count, None, ctypes.byref(model))
    assert status in set(Status) - {Status.INTERNAL}
    if status == Status.OK:
        library.malmoi_close(model)
    else:
        assert library.malmoi_message()
    return status


@pytest.mark.parametrize("kind", ["modern", "gpt2", "gpt-oss"])
@pytest.mark.parametrize("numbers", ["int8", "int4", "float32"])
def test_malformed_models_are_refused(kind: str, numbers: str):
    """Sizes, roles and kinds that lie; a tensor may claim less memory than it has, as a file cut short does."""
    opened = prepare(build(kind), numbers)
    random = np.random.default_rng(len(kind) + len(numbers))
    fields = [name for name, _ in ShapeStruct._fields_ if name not in ("windows", "layers", "reserved")]

    def disturb(shape, tensors, held) -> int:
        count = len(tensors)
        for _ in range(random.integers(1, 4)):
            tensor = tensors[int(random.integers(len(tensors)))]
            match int(random.integers(8)):
                case 0 | 1 | 2:
                    field = str(random.choice(fields))
                    setattr(shape, field, odd(ShapeStruct, field, random))
                case 3:
                    tensor.bytes = int(random.integers(0, tensor.bytes + 1))
                case 4:
                    tensor.scale_bytes = int(random.integers(0, tensor.scale_bytes + 1))
                case 5:
                    field = str(random.choice(["role", "layer", "kind"]))
                    setattr(tensor, field, odd(TensorStruct, field, random))
                case 6:
                    shape.layers = int(random.integers(-1, len(held) + 1))
                    held[int(random.integers(len(held)))] = int(random.choice(np.array(ODD, dtype=object)))
                case 7:
                    if random.random() < 0.5:
                        count = int(random.integers(-1, len(tensors)))
                    elif random.random() < 0.5:
                        tensor.data = None
                    else:
                        tensor.scales = None
        return count

    statuses = [try_to_open(opened, disturb) for _ in range(ROUNDS // 4)]
    assert statuses.count(Status.OK) < len(statuses) / 2


def test_an_untouched_model_opens():
    assert try_to_open(prepare(build("modern"), "int8"), lambda shape, tensors, held: len(tensors)) == Status.OK


@pytest.mark.parametrize("kind", ["modern", "gpt2", "windows"])
def test_malformed_batches_are_refused(kind: str):
    library, random = load(), np.random.default_rng(0)
    with core.NativeModel.from_model(build(kind), "int8", num_blocks=4, threads=1) as model:
        for _ in range(ROUNDS):
            rows = int(random.integers(1, 9))
            arrays = [np.sort(random.integers(0, 48, rows)).astype(np.int32) for _ in range(2)]
            arrays += [np.zeros(rows, np.int32), random.permutation(4)[None, :2].astype(np.int32)]
            arrays += [np.arange(rows, dtype=np.int32), np.empty((rows, model.vocab_size), np.float32)]
            batch = BatchStruct(interface.VERSION, ctypes.sizeof(BatchStruct), rows, 1, 2, rows)
            for _ in range(random.integers(0, 3)):
                array = arrays[int(random.integers(5))]
                array.flat[int(random.integers(array.size))] = int(random.choice(ODD[:13]))
            for field in random.choice(["rows", "wanted", "logits_size"], random.integers(0, 2)):
                setattr(batch, field, min(odd(BatchStruct, field, random), getattr(batch, field)))
            for field in random.choice(["version", "size", "threads"], random.integers(0, 2)):
                setattr(batch, field, odd(BatchStruct, field, random))
            batch.threads = batch.threads if random.random() < 0.3 and batch.threads < 1 else 1
            names = ("tokens", "positions", "sequence", "tables", "wanted_rows", "logits")
            for name, array in zip(names, arrays, strict=True):
                setattr(batch, name, None if random.random() < 0.02 else array.ctypes.data)
            batch.logits_size = batch.logits_size or arrays[-1].size
            status = library.malmoi_step(model._model, model._cache, ctypes.byref(batch))
            assert status in (Status.OK, Status.BAD_BATCH, Status.BAD_MODEL), library.malmoi_message()


def test_nothing_at_all_is_refused():
    library = load()
    assert library.malmoi_open(None, None, 0, None, None) == Status.BAD_MODEL
    assert library.malmoi_step(None, None, None) == Status.BAD_BATCH
    assert library.malmoi_cache_open(None, 1, None) == Status.BAD_BATCH
    assert library.malmoi_cache_copy(None, 0, 0) == Status.BAD_BATCH
    assert library.malmoi_cache_bytes(None, 1) == -1
    library.malmoi_close(None)
    library.malmoi_cache_close(None)
