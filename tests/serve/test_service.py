"""Turns, bounds, leaving, dying: the queue and the engine's thread."""

import asyncio
import concurrent.futures
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.request import Request
from malmoi.serve import limits
from malmoi.serve.app import create_app
from malmoi.serve.errors import ApiError
from serve.conftest import ANSWER, HERE, TOKENIZER, question, rambles, service_of, settled, slowly, speaks

CHAT = "/v1/chat/completions"


def asking(tokens=5, seed=1):
    return lambda: Request([20, 21, 22], GenerationConfig(max_new_tokens=tokens, temperature=1.0001, seed=seed))


async def written(service, key="", tokens=5, seed=1):
    async with service.answering(asking(tokens, seed), key) as answer:
        return [piece.token.id async for piece in answer.pieces()]


def with_service(service, work):
    async def whole():
        service.start()
        try:
            return await asyncio.wait_for(work(), 30)
        finally:
            await service.stop()

    return asyncio.run(whole())


def test_an_answer_is_the_same_alone_and_in_any_company():
    async def alone():
        return [await written(service, tokens=12, seed=seed) for seed in range(6)]

    async def together():
        many = [written(service, key=str(seed % 3), tokens=12, seed=seed) for seed in range(6)]
        return list(await asyncio.gather(*many, *(written(service, tokens=20, seed=50 + k) for k in range(9))))[:6]

    service = service_of(rambles)
    first = with_service(service, alone)
    service = service_of(rambles)
    assert with_service(service, together) == first
    assert len({tuple(row) for row in first}) == 6


def test_the_queue_is_bounded_and_says_when_to_come_back(monkeypatch):
    monkeypatch.setattr(limits, "RUNNING", 1)
    monkeypatch.setattr(limits, "WAITING", 2)
    service = service_of(slowly(rambles))

    async def work():
        tasks = [asyncio.ensure_future(written(service, tokens=50)) for _ in range(8)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [one for one in done if isinstance(one, ApiError)]
        assert refused and all(one.status == 429 and 1 <= int(one.headers["Retry-After"]) <= 60 for one in refused)
        assert len(done) - len(refused) >= 2
        assert service.metrics.refused == len(refused)
        assert len(await written(service)) == 5  # and later there is room again

    with_service(service, work)
    assert settled(service)


def test_a_key_with_many_requests_delays_its_own(monkeypatch):
    monkeypatch.setattr(limits, "RUNNING", 1)
    service = service_of(slowly(rambles, 0.001))
    order = []

    async def one(key):
        await written(service, key)
        order.append(key)

    async def work():
        many = [asyncio.ensure_future(one("many")) for _ in range(20)]
        await asyncio.sleep(0.05)
        await one("few")
        place = len(order)
        await asyncio.gather(*many)
        return place

    assert with_service(service, work) < 15  # not behind all twenty


def test_one_key_cannot_take_every_place(monkeypatch):
    monkeypatch.setattr(limits, "PER_KEY", 2)
    service = service_of(slowly(rambles))

    async def work():
        mine = [asyncio.ensure_future(written(service, "a", 30)) for _ in range(4)]
        await asyncio.sleep(0.02)
        assert len(await written(service, "b")) == 5
        done = await asyncio.gather(*mine, return_exceptions=True)
        assert sum(isinstance(one, ApiError) for one in done) == 2

    with_service(service, work)


def test_leaving_in_the_queue_and_in_flight_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(limits, "RUNNING", 2)
    service = service_of(slowly(rambles, 0.001))

    async def work():
        tasks = [asyncio.ensure_future(written(service, tokens=500)) for _ in range(12)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(await written(service)) == 5
        assert service.running == service.waiting == 0

    with_service(service, work)
    assert settled(service)


def test_a_place_is_free_within_one_step_of_leaving():
    service = service_of(slowly(rambles, 0.01))

    async def work():
        async with service.answering(asking(500), "") as answer:
            async for _ in answer.pieces():
                break
        steps = len(service.engine.backend.calls)
        while service.engine.busy:
            await asyncio.sleep(0.001)
        assert len(service.engine.backend.calls) - steps <= 2  # the step that was on its way, and what it had begun
        assert service.load["blocks_free"] == service.load["blocks"]

    with_service(service, work)


def test_a_turn_ends_with_the_last_token_and_not_when_it_was_read(monkeypatch):
    """Who asks and never reads would otherwise keep everybody else waiting."""
    monkeypatch.setattr(limits, "RUNNING", 1)
    service = service_of(rambles)

    async def work():
        async with service.answering(asking(5), "slow") as unread:
            assert len(await written(service, "quick")) == 5
            assert (service.running, service.waiting) == (0, 0)
            assert len([piece async for piece in unread.pieces()]) == 5
        assert service.metrics.cancelled == 0 and service.metrics.finished == 2

    with_service(service, work)


def test_work_outside_the_engine_waits_in_the_same_queue_a_turn_of_each_key_at_a_time(monkeypatch):
    monkeypatch.setattr(limits, "PER_KEY", 20)
    service, done, at_once = service_of(), [], []

    def busy(key):
        at_once.append(key)
        assert at_once.count("many") <= 1
        threading.Event().wait(0.01)
        at_once.remove(key)
        done.append(key)

    async def work():
        many = [asyncio.ensure_future(service.working("many", busy, "many")) for _ in range(25)]
        await asyncio.sleep(0)
        await service.working("few", busy, "few")
        assert done.count("many") < 10  # not behind all of them
        refused = [one for one in await asyncio.gather(*many, return_exceptions=True) if one is not None]
        assert len(refused) == 5 and all(one.status == 429 and one.headers["Retry-After"] for one in refused)
        assert service.waiting == 0

    with_service(service, work)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, question()),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/tokenize", {"text": "x"}),
        ("/detokenize", {"tokens": []}),
        ("/inside/next", question()),
        ("/inside/token", question()),
    ],
)
def test_every_route_that_works_is_bounded(client, monkeypatch, path, body):
    monkeypatch.setattr(limits, "PER_KEY", 0)
    refused = client.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(refused.headers["Retry-After"]) >= 1


def test_the_native_engine_answers_the_same_alone_and_in_company():
    """Bitwise: temperature 0 and a seed, and the log-probabilities too."""
    from malmoi import GPT4LMHeadModel, ModelConfig
    from malmoi.generate.engine import Engine
    from malmoi.native.library import unavailable
    from malmoi.serve.service import Service

    if unavailable() is not None:
        pytest.skip(f"no native engine here: {unavailable()}")
    from malmoi.native.core import NativeModel

    config = ModelConfig(vocab_size=len(TOKENIZER), hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    native = NativeModel.from_model(GPT4LMHeadModel(config), "float32", num_blocks=256, threads=1)
    service = Service(Engine(native, TOKENIZER), TOKENIZER, "native")
    cases = [question(seed=7, max_tokens=12, logprobs=True), question(temperature=0, max_tokens=12, logprobs=True)]
    with TestClient(create_app(service), base_url=HERE) as client:
        alone = [client.post(CHAT, json=case).json()["choices"] for case in cases]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            others = [pool.submit(client.post, CHAT, json=question(seed=k, max_tokens=30)) for k in range(8)]
            again = [pool.submit(client.post, CHAT, json=case) for case in cases]
            assert [one.result().json()["choices"] for one in again] == alone
            assert all(one.result().status_code == 200 for one in others)


def test_an_answer_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.1)
    service = service_of(slowly(rambles, 0.01))

    async def work():
        with pytest.raises(ApiError) as ended:
            await written(service, tokens=500)
        assert ended.value.status == 504

    with_service(service, work)
    assert settled(service)


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_dead_engine_is_503_and_not_ready(how):
    def dies(past):
        if how == "raises":
            raise RuntimeError("out of memory")
        return np.full(len(TOKENIZER), np.nan, dtype=np.float32)

    with TestClient(create_app(service_of(dies)), base_url=HERE) as client:
        assert client.get("/ready").status_code == 200
        answer = client.post(CHAT, json=question())
        assert answer.status_code == 503 and "out of memory" not in answer.text
        assert client.post(CHAT, json=question()).status_code == 503
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200


def test_a_streams_failure_is_an_event_and_done():
    calls = []

    def dies(past):
        calls.append(past)
        if len(calls) > 4:
            raise RuntimeError("out of memory")
        return speaks(past)

    with TestClient(create_app(service_of(dies)), base_url=HERE) as client:
        text = client.post(CHAT, json=question(stream=True)).text
    assert '"error":{"message"' in text and text.rstrip().endswith("data: [DONE]")


def test_the_event_loop_goes_on_while_a_prompt_is_prepared(monkeypatch):
    service = service_of()
    began, go_on = threading.Event(), threading.Event()

    def slow():
        began.set()
        assert go_on.wait(10)
        return asking()()

    async def work():
        async def held():
            async with service.answering(slow, "") as answer:
                return [piece async for piece in answer.pieces()]

        task = asyncio.ensure_future(held())
        while not began.is_set():
            await asyncio.sleep(0.001)
        assert len(await written(service)) == 5  # another one is answered meanwhile
        go_on.set()
        assert len(await task) == 5

    with_service(service, work)


def test_without_a_model_in_torch_the_reason_is_said():
    service = service_of()
    with pytest.raises(ApiError, match="no model"):
        service.torch_model()
    service._open_torch = lambda: (_ for _ in ()).throw(MalmoiError("is quantised"))
    with pytest.raises(ApiError, match="is quantised"):
        service.torch_model()


def test_the_answer_is_whole(client):
    assert client.post(CHAT, json=question()).json()["choices"][0]["message"]["content"] == ANSWER
