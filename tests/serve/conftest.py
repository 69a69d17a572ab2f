"""A server with a made-up model, in this process (`client`) and on a socket (`address`), as others will meet it."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from fastapi.testclient import TestClient

from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine
from malmoi.serve import http
from malmoi.serve.app import create_app
from malmoi.serve.service import Service
from malmoi.tokens.chat import END, MESSAGE
from malmoi.tokens.vocabulary import learn

TOKENIZER = learn(["hello world. 안녕하세요 세상."] * 20, vocab_size=290)
ANSWER = "hello 안녕 world."
IDS = TOKENIZER.encode(ANSWER)
END_ID, MESSAGE_ID = TOKENIZER.special_tokens[END], TOKENIZER.special_tokens[MESSAGE]
HERE = "http://127.0.0.1:8000"


def speaks(past):
    """Logits of a model that answers ANSWER to everything, nearly always: other tokens are a little possible."""
    start = max((place for place, token in enumerate(past) if token == MESSAGE_ID), default=len(past) - 1)
    place = len(past) - 1 - start
    logits = np.zeros(len(TOKENIZER), dtype=np.float32)
    logits[np.asarray(IDS)] = 2.0
    logits[IDS[place] if place < len(IDS) else END_ID] = 20.0
    return logits


def rambles(past):
    """Logits of a model that never ends and depends on all that was said."""
    rng = np.random.default_rng(sum((place + 1) * token for place, token in enumerate(past)) % 2**32)
    logits = rng.normal(size=len(TOKENIZER)).astype(np.float32)
    logits[list(TOKENIZER.special_tokens.values())] = -30.0
    return logits


def slowly(function, seconds=0.002):
    def think(past):
        time.sleep(seconds)
        return function(past)

    return think


def service_of(function=speaks, **settings):
    sizes = {"num_blocks": 1024, "block_size": 8, "max_position": 1024}
    backend = FunctionBackend(function, len(TOKENIZER), **{**sizes, **settings})
    return Service(Engine(backend, TOKENIZER), TOKENIZER, "made-up", model_hash="0123456789abcdef0123")


class Running:
    """A server on a socket of this machine, in a thread."""

    def __init__(self, service, **settings):
        self.service = service
        self.server = http.server(create_app(service, **settings), "127.0.0.1", 0, log_level="critical")
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def close(self):
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


def settled(service, seconds=5.0):
    """Wait until nobody runs or waits; every block is free then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        load = service.load
        if (
            not load["running"]
            and not load["waiting"]
            and not service.engine.busy
            and load["blocks_free"] == load["blocks"]
        ):
            return True
        time.sleep(0.005)
    return False


@pytest.fixture(scope="session")
def service():
    return service_of()


@pytest.fixture(scope="session")
def client(service):
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def running():
    """The model that answers, on a socket."""
    made = Running(service_of())
    yield made
    made.close()


@pytest.fixture(scope="session")
def rambling():
    """The model that never ends, on a socket, a few milliseconds a token."""
    made = Running(service_of(slowly(rambles)))
    yield made
    made.close()


def question(**fields):
    return {"messages": [{"role": "user", "content": "hi"}], **fields}
