"""LoRA: starts as the model it adapts, learns alone, merges only when the logits agree; frozen parameters stay."""

import copy

import pytest
import torch
from tiny_run import PatternBatches, tiny_model
from torch import nn

from malmoi.config import LoraConfig, MalmoiError, TrainConfig
from malmoi.train import checkpoint
from malmoi.train.adapters import LoraLinear, adapted, add_lora, freeze, learning, merge_adapter
from malmoi.train.loop import train
from malmoi.train.optimizer import build
from small_models import KINDS
from small_models import build as small

IDS = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def disturb(model, scale=0.3):
    """Give every B some content, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapted(model).values():
            layer.lora_B.weight.copy_(torch.randn(layer.lora_B.weight.shape, generator=generator) * scale)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_adapter_changes_nothing_and_a_merged_one_computes_the_same(kind):
    model = small(kind)
    before = logits(model)
    names = add_lora(model, LoraConfig(r=3, lora_alpha=6))
    assert len(names) == len(adapted(model)) > 0
    assert torch.equal(logits(model), before)
    disturb(model)
    moved = logits(model)
    assert (moved - before).abs().max() > 0.05
    state = dict(model.state_dict())
    check = merge_adapter(model, IDS)
    assert check.difference <= check.tolerance and check.tokens == IDS.numel()
    assert not adapted(model) and all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model), moved, atol=1e-4, rtol=1e-4)
    name = names[0]
    w, a, b = (state[f"{name}.{part}weight"] for part in ("", "lora_A.", "lora_B."))
    torch.testing.assert_close(model.get_submodule(name).weight, w + b @ a * 2)


def test_only_the_adapter_learns_and_its_numbers_are_counted():
    model = tiny_model()
    add_lora(model, LoraConfig(r=2, target_modules=("q_proj", "v_proj"), modules_to_save=("model.norm",)))
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    halves = {
        f"model.layers.{i}.self_attn.{which}_proj.lora_{half}.weight" for i in (0, 1) for which in "qv" for half in "AB"
    }
    assert own == halves | {"model.norm.weight"}
    assert learning(model) == 2 * 2 * 2 * (32 + 32) + 32
    owned = {id(parameter) for parameter in build(model, TrainConfig()).parameters()}
    assert owned == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_the_first_a_follows_from_the_seed_and_the_layers_name():
    one, same, other = tiny_model(), tiny_model(), tiny_model()
    add_lora(one, LoraConfig(r=2))
    add_lora(same, LoraConfig(r=2, target_modules=("q_proj",)))
    add_lora(other, LoraConfig(r=2), seed=1)
    name = "model.layers.1.self_attn.q_proj"
    a, b, c = (model.get_submodule(name).lora_A.weight for model in (one, same, other))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.abs().max() <= 32**-0.5


def test_rank_stabilised_scale():
    plain = LoraLinear(nn.Linear(4, 4), r=4, alpha=8)
    assert (plain.scale, LoraLinear(nn.Linear(4, 4), r=4, alpha=8, use_rslora=True).scale) == (2.0, 4.0)


def test_patterns_name_layers():
    model = tiny_model()
    assert add_lora(model, LoraConfig(target_modules=("model.layers.0.*",)))[0] == "model.layers.0.self_attn.q_proj"
    assert all(name.startswith("model.layers.0.") for name in adapted(model))


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"target_modules": ("q_prjo",)}, "modern", "Did you mean 'q_proj'"),
        ({"target_modules": ("c_attn",)}, "gpt2", "no linear layer 'c_attn'"),
        ({"target_modules": ("embed_tokens",)}, "untied", "no linear layer"),
        ({"target_modules": ("lm_head",)}, "modern", "shares its table"),
        ({"target_modules": ("gate",)}, "experts", "routers cannot be adapted"),
        ({"modules_to_save": ("nrom",)}, "modern", "Did you mean 'norm'"),
        ({"target_modules": ("q_proj",), "modules_to_save": ("q_proj",)}, "modern", "both name"),
    ],
)
def test_what_cannot_be_adapted_is_said_and_nothing_changes(settings, kind, message):
    model = small(kind)
    with pytest.raises(MalmoiError, match=message):
        add_lora(model, LoraConfig(**settings))
    assert not adapted(model) and all(parameter.requires_grad for parameter in model.parameters())


def test_one_adapter_at_a_time():
    model = tiny_model()
    with pytest.raises(MalmoiError, match="no adapter to merge"):
        merge_adapter(model)
    add_lora(model, LoraConfig())
    with pytest.raises(MalmoiError, match="already"):
        add_lora(model, LoraConfig())


def test_a_merge_that_would_change_the_logits_is_refused_with_the_numbers():
    model = small("modern")
    add_lora(model, LoraConfig(r=2))
    disturb(model, 1.0)
    before = logits(model)
    with pytest.raises(MalmoiError, match=r"differ by up to \S+, more than the \S+e-1[12] "):
        merge_adapter(model, IDS, tolerance=1e-12)
    assert adapted(model) and torch.equal(logits(model), before)
    next(iter(adapted(model).values())).lora_B.weight.data[0, 0] = torch.nan
    with pytest.raises(MalmoiError, match=r"layers\.0\.self_attn\.q_proj holds NaN"):
        merge_adapter(model, IDS)


def test_half_precision_merges_within_its_rounding():
    model = small("modern").to(torch.bfloat16)
    add_lora(model, LoraConfig(r=2))
    disturb(model, 0.05)
    assert merge_adapter(model).difference > 0
    assert model.dtype == torch.bfloat16


# ---- freezing -------------------------------------------------------------------------------------------------------


def test_frozen_parameters_do_not_move():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    config = TrainConfig(
        sequence_length=16,
        per_device_train_batch_size=4,
        max_steps=3,
        dtype="float32",
        freeze=("model.embed_tokens", "model.layers.0.*"),
    )
    list(train(model, PatternBatches(), config))
    for name, tensor in model.state_dict().items():
        frozen = name.startswith(("model.embed_tokens", "lm_head", "model.layers.0."))
        assert torch.equal(tensor, before[name]) == frozen, name


def test_patterns_fit_names_and_the_modules_around_them():
    model = tiny_model()
    total = learning(model)
    layer = sum(parameter.numel() for parameter in model.model.layers[1].parameters())
    assert freeze(model, ["model.layers.1"]) == total - layer
    assert freeze(model, ["*norm.weight", "*.mlp"]) < total - layer
    assert not any(p.requires_grad for name, p in model.named_parameters() if "norm" in name or "mlp" in name)
    with pytest.raises(MalmoiError, match=r"'model.embed_token'.* Did you mean 'model.embed_tokens'"):
        freeze(model, ["model.embed_token"])


# ---- training -------------------------------------------------------------------------------------------------------


def begin(folder, resume=False):
    model = tiny_model(residual_dropout=0.1)
    add_lora(model, LoraConfig(r=2, lora_dropout=0.1, modules_to_save=("model.norm",)), seed=5)
    config = TrainConfig(
        sequence_length=16,
        per_device_train_batch_size=4,
        optimizer="adamw",
        max_steps=8,
        save_steps=3,
        eval_steps=4,
        num_threads=1,
        seed=5,
    )
    held_out = [PatternBatches(seed=9).batch(0)]
    return model, train(model, PatternBatches(), config, folder=folder, held_out=held_out, resume=resume)


def test_an_interrupted_adaptation_ends_with_the_bits_of_a_straight_one(tmp_path, monkeypatch):
    monkeypatch.setattr("malmoi.train.record.plot", lambda folder: folder / "loss.png")
    straight, run = begin(tmp_path / "straight")
    losses = [step.loss for step in run]
    assert losses[-1] < losses[0]
    _, run = begin(tmp_path / "cut")
    for step in run:
        if step.step == 5:  # the checkpoint of step 3 or 4 is the newest
            run.close()
    resumed, run = begin(tmp_path / "cut", resume=True)
    again = [step.loss for step in run]
    assert again == losses[-len(again) :] and 0 < len(again) < 8
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    ends = [tmp_path / run / "checkpoint-8" for run in ("straight", "cut")]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    base = tiny_model(residual_dropout=0.1)
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)) == (name != "model.norm.weight")


def test_a_checkpoint_of_another_rank_is_refused(tmp_path):
    _, run = begin(tmp_path)
    for step in run:
        if step.step == 3:
            run.close()
    other = tiny_model()
    add_lora(other, LoraConfig(r=3))
    with pytest.raises(MalmoiError, match="lora_A"):
        checkpoint.load(checkpoint.latest(tmp_path), other)
