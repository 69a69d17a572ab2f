"""POST /v1/chat/completions: a conversation in, the next turn out, at once or as it is written.

With tools, an answer that begins with a brace is a call (the grammar allows nothing else to begin so); it is told as a
whole, since half a call is no use to anybody. A picture that the model draws stands in `images` of the message (in a
stream: of the delta that completes it), in the form in which a message may hold one.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from malmoi.generate.constraint import Constraint
from malmoi.generate.trace import Alternative, TokenTrace
from malmoi.serve import asking, forms, schema
from malmoi.serve.asking import Asked, Written
from malmoi.serve.errors import ApiError
from malmoi.serve.images import Drawing
from malmoi.serve.prompts import chat_ends, chat_prompt
from malmoi.serve.service import Piece, Service
from malmoi.serve.sse import event, streaming, while_here, whole

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request

    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: schema.ChatRequest, request: Request) -> Any:
        asking.require_model(service, body.model)
        _require_sense(body)
        constraint = await _constraint(service, body)
        make = partial(_request, service, body, constraint)
        asked = await asking.ask(service, request.state.key, [make])
        head = _head(service, asked)
        if body.stream:
            return streaming(_chunks(service, body, asked, head), asked.closing)
        async with asked.closing:
            written = await while_here(request.receive, asking.collect(asked, body.n or 1))
        return whole(_whole(service, body, asked, head, written, [await _drawn(service, body, one) for one in written]))

    return routes


def _require_sense(body: schema.ChatRequest) -> None:
    """Refuse fields that would have no effect, or contradict each other."""
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", "top_logprobs", "invalid_value")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true.", "stream_options", "invalid_value")
    if body.tool_choice not in (None, "none") and not body.tools:
        raise ApiError(400, "tool_choice needs tools.", "tool_choice", "invalid_value")
    form = body.response_format
    if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
        raise ApiError(400, "json_schema belongs to the type 'json_schema'.", "response_format", "invalid_value")
    if form is not None and form.type != "text" and _tools(body):
        raise ApiError(400, "Give tools or a response_format, not both.", "response_format", "invalid_value")
    if (body.answer_ids or body.continue_final_message) and (_tools(body) or (form and form.type != "text")):
        raise ApiError(400, "An answer begun cannot be given a form any more.", "answer_ids", "invalid_value")


def _tools(body: schema.ChatRequest) -> list[dict[str, Any]]:
    """The functions that may be called."""
    if not body.tools or body.tool_choice == "none":
        return []
    return [tool.function.model_dump(exclude_none=True, exclude={"strict"}) for tool in body.tools]


async def _constraint(service: Service, body: schema.ChatRequest) -> Constraint | None:
    tools, form = _tools(body), body.response_format
    if tools:
        name = body.tool_choice.function.name if isinstance(body.tool_choice, schema.ToolChoice) else None
        if name is not None and name not in [tool["name"] for tool in tools]:
            raise ApiError(400, f"tool_choice names {name!r}, which is no tool here.", "tool_choice", "invalid_value")
        calls = forms.call_schema(tools, name)
        for tool in tools:
            forms.limits.require_schema(tool, "tools")
        if name is None and body.tool_choice != "required":
            return await service.forms.constraint("lark", forms.text_or_call(calls), "tools")
        return await service.forms.constraint("json", calls, "tools")
    if form is None or form.type == "text":
        return None
    wanted = form.json_schema.schema_ if form.json_schema is not None else {"type": "object"}
    return await service.forms.constraint("json", wanted, "response_format")


def _request(service: Service, body: schema.ChatRequest, constraint: Constraint | None) -> Any:
    """What the engine is asked. Takes its time: it renders and tokenizes."""
    messages = [plain(message) for message in body.messages]
    tools = _tools(body)
    if tools:
        messages.insert(0, forms.tools_message(tools))
    prompt = chat_prompt(service, messages, body.answer_ids or (), bool(body.continue_final_message))
    top = (body.top_logprobs or 0) if body.logprobs else None
    return asking.make(
        service,
        body,
        prompt,
        asking.wished_length(body),
        ends=chat_ends(service),
        trace=asking.traced(body.explain, top),
        constraint=constraint,
    )


def plain(message: schema.Message) -> dict[str, Any]:
    """A message as the renderer takes it: role and content. A call that the assistant made is its JSON again."""
    content: Any = message.content
    if message.tool_calls:
        if message.role != "assistant":
            raise ApiError(400, "Only the assistant calls tools.", "messages", "invalid_value")
        calls = [
            f'{{"name": {json.dumps(call.function.name)}, "arguments": {call.function.arguments}}}'
            for call in message.tool_calls
        ]
        content = "\n".join([*([content] if isinstance(content, str) and content else []), *calls])
    elif content is None:
        raise ApiError(400, f"A message of the {message.role} needs content.", "messages", "invalid_value")
    elif not isinstance(content, str):
        content = [part.model_dump(exclude_none=True) for part in content]
    return {"role": message.role, "content": content}


def _head(service: Service, asked: Asked) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": service.name,
        "system_fingerprint": service.fingerprint,
        "model_hash": service.model_hash,
        "seed": asked.seed,
    }


async def _drawn(service: Service, body: schema.ChatRequest, written: Written) -> list[dict[str, Any]]:
    """The pictures of an answer."""
    drawing = Drawing(service, body.answer_ids or ())
    return [picture for piece in written.pieces for picture in await drawing.push(piece.token.id)]


def _whole(
    service: Service,
    body: schema.ChatRequest,
    asked: Asked,
    head: dict[str, Any],
    written: Sequence[Written],
    drawn: Sequence[list[dict[str, Any]]],
) -> dict[str, Any]:
    choices = []
    for number, (one, pictures) in enumerate(zip(written, drawn, strict=True)):
        message: dict[str, Any] = {"role": "assistant", "content": one.text, "refusal": None}
        if pictures:
            message["images"] = pictures
        reason = one.finish_reason
        call = forms.called(one.text) if _tools(body) and one.text.startswith("{") else None
        if call is not None:
            message |= {"content": None, "tool_calls": [_tool_call(call)]}
            reason = "tool_calls"
        choice: dict[str, Any] = {"index": number, "message": message, "finish_reason": reason}
        choice["logprobs"] = logprobs(one.pieces, body.top_logprobs or 0) if body.logprobs else None
        if body.explain:
            choice["explain"] = [piece.explained() for piece in one.pieces]
        choices.append(choice)
    counts = asking.usage(asked.prompt_tokens, sum(len(one.pieces) for one in written))
    extra = {"energy_method": service.energy_method} if body.explain else {}
    return {**head, "choices": choices, "usage": counts, **extra}


async def _chunks(service: Service, body: schema.ChatRequest, asked: Asked, head: dict[str, Any]) -> AsyncIterator[str]:
    """The events of a stream: the role first, then every token, last why it ended and, where asked for, the usage."""
    head = {**head, "object": "chat.completion.chunk"}
    if body.explain:
        head["energy_method"] = service.energy_method
    for number in range(body.n or 1):
        yield event({**head, "choices": [_choice(number, {"role": "assistant", "content": ""})]})
    calls: dict[int, str] = {}  # choice -> what has been written of its call
    tools, began, count = bool(_tools(body)), set(), 0
    drawings = [Drawing(service, body.answer_ids or ()) for _ in range(body.n or 1)]
    async for number, piece in asked.pieces():
        count += 1
        text, reason = piece.token.text, asking.finish(piece)
        if tools and text and number not in began:
            began.add(number)
            if text.startswith("{"):
                calls[number] = ""
        delta: dict[str, Any] = {"content": text} if text else {}
        if number in calls:
            calls[number] += text
            delta = {}
            if reason is not None:
                call = forms.called(calls[number])
                if call is None:  # cut off: what there is of it
                    delta = {"content": calls[number]}
                else:
                    delta, reason = {"tool_calls": [{"index": 0, **_tool_call(call)}]}, "tool_calls"
        if pictures := await drawings[number].push(piece.token.id):
            delta["images"] = pictures
        choice = _choice(number, delta, reason)
        if body.logprobs:
            choice["logprobs"] = logprobs([piece], body.top_logprobs or 0)
        if body.explain:
            choice["explain"] = [piece.explained()]
        if delta or reason or body.logprobs or body.explain:
            yield event({**head, "choices": [choice]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**head, "choices": [], "usage": asking.usage(asked.prompt_tokens, count)})


def _choice(number: int, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "finish_reason": reason, "logprobs": None}


def _tool_call(call: tuple[str, str]) -> dict[str, Any]:
    name, arguments = call
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function}


def logprobs(pieces: Sequence[Piece], top: int) -> dict[str, Any]:
    """OpenAI's `logprobs` of chat: each token's, under the model's own distribution, with its bytes and the best."""
    content = []
    for piece in asking.shown(pieces):
        trace = piece.token.trace
        assert trace is not None
        content.append({**_logprob(trace), "top_logprobs": [_logprob(other) for other in trace.alternatives[:top]]})
    return {"content": content, "refusal": None}


def _logprob(of: TokenTrace | Alternative) -> dict[str, Any]:
    return {
        "token": of.bytes.decode("utf-8", "replace"),
        "logprob": max(of.logprob, -9999.0),  # OpenAI's number for "never"
        "bytes": list(of.bytes),
    }
