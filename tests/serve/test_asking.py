"""From fields to settings: what is left out is the model's own, temperature 1 where it says nothing."""

import asyncio

import pytest

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.engine import Engine
from malmoi.serve import schema
from malmoi.serve.asking import ask, collect, make, require_model, settings, traced, wished_length
from malmoi.serve.errors import ApiError
from malmoi.serve.service import Service
from serve.conftest import service_of

SERVICE = service_of()


def body(**fields):
    return schema.ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **fields})


def test_temperature_is_one_where_nobody_says_anything_else():
    plain = settings(SERVICE, body(), 4, None)
    assert plain.do_sample and plain.temperature == 1.0
    assert not settings(SERVICE, body(temperature=0), 4, None).do_sample


def test_the_models_own_settings_hold_where_the_client_says_nothing():
    own = GenerationConfig(temperature=0.3, top_p=0.5)
    engine = Engine(SERVICE.engine.backend, SERVICE.tokenizer, generation_config=own)
    service = Service(engine, SERVICE.tokenizer, "x")
    found = settings(service, body(), 4, None)
    assert (found.temperature, found.top_p) == (0.3, 0.5)
    assert settings(service, body(top_p=0.9), 4, None).top_p == 0.9


def test_fields_become_settings():
    wished = body(
        n=2, stop="x", seed=3, top_k=4, min_p=0.1, repetition_penalty=1.2, presence_penalty=1, logit_bias={"20": 1}
    )
    found = settings(SERVICE, wished, 4, 7, ends=(4,))
    assert (found.num_return_sequences, found.stop_strings, found.seed, found.top_k) == (2, ("x",), 3, 4)
    assert (found.min_p, found.repetition_penalty, found.presence_penalty) == (0.1, 1.2, 1.0)
    assert (found.logit_bias, found.max_new_tokens, found.eos_token_id) == ({20: 1.0}, 7, (4,))


def test_lengths_and_contradictions():
    assert wished_length(body(max_tokens=3)) == wished_length(body(max_completion_tokens=3)) == 3
    assert wished_length(body(max_tokens=3, max_completion_tokens=3)) == 3
    with pytest.raises(ApiError):
        wished_length(body(max_tokens=3, max_completion_tokens=4))
    with pytest.raises(MalmoiError, match="does not fit"):
        settings(SERVICE, body(), 4, 10_000)


def test_traces_are_made_for_who_asks():
    assert traced(None, None) is False and traced(False, 0) == 0 and traced(None, 3) == 3 and traced(True, 20) == 20
    assert traced(True, None) >= 5


def test_other_models_and_empty_prompts_are_refused():
    require_model(SERVICE, None)
    require_model(SERVICE, "made-up")
    with pytest.raises(ApiError):
        require_model(SERVICE, "other")
    with pytest.raises(ApiError):
        make(SERVICE, body(), [], None)


def test_if_one_of_several_prompts_is_refused_nothing_stays_behind():
    service = service_of()

    async def work():
        service.start()
        good = lambda: make(service, body(max_tokens=3), [20, 21], 3)  # noqa: E731
        bad = lambda: make(service, body(), [20] * 5000, 3)  # noqa: E731
        with pytest.raises(MalmoiError):
            await ask(service, "", [good, bad])
        assert service.running == service.waiting == 0
        asked = await ask(service, "", [good, good])
        async with asked.closing:
            written = await collect(asked, 2)
        assert [len(one.pieces) for one in written] == [3, 3] and asked.prompt_tokens == 4
        await service.stop()

    asyncio.run(asyncio.wait_for(work(), 20))
