"""Clients of serve.py: a small HTTP client on bare sockets, so that measuring costs little of what is measured.

An answer is read as a stream of server-sent events; the first event with a token's text is the first token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0  # seconds, after which a request counts as hanging


@dataclass
class Answered:
    """What became of a request: its status, seconds to the first token and to the end, tokens."""

    status: int
    first: float = 0.0
    seconds: float = 0.0
    tokens: int = 0


def request(path: str, body: bytes, headers: str = "", close: bool = True, method: str = "POST") -> bytes:
    connection = "close" if close else "keep-alive"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: {connection}\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def stream(port: int, path: str, fields: dict[str, Any]) -> Answered:
    """One streaming request, to its end."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = Answered(0)
    try:
        writer.write(request(path, json.dumps({**fields, "stream": True}).encode()))
        answered.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            said = json.loads(line[6:])
            for choice in said.get("choices", ()):
                text = choice.get("text") or choice.get("delta", {}).get("content")
                if text and not answered.first:
                    answered.first = time.perf_counter() - began
                answered.tokens += bool(text)
            answered.tokens = (said.get("usage") or {}).get("completion_tokens", answered.tokens)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    answered.seconds = time.perf_counter() - began
    return answered


async def get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path, b"", method="GET"))
    whole = await reader.read()
    writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def leave(port: int, path: str, fields: dict[str, Any], rng: random.Random) -> None:
    """Begin a streaming request and go away: before it is whole, before the answer, or somewhere in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = request(path, json.dumps({**fields, "stream": True}).encode())
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        when = rng.random()
        if when < 0.1:
            writer.write(whole[: rng.randrange(1, len(whole))])
        else:
            writer.write(whole)
            if when > 0.3:
                await reader.read(1)
                await asyncio.sleep(rng.expovariate(20.0))
        if rng.random() < 0.5:
            writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# ---------------------------------------------------------------- odd requests

ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/images/generations",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/health",
    "/nothing",
)
FIELDS = [
    "messages",
    "model",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "tools",
    "tool_choice",
    "max_tokens",
    "max_completion_tokens",
    "explain",
    "answer_ids",
    "continue_final_message",
    "prompt",
    "input",
    "instructions",
    "text",
    "tokens",
    "user",
    "echo",
    "best_of",
]


def odd_requests(seed: int) -> Iterator[bytes]:
    """Requests without end: good ones, good ones with something changed, JSON of any shape, bytes of any kind."""
    rng = random.Random(seed)
    while True:
        path, kind = rng.choice(ROUTES), rng.random()
        fields = {"max_tokens": 2} if "completions" in path else {"max_output_tokens": 2} if "responses" in path else {}
        said: dict[str, Any] = {
            "/v1/completions": {"prompt": "hi"},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
            "/tokenize": {"text": "hi"},
            "/detokenize": {"tokens": [300]},
        }.get(path, {"input": "hi"})
        good = {**said, **fields}
        if kind < 0.7:
            for _ in range(rng.randrange(4)):
                good[rng.choice(FIELDS)] = odd_value(rng)
            body = json.dumps(good).encode()
        else:
            body = json.dumps(odd_value(rng)).encode()
        if kind > 0.9:  # a byte or two changed
            changed = bytearray(body or b"x")
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            body = bytes(changed)
        header = f"X-{rng.randrange(9)}: {odd_text(rng, printable=True)}\r\n" if rng.random() < 0.2 else ""
        yield request(path, body, header, close=False, method="GET" if rng.random() < 0.1 else "POST")


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 4 else 6)
    match kind:
        case 0:
            return rng.choice([0, 1, -1, 2, 7, 2**31, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, 1e-320])
        case 1:
            return rng.choice([None, True, False, "", "auto", "none", "required", "user", "hi", "<|end|>", "\x00"])
        case 2 | 3:
            return odd_text(rng)
        case 4:
            return rng.randrange(-5, 300)
        case 5:
            return {"type": rng.choice(["json_object", "json_schema", "text", "function"])}
        case 6:
            return [odd_value(rng, depth + 1) for _ in range(rng.randrange(5))]
        case _:
            names = [rng.choice([*FIELDS, "role", "content", "type", "function", "name"]) for _ in range(4)]
            return {name: odd_value(rng, depth + 1) for name in names}


def odd_text(rng: random.Random, printable: bool = False) -> str:
    if printable:
        return "".join(rng.choice(string.ascii_letters + " ;=,") for _ in range(rng.randrange(60)))
    return "".join(
        chr(rng.choice([rng.randrange(1, 128), rng.randrange(0xAC00, 0xD7A4), 0x1F468, 0x200D])) for _ in range(9)
    )


async def fuzz(port: int, seed: int, count: int, statuses: dict[int, int]) -> list[str]:
    """Send `count` odd requests over connections that are kept; what was a hang or a 5xx."""
    faults: list[str] = []
    reader, writer = None, None
    for odd, _ in zip(odd_requests(seed), range(count), strict=False):
        try:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(odd)
            status, again = await asyncio.wait_for(_one_answer(reader), PATIENCE)
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError):
            status, again = -1, False  # the connection was closed on what was no HTTP
        except asyncio.TimeoutError:
            status, again = -2, False
            faults.append(f"no answer: {odd[:300]!r}")
        statuses[status] = statuses.get(status, 0) + 1
        if status >= 500:
            faults.append(f"{status}: {odd[:300]!r}")
        if not again:
            if writer is not None:
                writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()
    return faults


async def _one_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of the next answer, and whether the connection stays open; the body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    if b"content-length" in headers:
        await reader.readexactly(int(headers[b"content-length"]))
    elif headers.get(b"transfer-encoding") == b"chunked":
        while size := int((await reader.readline()).strip() or b"0", 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return status, headers.get(b"connection") != b"close"
