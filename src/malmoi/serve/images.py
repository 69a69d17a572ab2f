"""POST /v1/images/generations: a text to pictures, by the same engine that writes texts.

A picture is some dozens of tokens after the text and a picture's beginning; the engine sees to it that it is whole. It
comes back as a PNG in base64; nothing is stored, so that there is no address to give.
"""

import base64
import secrets
import time
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
        drawn = await service.blocking(_pngs, service, known, written)
        return whole(
            {
                "created": int(time.time()),
                "model": service.name,
                "model_hash": service.model_hash,
                "seed": asked.seed,
                "output_format": "png",
                "data": [{"b64_json": base64.b64encode(png).decode("ascii")} for png in drawn],
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


def _pngs(service: Service, known: ImageIds, written: Sequence[asking.Written]) -> list[bytes]:
    """The pictures that the tokens are, as files. Takes its time."""
    from malmoi.tokens.picture import png

    images = service.tokenizer.image_tokenizer
    if images is None:
        raise ApiError(400, "The folder of this model lacks its image_tokenizer/.", code="not_available")
    codes = [np.array([piece.token.id for piece in one.pieces][: known.grid**2]) - known.first for one in written]
    return [png(np.asarray(images.decode(grid))) for grid in codes]


def _usage(prompt_tokens: int, drawn_tokens: int) -> dict[str, int]:
    total = prompt_tokens + drawn_tokens
    return {"input_tokens": prompt_tokens, "output_tokens": drawn_tokens, "total_tokens": total}
