"""The trace: true to the model and to the settings, fit for JSON, and free for who does not ask."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speakers import PROMPTS, SETTINGS, Scripted

from malmoi.config import GenerationConfig
from malmoi.generate import sampling
from malmoi.generate import trace as trace_module
from malmoi.generate.engine import generate, stream
from malmoi.generate.trace import Alternative, Observer, TokenTrace


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_a_trace_tells_what_the_model_believed_and_what_the_settings_did(model, tokenizer, asked):
    made = generate(model, PROMPTS[:2], tokenizer=tokenizer, trace=3, max_new_tokens=6, eos_token_id=(), **asked)
    for prompt, tokens, traces in zip(PROMPTS, made.new_tokens, made.traces, strict=False):
        ids = prompt + tokens
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        assert [trace.id for trace in traces] == tokens
        assert [trace.position for trace in traces] == list(range(len(prompt), len(ids)))
        for trace in traces:
            raw = logprobs[trace.position - 1]
            assert trace.bytes == tokenizer.token_bytes(trace.id)
            assert trace.logprob == pytest.approx(float(raw[trace.id]), abs=1e-4)
            assert trace.entropy == pytest.approx(float(-(raw.exp() * raw).sum()), abs=1e-4)
            assert trace.rank == 1 + int((raw > raw[trace.id] + 1e-5).sum())
            assert [other.id for other in trace.alternatives] == raw.topk(3).indices.tolist()
            for other in trace.alternatives:
                assert other.logprob == pytest.approx(float(raw[other.id]), abs=1e-4)
            assert 0 < trace.probability <= 1 + 1e-12
            assert all(0 <= mass <= 1 + 1e-12 for mass in trace.removed.values())
    order = {0: ["temperature"], 1: ["temperature"], 2: ["repetition_penalty", "top_k", "top_p"]}
    assert list(traces[0].removed) == order[SETTINGS.index(asked)]


def test_a_filter_removes_exactly_the_mass_of_what_it_cuts(model):
    made = generate(model, PROMPTS[0], trace=4, top_k=2, seed=0, max_new_tokens=4)
    for trace in made.traces[0]:
        best = [math.exp(other.logprob) for other in trace.alternatives[:2]]
        assert trace.removed == {"top_k": pytest.approx(1 - sum(best), abs=1e-9)}
        assert trace.probability == pytest.approx(math.exp(trace.logprob) / sum(best), rel=1e-9)
        assert [math.isfinite(other.final_logprob) for other in trace.alternatives[:4]] == [True, True, False, False]


def test_an_alternative_tells_its_probability_after_each_setting(model):
    made = generate(model, PROMPTS[0], trace=4, temperature=0.5, top_k=2, seed=0, max_new_tokens=3)
    for trace in made.traces[0]:
        for place, other in enumerate(trace.alternatives):
            assert list(other.after) == ["temperature", "top_k"]
            assert other.after["top_k"] == other.final_logprob
            assert math.isfinite(other.after["top_k"]) is (place < 2)
        squared = [2 * other.logprob - other.after["temperature"] for other in trace.alternatives]
        assert squared == pytest.approx([squared[0]] * 4, abs=1e-9)  # p^(1/0.5) up to one factor for all


def test_greedy_is_reported_as_temperature_zero(model):
    for trace in generate(model, PROMPTS[0], trace=True, max_new_tokens=3).traces[0]:
        assert trace.rank == 1
        assert trace.probability == 1
        assert trace.removed == {"temperature": pytest.approx(1 - math.exp(trace.logprob), abs=1e-9)}


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_being_watched_changes_nothing(model, tokenizer, asked):
    plain = generate(model, PROMPTS, max_new_tokens=10, **asked)
    watched = generate(model, PROMPTS, max_new_tokens=10, trace=True, tokenizer=tokenizer, **asked)
    assert watched.new_tokens == plain.new_tokens
    assert plain.traces is None
    streamed = list(stream(model, tokenizer, PROMPTS[0], trace=True, max_new_tokens=10, **asked))
    assert [token.trace.id for token in streamed] == plain.new_tokens[0]


@pytest.mark.parametrize("asked", [{}, {"temperature": 0.7, "top_k": 5, "seed": 0}], ids=str)
def test_who_does_not_ask_for_a_trace_does_not_pay_for_it(tokenizer, asked, monkeypatch):
    """The softmax over the vocabulary is what a trace costs; without one it is never taken."""
    count = Counter()

    def counting(logits):
        count["softmax"] += 1
        return sampling.log_softmax(logits)

    monkeypatch.setattr(trace_module, "log_softmax", counting)
    generate(Scripted([5] * 4, len(tokenizer)), [5], max_new_tokens=4, **asked)
    assert not count
    generate(Scripted([5] * 4, len(tokenizer)), [5], max_new_tokens=4, trace=True, **asked)
    assert count["softmax"] >= 4


logits = st.lists(st.integers(-20, 20).map(lambda number: number / 4), min_size=2, max_size=12)


@given(logits, st.floats(0.2, 3), st.integers(0, 6), st.floats(0.2, 1), st.floats(0, 0.4), st.floats(0, 0.999))
def test_what_the_settings_did_follows_from_the_two_distributions(row, temperature, k, p, share, u):
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=k, top_p=p, min_p=share)
    given_logits = np.array(row)
    observer = Observer(given_logits)
    shaped = sampling.shape(given_logits, config, watch=observer)
    trace = observer.trace(sampling.sample(shaped, u), 0, None, len(row))
    before, after = (np.exp(sampling.log_softmax(logits)) for logits in (given_logits, shaped))
    assert trace.probability == pytest.approx(float(after[trace.id]), rel=1e-9)
    assert trace.logprob == pytest.approx(math.log(before[trace.id]), rel=1e-9, abs=1e-12)
    for other in trace.alternatives:
        assert math.exp(other.final_logprob) == pytest.approx(float(after[other.id]), rel=1e-9, abs=1e-15)
    kept = after > 0
    if temperature == 1 and len(trace.removed) == 1:
        assert sum(trace.removed.values()) == pytest.approx(1 - float(before[kept].sum()), abs=1e-9)
    assert sum(trace.removed.values()) >= float(np.abs(before - after).sum() / 2) - 1e-9  # the triangle inequality


def test_a_trace_travels_as_json():
    trace = TokenTrace(
        id=7,
        bytes="끝".encode()[:2],
        position=3,
        logprob=-0.5,
        rank=1,
        entropy=1.25,
        probability=0.75,
        alternatives=(Alternative(9, b"a", -1.5, -math.inf, {"top_k": -math.inf}),),
        removed={"top_k": 0.125},
    )
    assert json.loads(json.dumps(trace.to_dict(), allow_nan=False)) == {
        "id": 7,
        "text": "\ufffd",
        "bytes": [0xEB, 0x81],
        "position": 3,
        "logprob": -0.5,
        "rank": 1,
        "entropy": 1.25,
        "probability": 0.75,
        "alternatives": [
            {"id": 9, "text": "a", "bytes": [97], "logprob": -1.5, "final_logprob": None, "after": {"top_k": None}}
        ],
        "removed": {"top_k": 0.125},
    }
