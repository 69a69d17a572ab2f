"""Guidance: the formula, the same picture whatever the company, and nothing at scale 1."""

import numpy as np
import pytest
from pictured import BOTH, build_both

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate import sampling
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request, generate
from malmoi.generate.image_form import ImageForm
from malmoi.generate.torch_backend import TorchBackend

IDS = BOTH.images
PROMPT = [20, 21, 22, IDS.begin, IDS.size]
CELLS = IDS.grid**2


@pytest.fixture(scope="module")
def model():
    return build_both()


def drawn(model, scale, seed=3, **settings):
    settings = {"temperature": 1.0, "max_new_tokens": CELLS + 1, **settings}
    return generate(model, PROMPT, tokenizer=BOTH, guidance_scale=scale, seed=seed, **settings).new_tokens


def by_hand(model, scale, seed, sample=0):
    """Two plain forward passes a token and the formula of Ho and Salimans."""
    import torch

    tokens, alone = list(PROMPT), PROMPT[3:]
    form = ImageForm(IDS, len(BOTH), CELLS + 1, inside=2)
    while len(tokens) < len(PROMPT) + CELLS + 1:
        with torch.inference_mode():
            c, u = (model(torch.tensor([ids])).logits[0, -1].numpy() for ids in (tokens, alone))
        c, u = sampling.log_softmax(c), sampling.log_softmax(u)
        row = sampling.allow(u + scale * (c - u), form.allowed())
        token = sampling.sample(row, sampling.draw(seed, len(tokens), sample))
        form.consume(token)
        tokens.append(token)
        alone.append(token)
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("scale", [0.0, 2.0, 5.0])
def test_it_is_the_formula_cached_and_uncached(model, scale):
    expected = by_hand(model, scale, seed=7, sample=1)
    assert drawn(model, scale, seed=7, num_return_sequences=2)[1] == expected
    assert drawn(model, scale, seed=7, num_return_sequences=2, use_cache=False)[1] == expected


def test_it_pushes_towards_the_prompt_and_one_is_off(model):
    off = drawn(model, 1.0)
    assert off == generate(model, PROMPT, tokenizer=BOTH, seed=3, temperature=1.0, max_new_tokens=CELLS + 1).new_tokens
    assert drawn(model, 4.0) != off
    assert drawn(model, 4.0) == drawn(model, 4.0)
    assert drawn(model, 4.0, seed=4) != drawn(model, 4.0)


def test_company_and_a_small_cache_change_nothing():
    """Preempted, resumed, chunked: two rows of one job stay together, over a made-up model."""
    seen = set()

    def scores(past):
        seen.add(past)
        return np.random.default_rng(abs(hash(past)) % 2**32).normal(size=len(BOTH)).astype(np.float32)

    def run(blocks, budget, prefix_cache):
        backend = FunctionBackend(scores, len(BOTH), block_size=4, num_blocks=blocks, max_position=256)
        engine = Engine(backend, BOTH, budget=budget, prefix_cache=prefix_cache)
        config = GenerationConfig(max_new_tokens=CELLS + 1, temperature=1.0, seed=5, guidance_scale=3.0)
        other = GenerationConfig(max_new_tokens=60, temperature=1.0, seed=6)
        requests = [Request(PROMPT, config), Request([9, 9, 9], other), Request([8] * 9 + PROMPT, config)]
        rows = [[], [], []]
        for token in engine.stream(requests):
            assert token.error is None
            rows[token.request].append(token.id)
        assert engine.scheduler.pool.available == blocks
        return rows

    plenty = run(200, 512, True)
    assert run(44, 512, True) == plenty
    assert run(60, 3, False) == plenty
    assert all(row[-1] == IDS.end for row in (plenty[0], plenty[2]))
    assert tuple(PROMPT[3:]) in seen


def test_after_the_picture_the_text_goes_on_unguided(model):
    made = generate(
        model,
        PROMPT,
        tokenizer=BOTH,
        guidance_scale=3.0,
        temperature=1.0,
        seed=1,
        max_new_tokens=CELLS + 9,
        logit_bias={IDS.begin: -100.0, 0: -100.0},
    )
    row = made.new_tokens[0]
    plain = generate(
        model,
        [*PROMPT, *row[: CELLS + 1]],
        tokenizer=BOTH,
        temperature=1.0,
        seed=1,
        max_new_tokens=8,
        logit_bias={IDS.begin: -100.0, 0: -100.0},
    )
    assert row[CELLS + 1 :] == plain.new_tokens[0]


def test_where_no_picture_was_begun_it_does_nothing(model):
    settings = {"tokenizer": BOTH, "max_new_tokens": 10, "seed": 1, "temperature": 1.0}
    assert (
        generate(model, [5, 6], guidance_scale=4.0, **settings).new_tokens
        == generate(model, [5, 6], **settings).new_tokens
    )
    alone = {**settings, "max_new_tokens": CELLS + 1}
    begun = PROMPT[3:]  # nothing before the picture: there is nothing to be guided by
    assert generate(model, begun, guidance_scale=4.0, **alone).new_tokens == generate(model, begun, **alone).new_tokens


def test_beams_and_a_cache_that_is_too_small_are_refused(model):
    with pytest.raises(MalmoiError, match="takes no guidance"):
        generate(model, PROMPT, tokenizer=BOTH, guidance_scale=2.0, num_beams=2, max_new_tokens=CELLS + 1)
    small = TorchBackend(model, num_blocks=3)
    with pytest.raises(MalmoiError, match="in each of 2"):
        generate(small, PROMPT, tokenizer=BOTH, guidance_scale=2.0, max_new_tokens=CELLS + 1, temperature=1.0)
