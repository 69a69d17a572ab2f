"""The door: what a request must be before any route sees it.

    host known? -> origin our own? -> key right? -> a JSON body, in time, not too large, not too deep -> route

A page on some other site can make a visitor's browser send requests to 127.0.0.1, and with a name that it controls
(DNS rebinding) even read the answers. So the Host must be one that this server was told to answer to, and a request
that says which site it comes from must come from here. Nothing is allowed by CORS.

The page's files need no key, as a browser asks for them before anybody could type one; they hold no secret. Everything
else does, if keys are set, but /health.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from malmoi.serve import limits
from malmoi.serve.errors import ApiError, told
from malmoi.serve.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
WITHOUT_KEY = ("/", "/health", "/favicon.ico")
PAGE = "/page/"  # the page's files

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class Keys:
    """API keys, kept as hashes. `owner` takes the same time for a right key and a wrong one."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, key: str) -> str | None:
        """A name for the key's holder that does not tell the key; None for a wrong key."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, known) for known in self._hashes]  # all of them, always
        return given.hex()[:16] if any(matches) else None


class Guard:
    """ASGI middleware. `hosts` are names that this server answers to, besides those of the loopback interface."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        keys: Keys,
        hosts: Iterable[str] = (),
        body_bytes: int = limits.BODY_BYTES,
    ) -> None:
        self.app, self.metrics, self.keys, self.body_bytes = app, metrics, keys, body_bytes
        self.hosts = frozenset(host.lower() for host in (*LOOPBACK, *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.metrics.status(message["status"])
            await send(message)

        try:
            if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > limits.HEADER_BYTES:
                raise ApiError(431, f"The headers are larger than {limits.HEADER_BYTES} bytes.")
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_place(headers)
            scope.setdefault("state", {})["key"] = self._owner(scope["path"], headers)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                receive = _replay(await self._body(headers, receive), receive)
            await self.app(scope, receive, counted)
        except Exception as error:  # of the door, or a fault of a route
            answer = told(error)
            if not begun:
                await answer.response()(scope, receive, counted)

    def _check_place(self, headers: Mapping[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _without_port(host) not in self.hosts:
            raise ApiError(
                403, "This server does not answer to that Host. Start it with --allowed-host to allow a name."
            )
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            raise ApiError(403, "Requests from pages of other sites are refused.")
        if headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") != b"navigate":
            raise ApiError(403, "Requests from pages of other sites are refused.")

    def _owner(self, path: str, headers: Mapping[bytes, bytes]) -> str:
        if not self.keys or path in WITHOUT_KEY or path.startswith(PAGE):
            return ""
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        owner = self.keys.owner(key.strip())
        if owner is None or scheme.lower() != "bearer":
            raise ApiError(401, "A valid API key is needed: 'Authorization: Bearer KEY'.", code="invalid_api_key")
        return owner

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "Send JSON: 'Content-Type: application/json'.")
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.body_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._read(receive), limits.BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"The body did not arrive within {limits.BODY_SECONDS:.0f} seconds.") from None
        require_plain_json(body)
        return body

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ApiError(400, "The client left before its request was complete.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.body_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self.body_bytes:,} bytes.")


def require_plain_json(body: bytes) -> None:
    """Refuse JSON that is no JSON (NaN included), is too deep for a parser, or spells half a character."""
    if body.count(b"[") + body.count(b"{") > limits.JSON_DEPTH:
        depth = 0
        for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
            depth += 1 if bracket[0] in b"[{" else -1
            if depth > limits.JSON_DEPTH:
                raise ApiError(400, f"The JSON is deeper than {limits.JSON_DEPTH} lists and objects.")
    try:
        value = json.loads(body, parse_constant=_refuse)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "The JSON spells half of a character (a lone surrogate).", code="invalid_json") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", code="invalid_json") from None


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a route the body that was read here, and afterwards what the connection says: that the client has left."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
