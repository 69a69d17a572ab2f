"""POST /v1/responses: OpenAI's newer form of a conversation; text, at once or as a stream of named events.

Nothing is stored: a conversation is what the client sends, every time.
"""

import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

from malmoi.generate.constraint import Constraint
from malmoi.serve import asking, schema
from malmoi.serve.asking import Asked, Written
from malmoi.serve.errors import ApiError, told
from malmoi.serve.prompts import chat_ends, chat_prompt
from malmoi.serve.service import Service
from malmoi.serve.sse import event, streaming, while_here, whole

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request

    routes = APIRouter()

    @routes.post("/v1/responses", response_model=None)
    async def responses(body: schema.ResponsesRequest, request: Request) -> Any:
        asking.require_model(service, body.model)
        constraint = await _constraint(service, body)
        asked = await asking.ask(service, request.state.key, [partial(_request, service, body, constraint)])
        answer = _Response(service, body, asked)
        if body.stream:
            return streaming(answer.events(), asked.closing, done=False)
        async with asked.closing:
            (written,) = await while_here(request.receive, asking.collect(asked, 1))
        return whole(answer.whole(written))

    return routes


async def _constraint(service: Service, body: schema.ResponsesRequest) -> Constraint | None:
    form = body.text.format if body.text is not None else None
    if form is None or form.type == "text":
        return None
    if (form.type == "json_schema") != (form.schema_ is not None):
        raise ApiError(400, "A schema belongs to the type 'json_schema'.", "text.format", "invalid_value")
    return await service.forms.constraint("json", form.schema_ or {"type": "object"}, "text.format")


def _request(service: Service, body: schema.ResponsesRequest, constraint: Constraint | None) -> Any:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for item in body.input:
            text = item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)
            messages.append({"role": item.role, "content": text})
    prompt, ends = chat_prompt(service, messages), chat_ends(service)
    return asking.make(service, body, prompt, body.max_output_tokens, ends=ends, constraint=constraint, text_only=True)


class _Response:
    """The object that is answered, in its states."""

    def __init__(self, service: Service, body: schema.ResponsesRequest, asked: Asked) -> None:
        self.service, self.body, self.asked = service, body, asked
        self.id, self.item = f"resp_{secrets.token_hex(12)}", f"msg_{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.number = 0

    def whole(self, written: Written | None = None, error: ApiError | None = None) -> dict[str, Any]:
        """The object: begun, or with what was `written`, or with what went wrong."""
        config = self.asked.answers[0].live.config
        cut = written is not None and written.finish_reason == "length"
        status = "failed" if error else "in_progress" if written is None else "incomplete" if cut else "completed"
        counts = None
        if written is not None:
            counts = {
                "input_tokens": self.asked.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": len(written.pieces),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.asked.prompt_tokens + len(written.pieces),
            }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.service.name,
            "system_fingerprint": self.service.fingerprint,
            "model_hash": self.service.model_hash,
            "seed": self.asked.seed,
            "output": [self.message(written.text, "incomplete" if cut else "completed")] if written else [],
            "usage": counts,
            "error": {"code": "server_error", "message": error.message} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": self.body.instructions,
            "max_output_tokens": self.body.max_output_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "tools": [],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "metadata": {},
            "store": False,
        }

    def message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [self.part(text)]
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def told(self, kind: str, **facts: Any) -> str:
        """The next event of the stream."""
        self.number += 1
        return event({"type": kind, "sequence_number": self.number - 1, **facts}, kind)

    async def events(self) -> AsyncIterator[str]:
        yield self.told("response.created", response=self.whole())
        yield self.told("response.in_progress", response=self.whole())
        yield self.told("response.output_item.added", output_index=0, item=self.message(None, "in_progress"))
        where = {"item_id": self.item, "output_index": 0, "content_index": 0}
        yield self.told("response.content_part.added", **where, part=self.part(""))
        written = Written()
        try:
            async for _, piece in self.asked.pieces():
                written.add(piece)
                if piece.token.text:
                    yield self.told("response.output_text.delta", **where, delta=piece.token.text, logprobs=[])
        except Exception as error:
            yield self.told("response.failed", response=self.whole(error=told(error)))
            return
        yield self.told("response.output_text.done", **where, text=written.text, logprobs=[])
        yield self.told("response.content_part.done", **where, part=self.part(written.text))
        done = self.whole(written)
        yield self.told("response.output_item.done", output_index=0, item=done["output"][0])
        yield self.told(f"response.{done['status']}", response=done)
