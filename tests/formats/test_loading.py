"""Weights are read straight into place: held once, whatever their number type, layout and number of files."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.config import MalmoiError, ModelConfig
from malmoi.formats import huggingface, weights
from malmoi.model.gpt import GPT4LMHeadModel
from small_models import BASE, build

LARGE = BASE | {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 12, "intermediate_size": 1536}
LARGE |= {"vocab_size": 8192}
EXPERTS = {"num_experts": 8, "moe_intermediate_size": 512, "num_hidden_layers": 10}
OSS = {"attention_sinks": True, "swiglu_limit": 7.0, "router_bias": True, "mlp_bias": True, "attention_bias": True}
OSS |= {"qk_norm": False, "tie_word_embeddings": False, "sliding_window": 5}
OSS |= {"layer_types": ("sliding_attention", "full_attention") * 5}
OPENAI = {"norm": "layer_norm", "positions": "learned", "feed_forward": "plain", "hidden_act": "gelu_pytorch_tanh"}
OPENAI |= {"qk_norm": False, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 8}
MODELS = {
    "dense": (LARGE, "float32", "float32", False),
    "dense-narrowed": (LARGE | {"num_hidden_layers": 24}, "float32", "bfloat16", False),
    "experts-widened": (LARGE | EXPERTS, "bfloat16", "float32", False),
    "gpt2": (LARGE | OPENAI | {"num_hidden_layers": 16}, "float32", "float32", False),
    "gpt_oss": (LARGE | EXPERTS | OSS, "bfloat16", "bfloat16", False),
    "gpt_oss-packed": (LARGE | EXPERTS | OSS, "bfloat16", "float32", True),
}
# What loading needs beside the weights, whatever their size: the rows that are looked at together.
ALLOWANCE = 16 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_never_held_twice(name, tmp_path, monkeypatch):
    settings, stored, asked, packed = MODELS[name]
    with torch.device("meta"):
        model = GPT4LMHeadModel(ModelConfig(**settings)).to(getattr(torch, stored))
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    write = weights.write
    monkeypatch.setattr(weights, "write", lambda tensors, folder: write(tensors, folder, shard_bytes=60_000_000))
    huggingface.save(model, tmp_path / "m", packed=packed)
    if not packed:
        assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 1
    script = """
        import json, re, sys
        from pathlib import Path
        from malmoi.formats import huggingface

        def memory(what):
            return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

        huggingface.load(sys.argv[2])  # what libraries keep for themselves at first use
        before = memory("VmRSS")
        model = huggingface.load(sys.argv[1], dtype=sys.argv[3])
        # (getrusage's maximum begins with that of the process that started this one; VmHWM is this one's own)
        peak = memory("VmHWM")
        weights = sum(parameter.nbytes for parameter in model.parameters())
        print(json.dumps([peak - before, weights]))
        """
    small = {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 10, "moe_intermediate_size": 32}
    huggingface.save(GPT4LMHeadModel(ModelConfig(**settings | small | {"layer_types": None})), tmp_path / "small")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "m"), str(tmp_path / "small"), asked]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    grown, held = json.loads(result.stdout)
    print(f"{name}: weights {held / 2**20:.0f} MiB, grown {grown / 2**20:.0f} MiB")
    assert held > 100 * 2**20
    assert grown > 0.9 * held  # the measurement sees the weights
    assert grown < 1.1 * held + ALLOWANCE


# ------------------------------------------------------------------ folders that are not read


@pytest.fixture
def folder(tmp_path):
    huggingface.save(build("modern"), tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "mxfp4"}, r"mxfp4\), which Malmoi does not read for model_type 'qwen3'"),
        ({"bits": 4}, "in an unknown way"),
        ("gptq", "in an unknown way"),
    ],
)
def test_other_quantisations_are_refused_by_name(folder, settings, name):
    edit(folder, quantization_config=settings)
    with pytest.raises(MalmoiError, match=rf"the weights are quantised \({name}"):
        huggingface.load(folder)


def test_no_quantisation_is_none(folder):
    edit(folder, quantization_config=None)
    huggingface.load(folder)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
def test_a_number_type_that_is_no_weight_is_named(folder, kind):
    tensors = load_file(folder / weights.SINGLE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(kind)
    save_file(tensors, folder / weights.SINGLE)
    with pytest.raises(MalmoiError, match=r"'model\.norm\.weight' has type [FI]8\w*; weights are F64, F32, F16, BF16"):
        huggingface.load(folder)


def test_numbers_that_are_too_large_for_the_type_that_was_asked_for(folder):
    tensors = load_file(folder / weights.SINGLE)
    tensors["model.norm.weight"][3] = -1e6
    save_file(tensors, folder / weights.SINGLE)
    with pytest.raises(MalmoiError, match=r"'model\.norm\.weight' holds 1e\+06, which is more than float16 can hold"):
        huggingface.load(folder, dtype="float16")
    assert huggingface.load(folder, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.slow
def test_old_pickles_are_refused_with_a_command_that_works(folder, tmp_path):
    pytest.importorskip("transformers")
    expected = huggingface.load(folder).state_dict()
    torch.save(load_file(folder / weights.SINGLE), folder / "pytorch_model.bin")
    (folder / weights.SINGLE).unlink()
    with pytest.raises(MalmoiError, match=r"pytorch_model\.bin may run code when opened and is not read") as error:
        huggingface.load(folder)
    program = re.search(r'python -c "(.*)"', str(error.value))
    assert program
    subprocess.run([sys.executable, "-c", program[1]], check=True, timeout=240)
    found = huggingface.load(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_gguf_files_are_for_another_program(tmp_path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(MalmoiError, match=r"model-q4\.gguf: is a GGUF file.*Open the folder"):
        GPT4LMHeadModel.from_pretrained(tmp_path / "model-q4.gguf")
    with pytest.raises(MalmoiError, match=r"there are no weights to load\. It holds a GGUF file"):
        weights.catalogue(tmp_path)


# ------------------------------------------------------------------ configurations that do not fit the weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 8}, r"q_proj\.weight' has shape \[32, 32\], but config\.json asks for \[64, 32\]"),
        ({"num_attention_heads": 3}, "num_attention_heads=3 is not a multiple of num_key_value_heads=2"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, but num_hidden_layers=2"),
        ({"num_hidden_layers": 3, "layer_types": None}, r"missing: model\.layers\.2"),
        ({"num_hidden_layers": 1, "layer_types": None}, r"not expected: model\.layers\.1"),
        ({"vocab_size": 60}, r"embed_tokens\.weight' has shape \[61, 32\], but config\.json asks for \[60, 32\]"),
        ({"model_type": "llama"}, r"not expected: model\.layers\.0\.self_attn\.k_norm\.weight"),
        ({"model_type": "gpt2"}, "n_embd must be|missing: "),
        ({"hidden_size": None}, "hidden_size must be said for a model of type 'qwen3'"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(MalmoiError, match=message):
        huggingface.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 5}, r"missing: model\.layers\.0\.mlp\.experts\.4\.down_proj\.weight"),
        ({"num_experts": 3, "num_experts_per_tok": 2}, r"not expected: model\.layers\.0\.mlp\.experts\.3"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5 is more than num_experts=4"),
        ({"num_experts": 0}, "is a mixture of experts, but config.json gives it none"),
        (
            {"moe_intermediate_size": 25},
            r"gate_proj\.weight' has shape \[24, 32\], but config\.json asks for \[25, 32\]",
        ),
    ],
)
def test_experts_that_do_not_fit_the_weights(tmp_path, changes, message):
    huggingface.save(build("experts"), tmp_path / "m")
    edit(tmp_path / "m", **changes)
    with pytest.raises(MalmoiError, match=message):
        huggingface.load(tmp_path / "m")


def test_packed_experts_that_do_not_fit(tmp_path):
    small = BASE | EXPERTS | OSS | {"hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 10}
    huggingface.save(GPT4LMHeadModel(ModelConfig(**small)), tmp_path / "m", packed=True)
    file, stem = tmp_path / "m" / weights.SINGLE, "model.layers.3.mlp.experts.down_proj"
    good = load_file(file)
    save_file({name: tensor for name, tensor in good.items() if name != f"{stem}_scales"}, file)
    with pytest.raises(MalmoiError, match=rf"missing: {stem}; not expected: {stem}_blocks"):
        huggingface.load(tmp_path / "m")
    save_file(good | {f"{stem}_scales": good[f"{stem}_scales"][:, :-1].contiguous()}, file)
    with pytest.raises(MalmoiError, match=rf"'{stem}' is packed as U8 \[8, 64, 1, 16\] with scales U8 \[8, 63, 1\]"):
        huggingface.load(tmp_path / "m")
    save_file(good | {f"{stem}_scales": torch.full_like(good[f"{stem}_scales"], 255)}, file)
    with pytest.raises(MalmoiError, match=rf"'{stem}' holds .* not finite"):
        huggingface.load(tmp_path / "m")
