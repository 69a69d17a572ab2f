"""A quantised folder: opened by its map, the same model, and every damage refused by name."""

import json
import subprocess
import sys

import numpy as np
import pytest

from malmoi.config import MalmoiError
from malmoi.native.core import NativeModel
from malmoi.native.packed import Packed
from malmoi.native.packed_folder import is_quantised, open_folder, write_weights
from malmoi.native.prepare import quantise
from native.conftest import whole
from small_models import build

IDS = np.arange(20) % 61


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    quantise(build("gpt-oss"), source, tmp_path / "small", "int4")
    return tmp_path / "small"


@pytest.mark.parametrize("numbers", ["int8", "int4", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["modern", "gpt2", "gpt-oss"])
def test_a_folder_is_the_model_it_was_made_of(kind: str, numbers: str, tmp_path):
    model = build(kind)
    quantise(model, tmp_path / "none", tmp_path / "small", numbers)
    expected = whole(NativeModel.from_model(model, numbers), IDS)
    np.testing.assert_array_equal(whole(NativeModel.open(tmp_path / "small"), IDS), expected)
    np.testing.assert_array_equal(whole(NativeModel.open(tmp_path / "small", mapped=True), IDS), expected)


def test_matrices_are_used_where_they_lie(folder):
    for tensor in open_folder(folder).tensors.values():
        if isinstance(tensor, Packed):
            assert not tensor.data.flags.owndata
            assert not tensor.data.flags.writeable
            assert tensor.data.ctypes.data % 64 == 0


def test_safetensors_itself_reads_the_file(folder):
    from safetensors.numpy import load_file

    (folder / "model.safetensors").rename(folder / "copy.safetensors")
    assert any(name.endswith("q_proj.weight.int4") for name in load_file(folder / "copy.safetensors"))


def test_other_files_come_along_and_the_folder_is_known(folder):
    assert (folder / "tokenizer.json").is_file()
    assert is_quantised(folder)
    assert not is_quantised(folder.parent / "source")


def test_it_opens_and_speaks_without_torch(folder):
    code = f"""
import sys
from malmoi.native.core import NativeModel
model = NativeModel.open({str(folder)!r})
print(model.step([1], [0], [0], [[0]], [0]).argmax(), 'torch' in sys.modules)"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.split()[1] == "False", said.stderr


def rewrite(folder, change) -> None:
    said = json.loads((folder / "config.json").read_text())
    change(said["quantization_config"])
    (folder / "config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(layout_version=2), "layout 2"),
        (lambda c: c.update(quant_method="awq"), "not quantised by Malmoi"),
        (lambda c: c.pop("model"), "makes no sense"),
        (lambda c: c.update(rotary_factor="x"), "makes no sense"),
        (lambda c: c["model"].update(hidden_size=64), "of shape"),
        (lambda c: c["model"].update(num_hidden_layers=1, layer_types=["full_attention"]), "does not have"),
        (lambda c: c["model"].update(tie_word_embeddings=True), "does not have"),
        (lambda c: c["model"].update(something_new=3), "something_new"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, change, words: str):
    rewrite(folder, change)
    with pytest.raises(MalmoiError, match=words):
        NativeModel.open(folder)


@pytest.mark.parametrize("length", [0, 4, 8, 100, 5000, -1])
def test_a_file_that_was_cut_short_is_refused(folder, length: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(MalmoiError, match=r"model\.safetensors"):
        NativeModel.open(folder)


def test_a_header_that_lies_is_refused(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    random = np.random.default_rng(0)
    length = int.from_bytes(data[:8], "little")
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 5)):
            damaged[int(random.integers(0, 8 + length))] = int(random.choice(np.frombuffer(b'0129{}[]",:-e', np.uint8)))
        path.write_bytes(damaged)
        try:
            NativeModel.open(folder).close()
        except MalmoiError as error:
            assert "model" in str(error)


def test_a_scale_that_is_no_number_is_refused(folder):
    opened = open_folder(folder)
    tensors = dict(opened.tensors)
    packed = tensors["model.layers.0.self_attn.q_proj.weight"]
    scales = packed.scales.copy()
    scales.flat[3] = np.inf
    tensors["model.layers.0.self_attn.q_proj.weight"] = Packed(packed.kind, packed.data.copy(), scales)
    write_weights(folder / "new", tensors.items())
    (folder / "new").rename(folder / "model.safetensors")
    with pytest.raises(MalmoiError, match=r"query.*layer 0.*scale is not finite"):
        NativeModel.open(folder)


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(MalmoiError, match=r"config\.json"):
        NativeModel.open(tmp_path)
