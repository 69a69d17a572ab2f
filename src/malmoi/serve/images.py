"""POST /v1/images/generations: a text to pictures, by the same engine that writes texts.

A picture is some dozens of tokens after the text and a picture's beginning; the engine sees to it that it is whole. It
comes back as a PNG in base64; nothing is stored, so that there is no address to give.

A model that knows pictures may draw one in a conversation as well: `Drawing` finds them among the tokens of an answer.
"""

import base64
import secrets
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from malmoi.generate.pictures import GUIDANCE, TEMPERATURE
from malmoi.generate.request import Request as EngineRequest
from malmoi.generate.settings import resolve
from malmoi.serve import asking, schema
from malmoi.serve.errors import ApiError
from malmoi.serve.service import Service
from malmoi.serve.sse import while_here, whole
from malmoi.tokens.interleave import ImageIds

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request

    routes = APIRouter()

    @routes.post("/v1/images/generations", response_model=None)
    async def images(body: schema.ImagesRequest, request: Request) -> Any:
        asking.require_model(service, body.model)
        known = service.tokenizer.images
        if known is None:
            raise ApiError(
                400,
                "This model writes text only: it was trained without pictures, and has no tokens for them.",
                code="not_available",
            )
        asked = await asking.ask(service, request.state.key, [partial(_request, service, body, known)])
        async with asked.closing:
            written = await while_here(request.receive, asking.collect(asked, body.n or 1))
        codes = [[piece.token.id for piece in one.pieces][: known.grid**2] for one in written]
        drawn = await service.blocking(_pngs, service, known, codes)
        return whole(
            {
                "created": int(time.time()),
                "model": service.name,
                "system_fingerprint": service.fingerprint,
                "model_hash": service.model_hash,
                "seed": asked.seed,
                "output_format": "png",
                "data": [{"b64_json": png} for png in drawn],
                "usage": _usage(asked.prompt_tokens, sum(len(one.pieces) for one in written)),
            }
        )

    return routes


def _request(service: Service, body: schema.ImagesRequest, known: ImageIds) -> EngineRequest:
    """What the engine is asked: to go on after the text and a picture's beginning."""
    text = service.tokenizer.encode(body.prompt, add_special_tokens=False)
    prompt = [*text, known.begin, known.size]
    settings = {
        "temperature": TEMPERATURE if body.temperature is None else body.temperature,
        "guidance_scale": GUIDANCE if body.guidance_scale is None else body.guidance_scale,
        "num_return_sequences": body.n,
        "seed": body.seed if body.seed is not None else secrets.randbits(53),
        "max_new_tokens": known.grid**2 + 1,
    }
    return EngineRequest(prompt, resolve(settings, service.base, len(prompt), service.context), salt=body.user or "")


class Drawing:
    """Follows the tokens of an answer (after `begun`, those that stand already) and makes the pictures among them."""

    def __init__(self, service: Service, begun: Sequence[int] = ()) -> None:
        self._service, self._known = service, service.tokenizer.images
        self._last = deque(begun, maxlen=self._known.length if self._known is not None else 0)

    async def push(self, token: int) -> list[dict[str, Any]]:
        """The picture that this token completes, as a part of a message; mostly nothing."""
        known = self._known
        self._last.append(token)
        if known is None or token != known.end:
            return []
        (png,) = await self._service.blocking(_pngs, self._service, known, [list(self._last)[2:-1]])
        return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}]


def _pngs(service: Service, known: ImageIds, written: Sequence[Sequence[int]]) -> list[str]:
    """The pictures that these codes are, as files in base64. Takes its time."""
    from malmoi.tokens.picture import png

    images = service.tokenizer.image_tokenizer
    if images is None:
        raise ApiError(400, "The folder of this model lacks its image_tokenizer/.", code="not_available")
    pictures = [np.asarray(images.decode(np.array(codes) - known.first)) for codes in written]
    return [base64.b64encode(png(picture)).decode("ascii") for picture in pictures]


def _usage(prompt_tokens: int, drawn_tokens: int) -> dict[str, int]:
    total = prompt_tokens + drawn_tokens
    return {"input_tokens": prompt_tokens, "output_tokens": drawn_tokens, "total_tokens": total}
