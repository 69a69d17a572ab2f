"""Four bits a weight: decoding against a reference that is written out, encoding against all candidates."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError, ModelConfig
from malmoi.formats import huggingface, mxfp4, weights
from malmoi.model.gpt import GPT4LMHeadModel
from small_models import BASE

GPT_OSS = BASE | {
    "hidden_size": 64,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "attention_sinks": True,
    "swiglu_limit": 7.0,
    "router_bias": True,
    "mlp_bias": True,
    "attention_bias": True,
    "qk_norm": False,
    "tie_word_embeddings": False,
    "sliding_window": 5,
    "initializer_range": 0.2,
    "layer_types": ("sliding_attention", "full_attention"),
}


def e2m1(code: int) -> float:
    """The value of four bits, by the definition of the format: sign, two bits of exponent (bias 1), one of mantissa."""
    sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
    size = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    return -size if sign else size


def reference(blocks, scales):
    """Number by number, in float64."""
    experts, out, groups, _ = blocks.shape
    result = torch.zeros(experts, out, groups * 32, dtype=torch.float64)
    for e, o, g in itertools.product(range(experts), range(out), range(groups)):
        for k in range(32):
            byte = int(blocks[e, o, g, k // 2])
            code = byte >> 4 if k % 2 else byte & 15
            result[e, o, g * 32 + k] = e2m1(code) * 2.0 ** (int(scales[e, o, g]) - 127)
    return result


def packed(*shape, seed=0, exponents=(100, 150)):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
    return blocks, torch.randint(*exponents, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("exponents", [(100, 150), (0, 4), (240, 250)])
def test_decoding_is_the_definition(exponents):
    blocks, scales = packed(2, 5, 3, exponents=exponents)
    expected = reference(blocks, scales)
    assert torch.equal(mxfp4.decode(blocks, scales).double(), expected)
    if exponents == (100, 150):
        assert torch.equal(mxfp4.decode(blocks, scales, torch.bfloat16).double(), expected)


def test_decoding_is_the_other_library_s():
    integration = pytest.importorskip("transformers.integrations.mxfp4")
    blocks, scales = packed(3, 6, 2)
    theirs = integration.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(mxfp4.decode(blocks, scales).transpose(1, 2), theirs)


def test_the_exponent_that_is_no_number():
    blocks, scales = packed(1, 1, 2)
    scales[0, 0, 1] = 255
    found = mxfp4.decode(blocks, scales)[0, 0]
    assert found[:32].isfinite().all()
    assert found[32:].isnan().all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_what_was_decoded_comes_back(seed):
    blocks, scales = packed(2, 3, 2, seed=seed)
    numbers = mxfp4.decode(blocks, scales)
    again = mxfp4.decode(*mxfp4.encode(numbers))
    assert torch.equal(again, numbers)
    assert torch.equal(again.signbit(), numbers.signbit())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from((1e-30, 1e-3, 1.0, 1e20)))
def test_every_number_goes_to_its_nearest_neighbour(seed, scale):
    numbers = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) * scale
    blocks, scales = mxfp4.encode(numbers)
    found = mxfp4.decode(blocks, scales).double()
    step = 2.0 ** (scales.double() - 127).repeat_interleave(32, dim=-1)
    candidates = torch.tensor([e2m1(code) for code in range(16)], dtype=torch.float64)
    distances = (numbers.double()[..., None] - candidates * step[..., None]).abs()
    assert torch.equal((numbers.double() - found).abs(), distances.amin(-1))
    largest = numbers.abs().unflatten(-1, (-1, 32)).amax(-1).double()
    assert torch.equal(2.0 ** (scales.double() - 127), 2.0 ** (largest.log2().floor() - 2))


def test_halfway_goes_to_the_even_code_and_too_large_to_the_largest():
    numbers = torch.zeros(32)
    numbers[:9] = torch.tensor([7.9, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0])
    found = mxfp4.decode(*mxfp4.encode(numbers))[:9]
    assert found.tolist() == [6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -4.0]


def test_nothing_but_zeros_and_rows_that_do_not_divide():
    assert torch.equal(mxfp4.decode(*mxfp4.encode(torch.zeros(2, 32))), torch.zeros(2, 32))
    with pytest.raises(ValueError, match="multiple of 32"):
        mxfp4.encode(torch.zeros(2, 33))


# ------------------------------------------------------------------ folders


@pytest.fixture
def folder(tmp_path):
    model = GPT4LMHeadModel(ModelConfig(**GPT_OSS)).to(torch.bfloat16)
    huggingface.save(model, tmp_path / "model", packed=True)
    return tmp_path / "model"


def test_a_packed_folder_is_as_the_published_ones_are(folder):
    entries = weights.catalogue(folder)
    layer = "model.layers.1.mlp.experts."
    assert {name: (entry.dtype, entry.shape) for name, entry in entries.items() if name.startswith(layer)} == {
        f"{layer}gate_up_proj_blocks": ("U8", (4, 64, 2, 16)),
        f"{layer}gate_up_proj_scales": ("U8", (4, 64, 2)),
        f"{layer}gate_up_proj_bias": ("BF16", (4, 64)),
        f"{layer}down_proj_blocks": ("U8", (4, 64, 1, 16)),
        f"{layer}down_proj_scales": ("U8", (4, 64, 1)),
        f"{layer}down_proj_bias": ("BF16", (4, 64)),
    }


def test_a_packed_folder_opens_in_the_type_that_is_asked_for(folder):
    assert huggingface.load(folder).dtype == torch.bfloat16
    ours = huggingface.load(folder, dtype="float32")
    huggingface.save(ours, folder.parent / "again", packed=True)  # nothing is lost a second time
    again = huggingface.load(folder.parent / "again", dtype="float32")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_packed_folder_has_the_other_library_s_logits(folder):
    transformers = pytest.importorskip("transformers")
    ours = huggingface.load(folder, dtype="float32")
    quantized = transformers.Mxfp4Config(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantized
    )
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits.float(), atol=1e-5, rtol=0)


def test_only_gpt_oss_is_packed(tmp_path):
    model = GPT4LMHeadModel(ModelConfig(**BASE))
    with pytest.raises(MalmoiError, match="'qwen3' is not stored as MXFP4"):
        huggingface.save(model, tmp_path / "m", packed=True)
    odd = GPT4LMHeadModel(ModelConfig(**GPT_OSS | {"moe_intermediate_size": 24}))
    with pytest.raises(MalmoiError, match="rows of 24 numbers, but MXFP4 packs 32"):
        huggingface.save(odd, tmp_path / "m", packed=True)
    assert not (tmp_path / "m").exists()
