"""Taps: the list is frozen, watching changes nothing, and what is seen is what the model computes with."""

import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.model.cache import Cache
from malmoi.model.taps import record, tap_names
from small_models import BASE, build

ATTENTION = ["queries", "keys", "values", "pattern", "heads", "output"]
BLOCK = ["input", *(f"self_attn.{name}" for name in ATTENTION), "middle", "mlp.hidden", "mlp.output", "output"]
FROZEN = [
    "model.embedded",
    *(f"model.layers.{i}.{name}" for i in range(2) for name in BLOCK),
    "model.normed",
    "logits",
]


def test_the_list_of_a_dense_model():
    assert sorted(tap_names(build("modern"))) == sorted(FROZEN)
    assert sorted(tap_names(build("gpt2"))) == sorted(FROZEN)


def test_the_list_of_experts():
    mlp = ["router", "output", "experts.hidden"]
    dense = {f"model.layers.{i}.mlp.{name}" for i in range(2) for name in ("hidden", "output")}
    expected = (set(FROZEN) - dense) | {f"model.layers.{i}.mlp.{name}" for i in range(2) for name in mlp}
    assert set(tap_names(build("experts"))) == expected


def test_observed_is_unobserved(model, ids, left_padding):
    with torch.no_grad():
        unobserved = model(ids, attention_mask=left_padding).logits
        with record(model, tap_names(model)) as seen:
            observed = model(ids, attention_mask=left_padding).logits
    assert torch.equal(observed, unobserved)
    assert set(seen) == set(tap_names(model))
    assert not any(module._forward_hooks for module in model.modules())


def test_shapes(ids):
    model = build("modern")
    with record(model, tap_names(model)) as seen:
        model(ids)
    at = "model.layers.1."
    B, T, D, H, K, S = 3, 20, 32, 4, 2, 8
    expected = {
        "model.embedded": (B, T, D),
        at + "input": (B, T, D),
        at + "self_attn.queries": (B, H, T, S),
        at + "self_attn.keys": (B, K, T, S),
        at + "self_attn.values": (B, K, T, S),
        at + "self_attn.pattern": (B, H, T, T),
        at + "self_attn.heads": (B, T, H, S),
        at + "self_attn.output": (B, T, D),
        at + "middle": (B, T, D),
        at + "mlp.hidden": (B, T, BASE["intermediate_size"]),
        at + "mlp.output": (B, T, D),
        at + "output": (B, T, D),
        "model.normed": (B, T, D),
        "logits": (B, T, BASE["vocab_size"]),
    }
    assert {name: tuple(seen[name].shape) for name in expected} == expected


def test_the_stream_is_the_sum_of_what_the_parts_wrote(model, ids):
    with torch.no_grad(), record(model, tap_names(model)) as seen:
        model(ids)
    for i, block in enumerate(model.model.layers):
        at = f"model.layers.{i}."
        after_attention = seen[at + "input"] + seen[at + "self_attn.output"]
        after_mlp = seen[at + "middle"] + seen[at + "mlp.output"]
        if block.post_norm:
            after_attention = block.input_layernorm(after_attention)
            after_mlp = block.post_attention_layernorm(after_mlp)
        torch.testing.assert_close(seen[at + "middle"], after_attention)
        torch.testing.assert_close(seen[at + "output"], after_mlp)


@pytest.mark.parametrize("kind", ["modern", "windows", "gpt-oss"])
def test_the_pattern_is_the_one_that_was_used(kind, ids, left_padding):
    model = build(kind)
    for cached in (False, True):
        cache = Cache() if cached else None
        with torch.no_grad(), record(model, tap_names(model)) as seen:
            values = []
            for part in (ids[:, :17], ids[:, 17:]) if cached else (ids,):
                mask = left_padding[:, : part.shape[1]] if cache is None or cache.length == 0 else None
                model(part, attention_mask=mask, cache=cache)
                values.append(seen["model.layers.0.self_attn.values"])
        pattern, heads = seen["model.layers.0.self_attn.pattern"], seen["model.layers.0.self_attn.heads"]
        if kind == "gpt-oss":
            assert bool((pattern.sum(-1) < 1).all())
        else:
            torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        gathered = pattern @ torch.cat(values, dim=2).repeat_interleave(2, dim=1)  # (B, H, T, S) x (B, H, S, D)
        torch.testing.assert_close(gathered.transpose(1, 2), heads, atol=1e-5, rtol=1e-4)


def test_gradients_reach_a_tap(ids):
    model = build("modern")
    with record(model, ["model.layers.0.output"]) as seen:
        loss = model(ids, labels=ids).loss
    (gradient,) = torch.autograd.grad(loss, seen["model.layers.0.output"])
    assert gradient.abs().max() > 0


def test_an_unknown_name_leaves_no_hook_behind():
    model = build("modern")
    with (
        pytest.raises(MalmoiError, match=r"no tap 'logit'\. Did you mean 'logits'"),
        record(model, ["model.normed", "logit"]),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())
