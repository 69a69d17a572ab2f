"""Server-sent events: `data: {...}`, an empty line, and so on until `data: [DONE]`.

A stream that is silent for a while says a comment, so that nobody on the way takes the connection for dead. What goes
wrong in the middle is an event with an error in it, never prose. A client that leaves is noticed while nothing is sent,
too: the stream watches the connection, and ends its writing at once. So does a client that stays and reads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from malmoi.serve import limits
from malmoi.serve.errors import ApiError, told

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

DONE = "data: [DONE]\n\n"
BEAT = b": still here\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
Result = TypeVar("Result")


def event(data: Mapping[str, Any], name: str | None = None) -> str:
    """One event; JSON has no line breaks, so that a text cannot end it early."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def streaming(events: AsyncIterator[str], closing: contextlib.AsyncExitStack, done: bool = True) -> Response:
    """The HTTP answer that sends `events` as they come, and at the end (`done`) that there are no more. `closing` is
    left when the last one was sent or the client went away: what it holds (a place in the engine) is free then."""
    from starlette.responses import Response

    class Streaming(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await _Stream(events, closing, done)(receive, send)

    return Streaming()


class _Stream:
    def __init__(self, events: AsyncIterator[str], closing: contextlib.AsyncExitStack, done: bool) -> None:
        self.events, self.closing, self.done = events, closing, done
        self.sent, self.sending = 0, False

    async def __call__(self, receive: Receive, send: Send) -> None:
        async with self.closing:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            await until_gone(receive, self._send_all(send), self._stalled())

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._beating()) as parts:  # type: ignore[type-var]
            async for part in parts:
                self.sending = True
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self.sent, self.sending = self.sent + 1, False
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stalled(self) -> None:
        """Ends when a piece has not left for a while: the connection is open, but nobody reads."""
        sent = -1
        while not self.sending or sent != self.sent:
            sent = self.sent
            await asyncio.sleep(limits.SEND_SECONDS)

    async def _beating(self) -> AsyncIterator[bytes]:
        """What is sent: the events, and a comment after each silence."""
        events = self._ending_well()
        following: asyncio.Future[str] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait({following}, timeout=limits.HEARTBEAT_SECONDS)
                if not done:
                    yield BEAT
                    continue
                try:
                    found = following.result()
                except StopAsyncIteration:
                    return
                following = None
                yield found.encode()
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait({following})

    async def _ending_well(self) -> AsyncIterator[str]:
        """The events; what goes wrong on the way as a last one; and [DONE]."""
        try:
            async for found in self.events:
                yield found
        except Exception as error:
            yield event(told(error).body(), None if self.done else "error")
        if self.done:
            yield DONE


def whole(data: Mapping[str, Any]) -> Response:
    """The HTTP answer that is told at once; plain data, so that nobody has to look through it first."""
    from starlette.responses import JSONResponse

    return JSONResponse(data)


async def until_gone(receive: Receive, work: Awaitable[Result], *ends: Awaitable[None]) -> Result | None:
    """The result of the work, or None if the client left before (or one of `ends` came): then the work is cancelled
    and has ended."""
    working = asyncio.ensure_future(work)
    tasks = {working, *map(asyncio.ensure_future, (_gone(receive), *ends))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_here(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of the work, for a client that waits for it. Raises for one that left: nobody reads the answer."""
    result = await until_gone(receive, work)
    if result is None:
        raise ApiError(499, "The client left before the answer was complete.")
    return result
