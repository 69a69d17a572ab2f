"""Streams: a heartbeat in silence, errors as events, an end, and a client that leaves."""

import asyncio
import contextlib
import json

import pytest

from malmoi.serve import limits
from malmoi.serve.errors import ApiError
from malmoi.serve.sse import BEAT, event, streaming, until_gone, while_here


class Connection:
    """ASGI's two ends; the client leaves when told."""

    def __init__(self):
        self.sent, self.left = [], asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)


def streamed(events, done=True, leave_after=None):
    async def work():
        connection, closed = Connection(), []
        closing = contextlib.AsyncExitStack()
        closing.callback(lambda: closed.append(True))
        sending = asyncio.ensure_future(
            streaming(events, closing, done)({"type": "http"}, connection.receive, connection.send)
        )
        if leave_after is not None:
            await asyncio.sleep(leave_after)
            connection.left.set()
        await asyncio.wait_for(sending, 5)
        assert closed == [True]
        return connection

    return asyncio.run(work())


async def some(*texts, then=None):
    for text in texts:
        yield text
    if then is not None:
        raise then


def test_an_event_is_one_line_of_json():
    assert event({"a": "1\n\n2\r"}) == 'data: {"a":"1\\n\\n2\\r"}\n\n'
    assert event({}, "name").startswith("event: name\ndata: ")


def test_a_stream_ends_with_done():
    connection = streamed(some("data: 1\n\n"))
    assert connection.body == b"data: 1\n\ndata: [DONE]\n\n"
    assert connection.sent[0]["status"] == 200 and connection.sent[-1]["more_body"] is False


@pytest.mark.parametrize("error", [ApiError(503, "gone"), RuntimeError("inside")])
def test_an_error_on_the_way_is_an_event_with_an_error_in_it(error):
    lines = streamed(some("data: 1\n\n", then=error)).body.decode().split("\n\n")
    assert json.loads(lines[1].removeprefix("data: "))["error"]["type"] == "server_error"
    assert lines[2] == "data: [DONE]" and "inside" not in lines[1]


def test_silence_is_broken_by_a_comment(monkeypatch):
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.02)

    async def slow():
        await asyncio.sleep(0.1)
        yield "data: 1\n\n"

    body = streamed(slow()).body
    assert body.startswith(BEAT) and body.endswith(b"data: 1\n\ndata: [DONE]\n\n")


def test_a_piece_that_does_not_leave_ends_the_stream(monkeypatch):
    monkeypatch.setattr(limits, "SEND_SECONDS", 0.02)

    async def work():
        closed, connection = [], Connection()
        closing = contextlib.AsyncExitStack()
        closing.callback(lambda: closed.append(True))

        async def send(message):
            await (asyncio.sleep(60) if message.get("body") else asyncio.sleep(0))

        await asyncio.wait_for(streaming(some("data: 1\n\n"), closing)({}, connection.receive, send), 5)
        assert closed == [True]

    asyncio.run(work())


def test_a_client_that_leaves_in_silence_ends_the_stream():
    ended = []

    async def endless():
        try:
            yield "data: 1\n\n"
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    connection = streamed(endless(), leave_after=0.05)
    assert ended and b"[DONE]" not in connection.body


def test_work_for_somebody_who_left_is_cancelled():
    async def work():
        connection, cancelled = Connection(), []

        async def long():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        asyncio.get_running_loop().call_later(0.02, connection.left.set)
        assert await until_gone(connection.receive, long()) is None and cancelled
        with pytest.raises(ApiError):
            await while_here(connection.receive, long())
        assert await until_gone(Connection().receive, asyncio.sleep(0, "made")) == "made"

    asyncio.run(work())
