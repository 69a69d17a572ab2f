"""Decision 10: sampling means what people mean; what cannot be meant is refused with the reason."""

import pytest

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.settings import DEFAULT_NEW_TOKENS, new_tokens, resolve


def resolved(base=None, prompt_length=4, context=64, **settings):
    return resolve(settings, base, prompt_length, context)


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 1.0}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 5}, False),
        ({"top_p": 0.9}, True),
        ({"top_k": 5}, True),
        ({"min_p": 0.1}, True),
        ({"top_p": 1.0, "top_k": 0, "min_p": 0.0}, False),
        ({"num_return_sequences": 5}, True),
        ({"num_return_sequences": 1}, False),
        ({"do_sample": True}, True),
        ({"do_sample": False}, False),
        ({"do_sample": False, "temperature": 1.0, "num_return_sequences": 1}, False),
        ({"repetition_penalty": 1.3}, False),
        ({"temperature": None, "top_k": None}, False),
        ({"seed": 3}, False),
    ],
    ids=str,
)
def test_what_implies_sampling(settings, samples):
    assert resolved(**settings).do_sample is samples


@pytest.mark.parametrize(
    ("base", "settings", "samples"),
    [
        ({"temperature": 0.6, "top_p": 0.95}, {}, True),
        ({"do_sample": True, "temperature": 0.6}, {}, True),
        ({"do_sample": True, "temperature": 0.6}, {"temperature": 0}, False),
        ({"do_sample": True, "top_p": 0.9}, {"do_sample": False}, False),
        ({"do_sample": False}, {"temperature": 0.7}, True),
        ({"temperature": 0.0}, {}, False),
        ({"temperature": 0.0}, {"temperature": 0.7}, True),
    ],
    ids=str,
)
def test_a_call_wins_over_what_the_model_suggests(base, settings, samples):
    assert resolved(GenerationConfig(**base), **settings).do_sample is samples


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"do_sample": True, "temperature": 0}, "contradict"),
        ({"do_sample": False, "temperature": 0.7}, "temperature=0.7 would have no effect"),
        ({"do_sample": False, "top_k": 3, "min_p": 0.1}, "top_k=3, min_p=0.1"),
        ({"do_sample": False, "num_return_sequences": 2}, "all sequences would be the same"),
        ({"temperature": 0, "num_return_sequences": 3}, "3 sequences"),
        ({"temprature": 0.7}, "Did you mean 'temperature'"),
        ({"num_returned_sequences": 2}, "Did you mean 'num_return_sequences'"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 61}, "at most 60"),
        ({"max_length": 65}, "context of 64"),
        ({"max_length": 4}, "alone has 4"),
        ({"min_new_tokens": 8, "max_new_tokens": 7}, "more than the 7"),
        ({"stop_strings": ("a", "")}, "empty text"),
    ],
    ids=str,
)
def test_contradictions_and_impossible_values_are_explained(settings, says):
    with pytest.raises(MalmoiError, match=says):
        resolved(**settings)


@pytest.mark.parametrize(
    ("settings", "base", "count"),
    [
        ({}, {}, 60),  # the context ends before the default does
        ({"max_new_tokens": 7}, {}, 7),
        ({"max_length": 20}, {}, 16),
        ({"max_length": 20, "max_new_tokens": 30}, {}, 30),  # max_new_tokens wins, as in transformers
        ({}, {"max_new_tokens": 5}, 5),
        ({}, {"max_new_tokens": 500}, 60),  # a suggestion gives way to the context
        ({}, {"max_length": 20}, 16),
        ({}, {"max_length": 3}, 60),  # a suggestion shorter than the prompt is none
        ({"max_length": 20}, {"max_new_tokens": 5}, 16),
        ({"max_new_tokens": 30}, {"max_length": 20}, 30),
        ({"max_new_tokens": 60}, {}, 60),
        ({"max_length": 64}, {}, 60),
    ],
    ids=str,
)
def test_how_many_tokens_may_be_written(settings, base, count):
    assert new_tokens(resolved(GenerationConfig(**base), **settings), 4) == count


def test_without_lengths_a_reply_is_long_but_not_endless():
    assert new_tokens(resolved(context=100_000), 4) == DEFAULT_NEW_TOKENS


def test_max_length_leaves_a_shorter_prompt_more_room():
    config = resolved(max_length=20, prompt_length=10)
    assert [new_tokens(config, length) for length in (10, 3)] == [10, 17]


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_a_prompt_that_fills_the_context_is_an_error(length):
    with pytest.raises(MalmoiError, match=f"has {length} tokens.*at most 63"):
        resolved(prompt_length=length)


def test_a_suggested_minimum_gives_way_and_one_stop_string_may_be_a_text():
    assert resolved(GenerationConfig(min_new_tokens=10), max_new_tokens=3).min_new_tokens == 3
    assert resolved(stop_strings="\n").stop_strings == ("\n",)
