"""Guessing ahead: the same text to the letter, the same distribution, fewer steps where it pays and none where not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speakers import build, made_up, one_at_a_time

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate import sampling
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request
from malmoi.generate.speculation import DraftModel, Pace, Speculation, _Record
from malmoi.generate.torch_backend import TorchBackend

SIZE = 6


def repeating(past):
    """A model that mostly goes round in a circle, the kind of text where lookup shines."""
    return 4.0 * (np.arange(SIZE) == (past[-1] + 1) % SIZE) + np.arange(SIZE) * 0.01


def speculations(function):
    draft = FunctionBackend(function, SIZE, block_size=3, num_blocks=100)
    return {"lookup": Speculation(), "draft": Speculation(False, DraftModel(draft, SIZE)), "none": None}


def fixed(speculation, row):
    """Every row takes `row` times what a step takes besides: given, as a made-up model's time says nothing."""
    for rows in (1, 2, 4, 8) * 200:
        speculation.pace.add(rows, 1 + row * rows)
    speculation.pace.add = lambda rows, seconds: None
    return speculation


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=8), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0, 0.7, 1.5]),
    kind=st.sampled_from(["lookup", "draft"]),
    others=st.sampled_from([{}, {"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}, {"top_p": 0.8}]),
)
def test_the_same_is_written_to_the_letter(prompts, seed, temperature, kind, others):
    others = {} if temperature == 0 and "top_p" in others else others
    config = GenerationConfig(
        temperature=temperature, do_sample=temperature > 0, seed=seed, max_new_tokens=25, eos_token_id=(0,), **others
    )
    for function in (repeating, made_up(SIZE, seed % 7, 1.5)):
        backend = FunctionBackend(function, SIZE)
        engine = Engine(backend, speculation=fixed(speculations(made_up(SIZE, seed % 7, 1.2))[kind], 0.05))
        found = [[] for _ in prompts]
        for token in engine.stream(Request(prompt, config) for prompt in prompts):
            found[token.request].append(token.id)
        assert found == [one_at_a_time(function, prompt, config) for prompt in prompts]


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_the_distribution_is_the_models_own(kind):
    """Chi-squared at the 99.9 % level over pairs of tokens, the second of which is usually a checked guess."""
    weights = np.array([0.5, 1.2, -0.4, 0.9, 0.0, 0.3])

    def function(past):
        return np.roll(weights, past[-1])

    wide = fixed(speculations(function)[kind], 0.05)
    backend = FunctionBackend(function, SIZE, block_size=64, num_blocks=16, max_position=1000)
    counts, pairs, guesses = np.zeros((SIZE, SIZE)), 0, 0
    for seed in range(12):
        config = GenerationConfig(temperature=1.0, do_sample=True, seed=seed, max_new_tokens=600, eos_token_id=())
        ids = [token.id for token in Engine(backend, speculation=wide).stream(Request([0], config))]
        np.add.at(counts, (ids[:-1], ids[1:]), 1)
        pairs += len(ids) - 1
    guesses = sum(wanted for _, wanted in backend.calls) - len(backend.calls)
    assert guesses > 100  # or nothing was tested
    statistic = 0.0
    for before in range(SIZE):
        expected = np.exp(sampling.log_softmax(function((before,)))) * counts[before].sum()
        statistic += float(((counts[before] - expected) ** 2 / expected).sum())
    assert statistic < 59.70  # 30 degrees of freedom


def test_fewer_steps_where_guesses_hold():
    config = GenerationConfig(max_new_tokens=200, eos_token_id=())
    steps = {}
    for kind, speculation in speculations(repeating).items():
        backend = FunctionBackend(repeating, SIZE)
        if speculation is not None:
            fixed(speculation, 0.05)
        tokens = [token.id for token in Engine(backend, speculation=speculation).stream(Request([0], config))]
        assert tokens == [(1 + place) % SIZE for place in range(200)]
        steps[kind] = len(backend.calls)
    assert steps["none"] == 200
    assert steps["lookup"] < 100
    assert steps["draft"] < 100


def test_hardly_a_guess_where_none_holds():
    """Random tokens repeat short n-grams by chance; the guesses from them fail, and are soon given up."""

    def uniform(past):
        return np.zeros(SIZE)

    config = GenerationConfig(temperature=1.0, do_sample=True, seed=1, max_new_tokens=450, eos_token_id=())
    backend = FunctionBackend(uniform, SIZE)
    speculation = fixed(Speculation(), 0.4)  # a guess must hold two times in seven
    list(Engine(backend, speculation=speculation).stream(Request([0], config)))
    assert sum(wanted for _, wanted in backend.calls) - len(backend.calls) < 25


def test_the_price_of_a_row_is_measured():
    pace = Pace()
    assert pace.fit() == (0.9, 0.1)
    for rows in (1, 5, 2, 9, 4) * 20:
        pace.add(rows, 0.010 + 0.002 * rows)
    assert pace.fit() == pytest.approx((0.010, 0.002))


def test_guesses_go_as_deep_as_they_pay():
    record = _Record(held=8, made=10)
    assert record.depth(0.5, most=8) == 3  # 0.8 ** 3 is above 0.5, 0.8 ** 4 is not
    assert record.depth(0.0, most=8) == 8
    assert [record.depth(0.9, most=8) for _ in range(40)].count(1) == 2  # a trial, a rest of 16, a trial ...
    assert record.depth(1.0, most=8) == 0


def test_what_followed_before_is_looked_up():
    record = _Record()
    assert record.look_up([1, 2, 3, 4, 5], 3) == []
    assert record.look_up([1, 2, 3, 4, 5, 2, 3], 3) == [4, 5, 2]
    assert record.look_up([1, 2, 3, 4, 5, 2, 3, 7, 2, 3], 2) == [7, 2]  # the last time counts
    assert _Record().look_up([7, 7, 7], 5) == [7] * 5
    assert _Record().look_up([1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]


def test_on_a_real_model(tokenizer):
    model = build(len(tokenizer)).double()  # so that rounding never decides
    draft = DraftModel(TorchBackend(build(len(tokenizer), num_hidden_layers=1)), len(tokenizer))
    prompts = [[5, 6, 7, 5, 6, 7, 5, 6], [9]]
    for asked in ({}, {"temperature": 0.9, "seed": 3, "do_sample": True}):
        config = GenerationConfig(max_new_tokens=30, eos_token_id=(), **asked)
        texts = []
        for speculation in (None, fixed(Speculation(), 0.01), fixed(Speculation(True, draft), 0.01)):
            found = [[], []]
            for token in Engine(model, speculation=speculation).stream(Request(prompt, config) for prompt in prompts):
                found[token.request].append(token.id)
            texts.append(found)
        assert texts[0] == texts[1] == texts[2]


def test_a_draft_model_must_share_the_vocabulary():
    with pytest.raises(MalmoiError, match="vocabulary of 6 tokens and the model one of 7"):
        DraftModel(FunctionBackend(repeating, SIZE), 7)
