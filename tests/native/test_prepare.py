"""From a torch model to the engine's tensors: what is rounded, what is not, what is refused."""

import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.native.interface import Kind
from malmoi.native.packed import Packed
from malmoi.native.prepare import head_kind, kind_named, prepare, quantise
from small_models import build


def test_routers_stay_whole_and_the_head_has_its_own_numbers():
    opened = prepare(build("experts"), "int4")
    kinds = {name: tensor.kind for name, tensor in opened.tensors.items() if isinstance(tensor, Packed)}
    assert kinds["model.layers.0.mlp.gate.weight"] == Kind.FLOAT32
    assert kinds["model.embed_tokens.weight"] == Kind.INT8
    assert kinds["model.layers.0.mlp.experts.up_proj"] == Kind.INT4
    assert prepare(build("modern"), "int4", "int4").tensors["model.embed_tokens.weight"].kind == Kind.INT4


def test_kinds_by_name():
    assert head_kind(Kind.INT4, None) == Kind.INT8
    assert head_kind(Kind.BFLOAT16, None) == Kind.BFLOAT16
    assert head_kind(Kind.INT4, "bfloat16") == Kind.BFLOAT16
    with pytest.raises(MalmoiError, match="Did you mean 'int8'"):
        kind_named("int88")


def test_a_model_with_an_adapter_is_refused():
    model = build("modern")
    model.model.layers[0].self_attn.q_proj.register_parameter("lora_A", torch.nn.Parameter(torch.zeros(2, 32)))
    with pytest.raises(MalmoiError, match="adapter"):
        prepare(model, "int8")


def test_a_folder_that_is_there_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(MalmoiError, match="is there already"):
        quantise(build("modern"), tmp_path / "none", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_failure_leaves_nothing(tmp_path):
    model = build("modern")
    model.lm_head.weight.data[0, 0] = float("inf")
    with pytest.raises(MalmoiError, match="NaN or infinity"):
        quantise(model, tmp_path / "none", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_size_follows_the_bits(tmp_path):
    sizes = {
        to: quantise(build("modern", hidden_size=64, intermediate_size=128), tmp_path / "none", tmp_path / to, to)
        for to in ("float32", "bfloat16", "int8", "int4")
    }
    assert sizes["float32"] > sizes["bfloat16"] > sizes["int8"] > sizes["int4"]
