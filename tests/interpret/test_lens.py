"""The lens and the patterns: the production model's own numbers, which watching does not change."""

import json

import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.interpret import lens as module
from malmoi.interpret.lens import explain_step, lens, watch
from malmoi.model.cache import Cache
from malmoi.model.taps import record, tap_names
from small_models import KINDS, build

IDS = [5, 17, 3, 44, 17, 9, 30, 2]


class Letters:
    def token_bytes(self, token: int) -> bytes:
        return bytes([97 + token % 26])


@pytest.mark.parametrize("kind", KINDS)
def test_observed_is_unobserved(kind):
    """Bitwise, and nobody is left watching."""
    model = build(kind)
    cache = Cache(len(IDS))
    tokens = torch.tensor([IDS])
    with torch.no_grad():
        model.hidden_states(tokens[:, :-1], cache=cache)
        plain = model(tokens[:, -1:], cache=cache).logits[0, -1]
    assert torch.equal(watch(model, IDS).logits, plain)
    assert not any(model.get_submodule(name).watched for name in tap_names(model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_says_what_the_model_says(kind):
    model = build(kind)
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, -1]
    step = watch(model, IDS)
    assert torch.allclose(lens(model, step.streams)[-1], logits.log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_the_last_rows_of_the_whole_pass(kind):
    model = build(kind)
    names = [f"model.layers.{layer}.self_attn.pattern" for layer in range(2)]
    with torch.no_grad(), record(model, names) as whole:
        model(torch.tensor([IDS]))
    for pattern, name in zip(watch(model, IDS).patterns, names, strict=True):
        assert pattern.shape == (4, len(IDS))
        assert torch.allclose(pattern, whole[name][0, :, -1], atol=1e-6)


def test_a_step_as_plain_data():
    model = build("modern")
    found = explain_step(model, Letters(), IDS, token=9)
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    assert found["start"] == 0
    assert [each["id"] for each in found["tokens"]] == IDS
    with torch.no_grad():
        logprobs = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    last = found["layers"][-1]
    assert [guess["id"] for guess in last["guesses"]] == logprobs.topk(5).indices.tolist()
    assert last["probability"] == pytest.approx(float(logprobs[9].exp()), abs=1e-5)
    assert last["rank"] == int((logprobs > logprobs[9]).sum()) + 1
    for row in found["layers"][1:]:
        assert [sum(head) for head in row["attention"]] == pytest.approx([1] * 4, abs=1e-3)
    json.dumps(found)


def test_a_long_text_is_cut_and_what_went_before_is_summed(monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS", 8 * 3)  # 2 layers of 4 heads, three tokens each
    found = explain_step(build("modern"), Letters(), IDS)
    assert found["start"] == len(IDS) - 3
    for row in found["layers"][1:]:
        for head, earlier in zip(row["attention"], row["earlier"], strict=True):
            assert len(head) == 3
            assert sum(head) + earlier == pytest.approx(1, abs=1e-3)


def test_mistakes_are_said():
    model = build("modern")
    with pytest.raises(MalmoiError, match="no tokens"):
        watch(model, [])
    with pytest.raises(MalmoiError, match="context of 48"):
        watch(model, [1] * 49)
    with pytest.raises(MalmoiError, match="outside the vocabulary"):
        explain_step(model, Letters(), IDS, token=61)
    assert watch(model, [7]).patterns[0].shape == (4, 1)
