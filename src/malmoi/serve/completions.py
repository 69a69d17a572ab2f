"""POST /v1/completions: plain texts are continued by text alone, several prompts at once if need be."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from malmoi.serve import asking, schema
from malmoi.serve.asking import Asked
from malmoi.serve.errors import ApiError
from malmoi.serve.prompts import ordinary, text_prompt
from malmoi.serve.service import Piece, Service
from malmoi.serve.sse import event, streaming, while_here, whole

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request

    routes = APIRouter()

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: schema.CompletionRequest, request: Request) -> Any:
        asking.require_model(service, body.model)
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream: true.", "stream_options", "invalid_value")
        prompts = _prompts(body)
        asked = await asking.ask(service, request.state.key, [partial(_request, service, body, one) for one in prompts])
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
            "model_hash": service.model_hash,
            "seed": asked.seed,
        }
        if body.explain:
            head["energy_method"] = service.energy_method
        if body.stream:
            return streaming(_chunks(body, asked, head), asked.closing)
        async with asked.closing:
            work = asking.collect(asked, len(prompts) * (body.n or 1))
            written = await while_here(request.receive, work)
        choices = [_choice(body, number, one.text, one.finish_reason, one.pieces) for number, one in enumerate(written)]
        counts = asking.usage(asked.prompt_tokens, sum(len(one.pieces) for one in written))
        return whole({**head, "choices": choices, "usage": counts})

    return routes


def _prompts(body: schema.CompletionRequest) -> list[str | list[int]]:
    given: Any = body.prompt
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return given


def _request(service: Service, body: schema.CompletionRequest, prompt: str | list[int]) -> Any:
    """What the engine is asked. Takes its time: it tokenizes."""
    ids = text_prompt(service, prompt) if isinstance(prompt, str) else ordinary(service, prompt, "prompt")
    trace = asking.traced(body.explain, body.logprobs)
    return asking.make(service, body, ids, asking.wished_length(body), trace=trace, text_only=True)


async def _chunks(body: schema.CompletionRequest, asked: Asked, head: dict[str, Any]) -> AsyncIterator[str]:
    count, lengths = 0, {}
    async for number, piece in asked.pieces():
        count += 1
        text, reason = piece.token.text, asking.finish(piece)
        offset = lengths.get(number, 0)
        lengths[number] = offset + len(text)
        if text or reason or body.explain or body.logprobs is not None:
            yield event({**head, "choices": [_choice(body, number, text, reason, [piece], offset)]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": asking.usage(asked.prompt_tokens, count)})


def _choice(
    body: schema.CompletionRequest,
    number: int,
    text: str,
    reason: str | None,
    pieces: Sequence[Piece],
    offset: int = 0,
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": number, "text": text, "finish_reason": reason, "logprobs": None}
    if body.logprobs is not None:
        choice["logprobs"] = _logprobs(pieces, body.logprobs, offset)
    if body.explain:
        choice["explain"] = [piece.explained() for piece in pieces]
    return choice


def _logprobs(pieces: Sequence[Piece], top: int, offset: int) -> dict[str, Any]:
    """The older form: a list for each kind of fact. `text_offset` is where what a token showed begins in the text."""
    facts: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for piece in asking.shown(pieces):
        trace = piece.token.trace
        assert trace is not None
        facts["tokens"].append(trace.text)
        facts["token_logprobs"].append(max(trace.logprob, -9999.0))
        best = {other.bytes.decode("utf-8", "replace"): other.logprob for other in trace.alternatives[:top]}
        facts["top_logprobs"].append({name: max(value, -9999.0) for name, value in best.items()})
        facts["text_offset"].append(offset)
        offset += len(piece.token.text)
    return facts
