"""safetensors files: a header that lies is refused before anything is read."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from malmoi.config import MalmoiError
from malmoi.formats import weights


def get(folder, name):
    """A stored tensor as the loader reads it."""
    entry = weights.catalogue(folder)[name]
    into = torch.empty(entry.shape, dtype=weights.DTYPES[entry.dtype])
    weights.pour(entry, name, [((), into)], axis=0)
    return into


TENSORS = {"a": torch.arange(6, dtype=torch.float32).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / weights.SINGLE
    save_file(TENSORS, path)
    return path


def rewrite(path, change):
    """Put a changed header before the same numbers."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + content[8 + length :])


def test_one_file_there_and_back(tmp_path):
    assert weights.write(TENSORS.items(), tmp_path) == [tmp_path / weights.SINGLE]
    entries = weights.catalogue(tmp_path)
    assert entries["a"].shape == (2, 3)
    assert all(torch.equal(get(tmp_path, name), tensor) for name, tensor in TENSORS.items())
    assert load_file(tmp_path / weights.SINGLE).keys() == TENSORS.keys()


def test_shards_there_and_back(tmp_path):
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    written = weights.write(tensors.items(), tmp_path, shard_bytes=80)
    assert [path.name for path in written[:-1]] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert json.loads(written[-1].read_text(encoding="utf-8"))["metadata"]["total_size"] == 200
    assert all(torch.equal(get(tmp_path, name), tensor) for name, tensor in tensors.items())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MalmoiError, match=r"model-00002-of-00003\.safetensors: there is no such file"):
        weights.catalogue(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / weights.SINGLE
    save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(MalmoiError, match="cut short"):
        weights.catalogue(path.parent)


def test_bytes_at_the_end_are_refused(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(MalmoiError, match="tampered"):
        weights.catalogue(file.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["a"].update(shape=[2, 2]), "'a' of shape .* needs 16 bytes, but the header gives it 24"),
        (lambda header: header["a"].update(shape=[2**40, 2**40]), "tampered"),
        (lambda header: header["a"].update(shape=[-2, -3]), "'a' makes no sense"),
        (lambda header: header["a"].update(data_offsets=[0, 10**15]), "the header gives it"),
        (lambda header: header["a"].update(data_offsets=header["b"]["data_offsets"]), "the header gives it"),
        (lambda header: header["a"].pop("dtype"), "'a' makes no sense"),
        (lambda header: header.update(a=[1, 2]), "'a' makes no sense"),
        (lambda header: header.update(c=dict(header["b"])), "begins at byte"),
        (lambda header: header.pop("a"), "begins at byte|end at byte"),
    ],
)
def test_a_header_that_lies_is_refused(file, change, message):
    rewrite(file, change)
    with pytest.raises(MalmoiError, match=message) as error:
        weights.catalogue(file.parent)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or not a safetensors file"),
        (struct.pack("<Q", 2**60) + b"{}", "its header claims 1,152,921,504,606,846,976 bytes"),
        (struct.pack("<Q", 5) + b"hello", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 9999) + b"[" * 9999, "not valid JSON"),
        (b"\x80\x02}q\x00." * 9, "cut short or not a safetensors file"),  # a pickle
    ],
)
def test_another_file_under_this_name_is_refused(file, content, message):
    file.write_bytes(content)
    with pytest.raises(MalmoiError, match=message):
        weights.catalogue(file.parent)


def test_no_weights_at_all(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(MalmoiError, match=r"no weights to load. pytorch_model.bin may run code"):
        weights.catalogue(tmp_path)


@pytest.mark.parametrize("index", ["{}", "[]", "nonsense", '{"weight_map": 3}'])
def test_a_bad_index(tmp_path, index):
    (tmp_path / weights.INDEX).write_text(index, encoding="utf-8")
    with pytest.raises(MalmoiError, match="not an index"):
        weights.catalogue(tmp_path)


def test_an_index_cannot_reach_outside_the_folder(tmp_path):
    (tmp_path / weights.INDEX).write_text('{"weight_map": {"a": "../a.safetensors"}}', encoding="utf-8")
    with pytest.raises(MalmoiError, match="outside the folder"):
        weights.catalogue(tmp_path)


def test_an_index_that_names_too_much(file):
    file.rename(file.with_name("one.safetensors"))
    (file.parent / weights.INDEX).write_text(
        '{"weight_map": {"a": "one.safetensors", "z": "one.safetensors"}}', encoding="utf-8"
    )
    with pytest.raises(MalmoiError, match="names tensors that no file holds: z"):
        weights.catalogue(file.parent)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, bad):
    weights.write([("a", torch.tensor([1.0, bad]))], tmp_path)
    with pytest.raises(MalmoiError, match="'a' holds 1 values that are not finite"):
        get(tmp_path, "a")


def test_what_was_read_outlives_the_file(file):
    tensor = get(file.parent, "a")
    file.write_bytes(b"\0" * file.stat().st_size)
    assert torch.equal(tensor, TENSORS["a"])
