"""The torch backend: company, blocks, chunks and departures change nothing about the text; nothing is read twice."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speakers import CONTEXT, LAYOUTS, PROMPTS, SETTINGS, build

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.engine import Engine, Request, generate
from malmoi.generate.torch_backend import TorchBackend


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_alone_together_and_without_a_cache_the_same_is_written(layout, asked):
    """Rows of different lengths end at different times, so that rows leave and columns are dropped on the way."""
    model = build(300, **LAYOUTS[layout])
    together = generate(model, PROMPTS, max_length=CONTEXT, **asked)
    uncached = generate(model, PROMPTS, max_length=CONTEXT, use_cache=False, **asked)
    assert uncached.new_tokens == together.new_tokens
    assert max(map(len, together.new_tokens)) > CONTEXT - len(PROMPTS[2])  # beyond what the longest prompt leaves
    for prompt, tokens in zip(PROMPTS, together.new_tokens, strict=True):
        alone = generate(model, prompt, max_length=CONTEXT, **asked)
        assert alone.new_tokens == [tokens]


@functools.cache
def plain_model():
    return build(300).double()  # so that rounding never decides where a draw falls


@settings(max_examples=8)
@given(st.lists(st.lists(st.integers(2, 299), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 2**62))
def test_any_batch_writes_what_each_prompt_alone_would(batch, seed):
    model = plain_model()
    asked = {"max_new_tokens": 6, "temperature": 0.8, "num_return_sequences": 2, "seed": seed}
    together = generate(model, batch, **asked)
    alone = [tokens for prompt in batch for tokens in generate(model, prompt, **asked).new_tokens]
    assert together.new_tokens == alone


def test_each_prompt_is_read_once_whatever_the_number_of_its_sequences(model):
    shapes = []
    hook = model.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    try:
        generate(model, PROMPTS[:2], num_return_sequences=3, max_new_tokens=3, seed=0, eos_token_id=())
    finally:
        hook.remove()
    assert shapes == [(2, 3), (6, 1), (6, 1)]


def test_rows_that_ended_leave_the_batch(model):
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[0]))
    prompts = [list(range(5, 5 + length)) for length in (40, 40, 40, 4)]
    try:
        generate(model, prompts, max_length=CONTEXT, eos_token_id=())
    finally:
        hook.remove()
    assert sizes == [4] * 8 + [1] * (CONTEXT - 4 - 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_blocks_chunks_and_too_little_memory_change_nothing(layout):
    model = build(300, **LAYOUTS[layout]).double()
    config = GenerationConfig(max_new_tokens=12, eos_token_id=(), temperature=0.9, seed=1, num_return_sequences=2)
    expected = generate(model, PROMPTS, config).new_tokens
    backend = TorchBackend(model, num_blocks=15, block_size=3)  # the longest needs 14
    engine = Engine(backend, generation_config=model.generation_config, budget=7)
    for _ in range(2):  # the second time over what the first one left in the cache
        found = {}
        for token in engine.stream(Request(prompt, config) for prompt in PROMPTS):
            found.setdefault((token.request, token.sample), []).append(token.id)
        assert [found[key] for key in sorted(found)] == expected
    assert engine.scheduler.pool.available == 15


def test_half_precision_gives_float32_logits_and_memory_is_taken_when_needed():
    model = build(300).bfloat16()
    backend = TorchBackend(model, num_blocks=1000, block_size=4)
    assert len(generate(backend, PROMPTS, max_new_tokens=3).new_tokens) == 4
    assert backend._keys[0].shape[0] < 100 * 4
    assert TorchBackend(model, memory=100_000).num_blocks == 100_000 // (2 * 2 * 2 * 8 * 2 * 32)
    with pytest.raises(MalmoiError, match="cache is too small"):
        Engine(TorchBackend(model, memory=5000)).submit(Request([5] * 40, GenerationConfig(max_new_tokens=8)))
