"""Beam search: the texts of transformers' on the same random weights; exhaustive search where that is possible."""

import itertools

import numpy as np
import pytest
import torch
from speakers import Scripted, build, made_up

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.formats import huggingface
from malmoi.generate import sampling
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request, generate

BEAMS = [
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 0.0, "num_return_sequences": 4},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 2},
    {"num_beams": 2, "early_stopping": "never", "no_repeat_ngram_size": 2},
    {"num_beams": 4, "repetition_penalty": 1.3, "min_new_tokens": 3},
]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The same random weights here and in transformers; ends are frequent enough for texts of many lengths."""
    transformers = pytest.importorskip("transformers")
    model = build(40, initializer_range=0.25)
    folder = tmp_path_factory.mktemp("twins")
    huggingface.save(model, folder)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("asked", BEAMS, ids=str)
def test_the_texts_are_those_of_transformers(twins, asked):
    ours, theirs = twins
    for start in range(6):
        prompt = [5 + start, 6, 7 + start]
        common = {"max_new_tokens": 9, "eos_token_id": [0, 2, 3, 4], "pad_token_id": 1, **asked}
        expected = theirs.generate(torch.tensor([prompt]), do_sample=False, **common)
        found = generate(ours, prompt, **common).sequences
        width = max(found.shape[1], expected.shape[1])
        found, expected = (np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=1) for t in (found, expected))
        assert found.tolist() == expected.tolist()


def test_enough_beams_find_the_likeliest_text_of_all():
    function, length, size = made_up(4, 5, 1.0), 4, 4

    def logprob(text):
        return sum(
            sampling.log_softmax(np.float32(function((1, *text[:place]))))[token] for place, token in enumerate(text)
        )

    best = max(itertools.product(range(size), repeat=length), key=logprob)
    backend = FunctionBackend(function, size)
    found = generate(backend, [1], num_beams=size ** (length - 1), max_new_tokens=length, eos_token_id=())
    assert tuple(found.new_tokens[0]) == best
    assert found.finish_reasons == ["length"]


def test_beams_share_their_past_and_leave_nothing_behind():
    backend = FunctionBackend(made_up(9), 9, block_size=4, num_blocks=40)
    engine = Engine(backend, budget=8)
    config = GenerationConfig(num_beams=4, num_return_sequences=2, max_new_tokens=8, eos_token_id=())
    tokens = list(engine.stream([Request([1, 2, 3] * 4, config), Request([2] * 7, config)]))
    assert sum(rows for rows, _ in backend.calls) <= 12 + 7 + 2 * 4 * 7  # prompts once, then a row a beam
    assert engine.scheduler.pool.available == 40
    for request in (0, 1):
        for sample in (0, 1):
            mine = [token for token in tokens if (token.request, token.sample) == (request, sample)]
            assert [token.finish_reason for token in mine] == [None] * 7 + ["length"]


@pytest.mark.parametrize("num_blocks", [12, 13, 17])
def test_beams_that_gave_way_come_back_to_the_same_texts(num_blocks):
    def write(blocks):
        engine = Engine(FunctionBackend(made_up(9), 9, block_size=4, num_blocks=blocks), budget=6)
        config = GenerationConfig(num_beams=3, max_new_tokens=8, eos_token_id=(0,))
        found = {}
        for token in engine.stream(Request([number, 2, 3, number], config) for number in range(1, 5)):
            found.setdefault(token.request, []).append(token.id)
        assert engine.scheduler.pool.available == blocks
        return found

    assert write(num_blocks) == write(500)


def test_a_stop_string_ends_a_beam_and_is_not_shown(tokenizer):
    ids = tokenizer.encode("끝 a\nb")
    model = Scripted(ids, len(tokenizer))
    made = generate(model, [5], tokenizer=tokenizer, num_beams=2, stop_strings="\n", max_new_tokens=len(ids))
    assert made.texts == ["끝 a"]
    assert made.finish_reasons == ["stop"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_beams": 2, "temperature": 0.7}, "num_beams=2 looks for the likeliest.*temperature=0.7"),
        ({"num_beams": 2, "do_sample": True}, "Leave one of the two out"),
        ({"num_beams": 2, "num_return_sequences": 3}, "Use num_beams=3"),
        ({"num_beams": 2, "trace": True}, "no trace"),
    ],
    ids=str,
)
def test_what_beams_cannot_do(asked, says):
    with pytest.raises(MalmoiError, match=says):
        generate(FunctionBackend(made_up(9), 9), [1], max_new_tokens=3, **asked)
    with pytest.raises(MalmoiError, match=r"cache is too small.*each of 300 beams"):
        generate(FunctionBackend(made_up(9), 9), [1], max_new_tokens=100, num_beams=300)


def test_what_a_folder_suggests_gives_way():
    backend = FunctionBackend(made_up(9), 9)
    backend.generation_config = GenerationConfig(num_beams=3, max_new_tokens=4)
    assert generate(backend, [1]).config.num_beams == 3
    assert generate(backend, [1], temperature=0.5).config.num_beams == 1
    backend.generation_config = GenerationConfig(temperature=0.5, max_new_tokens=4)
    searched = generate(backend, [1], num_beams=2)
    assert not searched.config.do_sample
    assert searched.new_tokens == generate(backend, [1], num_beams=2, temperature=0).new_tokens
