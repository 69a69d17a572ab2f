"""Adapters travel: what we save, PEFT loads with the same logits, and the other way round; damage is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.config import LoraConfig, MalmoiError
from malmoi.formats import huggingface
from malmoi.train.adapter_folder import CONFIG, TENSORS, base_of, is_adapter, load_adapter, save_adapter
from malmoi.train.adapters import adapted, add_lora, learning, merge_adapter
from small_models import build

IDS = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(4))
LLAMA = {"qk_norm": False}
FAMILIES = {  # name: (kind, changes, LoRA's settings)
    "qwen3": ("modern", {}, {}),
    "qwen3 rslora": ("modern", {}, {"use_rslora": True, "r": 4}),
    "qwen3 some": (
        "untied",
        {},
        {"target_modules": ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.*", "lm_head")},
    ),
    "qwen3 norm": ("modern", {}, {"modules_to_save": ("model.norm", "model.layers.0.input_layernorm")}),
    "qwen3 embeddings": ("untied", {}, {"modules_to_save": ("embed_tokens", "lm_head")}),
    "qwen3 tied embeddings": ("modern", {}, {"modules_to_save": ("embed_tokens",)}),
    "llama": ("modern", LLAMA, {}),
    "mistral": ("modern", {"qk_norm": False, "layer_types": ("sliding_attention",) * 2, "sliding_window": 5}, {}),
    "qwen3_moe": ("experts", {}, {}),
    "mixtral": ("experts", {"qk_norm": False}, {}),
    "gpt_oss": ("gpt-oss", {}, {}),
    "openai-gpt": ("gpt1", {"intermediate_size": 128}, {}),
    "gpt2": ("gpt2", {}, {}),
    "gpt2 rslora": ("gpt2", {}, {"use_rslora": True}),
    "gpt2 q": ("gpt2", {}, {"target_modules": ("q_proj", "o_proj")}),
    "gpt2 whole": (
        "gpt2",
        {},
        {"target_modules": ("v_proj",), "modules_to_save": ("model.norm", "layers.1.mlp.up_proj")},
    ),
}


@torch.no_grad()
def ours(model):
    return model(IDS).logits


def disturb(model, scale=0.1):
    """What training would leave: every number that learns has moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def made(tmp_path, kind="modern", changes=None, **lora):
    """A base folder, an adapter folder beside it, and the adapted model."""
    model = build(kind, **(changes or {}))
    huggingface.save(model, tmp_path / "base")
    add_lora(model, LoraConfig(**{"r": 3, "lora_alpha": 5, **lora}))
    disturb(model)
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "base")
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_what_we_save_peft_loads_and_so_do_we(name, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    kind, changes, lora = FAMILIES[name]
    model = made(tmp_path, kind, changes, **lora)
    expected = ours(model)
    assert json.loads((tmp_path / "base" / "config.json").read_text())["model_type"] == name.split()[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    before = theirs(IDS).logits.detach()
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - before).abs().max() > 0.01

    again = huggingface.load(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(ours(again), expected, atol=1e-5, rtol=1e-5)
    assert learning(again) == 0
    save_adapter(again, tmp_path / "second", base=tmp_path / "base")  # and once more, from what was read
    once_more = huggingface.load(tmp_path / "base")
    load_adapter(once_more, tmp_path / "second")
    torch.testing.assert_close(ours(once_more), expected, atol=1e-5, rtol=1e-5)
    assert merge_adapter(again).difference < 1e-3
    torch.testing.assert_close(ours(again), expected, atol=1e-4, rtol=1e-4)


PEFTS = {
    "qwen3": ("modern", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "ranks": (
        "modern",
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    ),
    "saved": ("untied", {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_fc", "c_proj"], "use_rslora": True}),
    "gpt2 one layer": ("gpt2", {"target_modules": ["c_attn"], "layers_to_transform": [1]}),
    "gpt2 pattern": ("gpt2", {"target_modules": r".*\.attn\.c_(attn|proj)", "modules_to_save": ["ln_f"]}),
}


@pytest.mark.parametrize("name", PEFTS)
def test_what_peft_saves_we_load(name, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    kind, settings = PEFTS[name]
    model = build(kind)
    huggingface.save(model, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **settings))
    disturb(theirs).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(ours(model), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def test_one_reader_for_three_is_written_once(tmp_path):
    """PEFT's c_attn has one A for queries, keys and values; three of ours with the same A become it again."""
    model = build("gpt2")
    add_lora(model, LoraConfig(r=3, target_modules=("q_proj", "k_proj", "v_proj")))
    disturb(model)
    for layer in model.model.layers:
        attention = layer.self_attn
        for one in (attention.k_proj, attention.v_proj):
            one.lora_A.weight.data.copy_(attention.q_proj.lora_A.weight)
    save_adapter(model, tmp_path / "one")
    tensors = load_file(tmp_path / "one" / TENSORS)
    assert {tuple(tensor.shape) for tensor in tensors.values()} == {(3, 32), (96, 3)}
    said = json.loads((tmp_path / "one" / CONFIG).read_text())
    assert (said["r"], said["rank_pattern"], said["target_modules"], said["fan_in_fan_out"]) == (
        3,
        {},
        ["c_attn"],
        True,
    )
    model.model.layers[0].self_attn.v_proj.lora_A.weight.data.add_(1)
    save_adapter(model, tmp_path / "two")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "two" / TENSORS).items()}
    assert shapes["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"] == (6, 32)
    assert shapes["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"] == (3, 32)


def test_the_files_say_what_they_are(tmp_path):
    made(tmp_path, target_modules=("q_proj", "v_proj"), lora_dropout=0.1)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {CONFIG, TENSORS}
    assert sorted(load_file(tmp_path / "adapter" / TENSORS))[0] == (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    )
    said = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert said["target_modules"] == ["q_proj", "v_proj"]
    assert (said["r"], said["lora_alpha"], said["lora_dropout"]) == (3, 5, 0.1)
    assert said["base_model_name_or_path"] == "../base"


def test_a_base_is_found_beside_its_adapter(tmp_path, monkeypatch):
    made(tmp_path / "there")
    shutil.move(tmp_path / "there", tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert is_adapter("here/adapter") and not is_adapter("here/base")
    assert base_of("here/adapter") == "here/base"
    shutil.move(tmp_path / "here/base", tmp_path / "elsewhere")
    with pytest.raises(MalmoiError, match="is not at here/base"):
        base_of("here/adapter")
    change(tmp_path / "here/adapter", base_model_name_or_path="openai-community/gpt2")
    assert base_of("here/adapter") == "openai-community/gpt2"
    change(tmp_path / "here/adapter", base_model_name_or_path=None)
    with pytest.raises(MalmoiError, match="does not name the model"):
        base_of("here/adapter")


def test_an_adapter_goes_on_learning(tmp_path):
    model = made(tmp_path, modules_to_save=("model.norm",))
    again = huggingface.load(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter", trainable=True)
    learns = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---- what is wrong with a folder ------------------------------------------------------------------------------------


def change(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def tensors(folder, edit):
    held = load_file(folder / TENSORS)
    edit(held)
    save_file(held, folder / TENSORS)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), "holds no adapter_config.json"),
        (lambda f: (f / TENSORS).unlink(), "there is no such file"),
        (lambda f: (f / CONFIG).write_text("{"), "not valid JSON"),
        (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]), "cut short"),
        (lambda f: change(f, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda f: change(f, use_dora=True), "use_dora=True is not supported"),
        (lambda f: change(f, bias="all"), "bias='all' is not supported"),
        (lambda f: change(f, init_lora_weights="pissa"), "changes the model's own weights"),
        (lambda f: change(f, r=0), "r must be"),
        (lambda f: change(f, r=5), "rank 5 ask for"),
        (lambda f: tensors(f, lambda held: held.pop(Q)), "q_proj.lora_A.weight is missing"),
        (lambda f: tensors(f, lambda held: held[Q].fill_(torch.nan)), "holds NaN"),
        (lambda f: tensors(f, lambda held: held.update({Q: held[Q][:, :-1].contiguous()})), "another shape"),
        (
            lambda f: tensors(f, lambda held: held.update({Q.replace("q_proj", "qproj"): held[Q].clone()})),
            "Did you mean 'model.layers.0.self_attn.q_proj'",
        ),
        (
            lambda f: tensors(f, lambda held: held.update({Q.replace("lora_A.", ""): held[Q].clone()})),
            "is not expected",
        ),
        (lambda f: change(f, modules_to_save=["model.norm"]), "model.norm.weight is missing"),
    ],
)
def test_damage_is_one_sentence_and_the_model_stays(tmp_path, damage, message):
    made(tmp_path)
    model = huggingface.load(tmp_path / "base")
    before = ours(model)
    damage(tmp_path / "adapter")
    with pytest.raises(MalmoiError, match=message) as caught:
        load_adapter(model, tmp_path / "adapter")
    assert "\n" not in str(caught.value)
    assert not adapted(model) and torch.equal(ours(model), before)


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    made(tmp_path)
    for kind, changes in (("modern", {"hidden_size": 64}), ("modern", {"num_hidden_layers": 1}), ("gpt2", {})):
        model = build(kind, **changes)
        with pytest.raises(MalmoiError, match="model of another shape"):
            load_adapter(model, tmp_path / "adapter")
        assert not adapted(model)


def test_an_adapter_with_nan_is_not_written_and_the_old_one_stays(tmp_path):
    model = made(tmp_path)
    before = (tmp_path / "adapter" / TENSORS).read_bytes()
    next(iter(adapted(model).values())).lora_B.weight.data[0, 0] = torch.nan
    with pytest.raises(MalmoiError, match=r"lora_B\.weight' holds NaN"):
        save_adapter(model, tmp_path / "adapter")
    assert (tmp_path / "adapter" / TENSORS).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_an_adapter_does_not_replace_a_model(tmp_path):
    model = made(tmp_path)
    with pytest.raises(MalmoiError, match="holds no adapter"):
        save_adapter(model, tmp_path / "base")
    with pytest.raises(MalmoiError, match="save the adapter alone"):
        model.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    with pytest.raises(MalmoiError, match="no adapter to save"):
        save_adapter(build("modern"), tmp_path / "new")
