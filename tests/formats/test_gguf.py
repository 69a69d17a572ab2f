"""GGUF files: what is written comes back, sizes are as planned, damaged files are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import LAYOUTS, build, byte_level, config
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.formats import gguf, gguf_tokenizer
from malmoi.formats.gguf_architectures import library
from malmoi.model.gpt import GPT4LMHeadModel


def write(model: GPT4LMHeadModel, path: Path, kind: str = "f32") -> Path:
    writer = gguf.begin(path, model, kind, "tiny")
    gguf_tokenizer.write(writer, gguf_tokenizer.describe(byte_level(), model.config.vocab_size))
    gguf.finish(writer, model, kind)
    writer.close()
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back_exactly(layout: str, tmp_path: Path):
    model = build(layout)
    again = gguf.load(write(model, tmp_path / "model.gguf"), model.config)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "llama3"])
def test_a_file_alone_says_what_the_network_is(layout: str, tmp_path: Path):
    model = build(layout)
    again = gguf.load(write(model, tmp_path / "model.gguf"))
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-4)  # float32 factors of yarn
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings


@pytest.mark.parametrize("layout", ["qwen3", "gpt2"])
def test_the_norms_own_small_number_is_read_back(layout: str, tmp_path: Path):
    model = build(layout, norm_eps=1e-3)  # neither network's usual one
    assert gguf.load(write(model, tmp_path / "model.gguf")).config.norm_eps == 1e-3


def test_stretched_positions_need_their_configuration(tmp_path: Path):
    path = write(build("llama3"), tmp_path / "model.gguf")
    with pytest.raises(MalmoiError, match="stretches"):
        gguf.load(path)
    other = LAYOUTS["llama3"]["rope_parameters"] | {"factor": 4.0}
    with pytest.raises(MalmoiError, match="another network"):
        gguf.load(path, config("llama3", rope_parameters=other))


@pytest.mark.parametrize(
    "changes",
    [{"norm_eps": 1e-5}, {"rope_parameters": {"rope_theta": 2e4}}, {"num_key_value_heads": 1}, {"head_dim": 24}],
)
def test_a_configuration_that_does_not_agree_is_refused(changes: dict, tmp_path: Path):
    path = write(build("qwen3"), tmp_path / "model.gguf")
    with pytest.raises(MalmoiError, match="another network"):
        gguf.load(path, config("qwen3", **changes))


@pytest.mark.parametrize("kind", gguf.TYPES)
@pytest.mark.parametrize("layout", ["qwen3", "gpt2", "gpt-oss"])
def test_numbers_are_rounded_as_planned(layout: str, kind: str, tmp_path: Path):
    model = build(layout)
    path = write(model, tmp_path / "model.gguf", kind)
    planned = {place.name: place for place in gguf.places(model.config, kind)}
    for tensor in gguf.open_file(path).tensors:
        assert tensor.tensor_type.name.lower() == planned[tensor.name].kind
        assert tensor.n_bytes == planned[tensor.name].nbytes
        vector = len(tensor.shape) == 1 or "bias" in tensor.name
        assert (tensor.tensor_type.name == "F32") == (
            vector or kind == "f32" or "gate_inp" in tensor.name or "position" in tensor.name
        )
    rounded = gguf.rounded(model, kind)
    again = gguf.load(path, model.config).state_dict()
    assert all(torch.equal(rounded[name], again[name]) for name in again)


def test_rows_that_do_not_divide_stay_f16_and_tables_keep_eight_bits():
    odd = {place.name: place.kind for place in gguf.places(config("qwen3", intermediate_size=40), "q4_0")}
    assert odd["blk.0.ffn_down.weight"] == "f16"
    assert odd["blk.0.ffn_up.weight"] == "q4_0"
    assert odd["token_embd.weight"] == "q8_0"


def test_an_overflow_of_f16_is_said():
    with pytest.raises(MalmoiError, match="65504"):
        gguf.encode(torch.full((1, 32), 1e6), "f16")
    assert np.isfinite(gguf.encode(torch.full((1, 32), 1e6), "f32")).all()


@settings(max_examples=30, deadline=None)
@given(heads=st.integers(1, 6), half=st.integers(1, 5), width=st.integers(1, 4))
def test_interleaving_pairs_the_halves_of_each_head(heads: int, half: int, width: int):
    rows = torch.arange(heads * 2 * half * width).view(heads * 2 * half, width)
    turned = gguf._interleaved(rows, heads)
    assert torch.equal(gguf._sorted_halves(turned, heads), rows)
    for head in range(heads):
        for pair in range(half):
            at = head * 2 * half
            assert torch.equal(turned[at + 2 * pair], rows[at + pair])
            assert torch.equal(turned[at + 2 * pair + 1], rows[at + half + pair])


def test_damaged_and_foreign_files_are_one_sentence(tmp_path: Path):
    path = write(build("qwen3"), tmp_path / "model.gguf")
    whole = path.read_bytes()
    for wrong in (b"", b"GGUF", whole[:200], whole[: len(whole) // 2], b"x" * 100):
        path.write_bytes(wrong)
        with pytest.raises(MalmoiError, match="not a whole GGUF"):
            gguf.load(path)
    with pytest.raises(MalmoiError, match="no such file"):
        gguf.load(tmp_path / "none.gguf")


def test_an_unknown_architecture_is_named(tmp_path: Path):
    writer = library().GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(MalmoiError, match="'mamba' is not one that Malmoi knows"):
        gguf.load(tmp_path / "other.gguf")
