"""Endpoints for looking inside: what the page shows of a token, of the settings and of the model.

    POST /inside/next         the distribution of the next token, before and after each setting (any engine)
    POST /inside/token        what each layer looked at and would have said (in torch, opened when first asked)
    GET  /inside/settings     every setting of generation with its explanation and its bounds
    GET  /inside/parameters   the four kinds of parameters of the model, and the loss curve of its run

Nothing here computes on the event loop: the engine's thread or a small pool of others does.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from malmoi.config import ModelConfig, TrainConfig, texts
from malmoi.generate import request as engine
from malmoi.serve import asking, limits, schema
from malmoi.serve.chat import plain
from malmoi.serve.errors import ApiError
from malmoi.serve.prompts import chat_ends, chat_prompt
from malmoi.serve.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter

ALTERNATIVES = 12  # of a preview: what fits beside a slider
POINTS = 256  # of a curve over distances

Language = Literal["en", "ko"]


class Setting(NamedTuple):
    """A setting that the page offers: its name over HTTP, its field, and where a slider goes from and to."""

    name: str
    field: str
    low: float
    high: float
    step: float


SETTINGS = (
    Setting("temperature", "temperature", 0, 2, 0.05),
    Setting("top_k", "top_k", 0, 100, 1),
    Setting("top_p", "top_p", 0.05, 1, 0.01),
    Setting("min_p", "min_p", 0, 0.5, 0.01),
    Setting("repetition_penalty", "repetition_penalty", 0.8, 2, 0.01),
    Setting("presence_penalty", "presence_penalty", -2, 2, 0.1),
    Setting("frequency_penalty", "frequency_penalty", -2, 2, 0.1),
    Setting("max_completion_tokens", "max_new_tokens", 1, 1024, 1),
    Setting("n", "num_return_sequences", 1, 4, 1),
    Setting("seed", "seed", 0, 2**53 - 1, 1),  # what JavaScript's numbers hold exactly
    Setting("stop", "stop_strings", 0, limits.STOPS, 1),
)


class PlaceRequest(schema.Continuing):
    """A place in a conversation, after `answer_ids` (the beginning of an answer), with the settings of a chat request;
    of those, what says how much is written does not matter here."""

    messages: list[schema.Message] = Field(min_length=1, max_length=limits.MESSAGES)
    answer_ids: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[], max_length=limits.ANSWER_IDS)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)


class TokenRequest(PlaceRequest):
    """The same, and the token that was chosen there."""

    token: int | None = Field(None, ge=0, lt=2**31)


def router(service: Service) -> "APIRouter":
    """The endpoints over `service`."""
    from fastapi import APIRouter, Request

    routes = APIRouter(prefix="/inside")

    @routes.post("/next")
    async def following(place: PlaceRequest, request: Request) -> dict[str, Any]:
        """The next token's distribution: a trace with its alternatives after each setting."""

        def make() -> engine.Request:
            alone = place.model_copy(update={"n": None, "stop": None})
            ids, known = _ids(service, place), service.tokenizer.images
            inside = known.unfinished(ids) if known is not None else None
            length = known.length - inside if known is not None and inside else 1  # a picture begun must have room
            return asking.make(service, alone, ids, length, ends=chat_ends(service), trace=ALTERNATIVES)

        async with service.answering(make, request.state.key) as answer:
            async for piece in answer.pieces():
                return piece.explained()
        raise ApiError(500, "The engine gave no token.", code="generation_failed")

    @routes.post("/token")
    async def token(place: TokenRequest, request: Request) -> dict[str, Any]:
        """Attention of each head and the logit lens of each layer, at the step that chose the token."""
        return await service.working(request.state.key, _explained, service, place)

    @routes.get("/settings")
    async def settings(lang: Language = "en") -> list[dict[str, Any]]:
        """Every setting of generation that a request may carry: bounds, the model's own value, what, why and try."""
        return [_told(setting, service, lang) for setting in SETTINGS]

    @routes.get("/parameters")
    async def parameters(request: Request, lang: Language = "en") -> dict[str, Any]:
        """Positional, learned, hyper- and configuration parameters of the served model."""
        if service.folder is None:
            raise ApiError(404, "This server's model does not lie in a folder, so nothing is known of its parameters.")
        return await service.working(request.state.key, _parameters, service, service.folder, lang)

    return routes


def _ids(service: Service, place: PlaceRequest) -> list[int]:
    return chat_prompt(service, [plain(message) for message in place.messages], place.answer_ids)


def _explained(service: Service, place: TokenRequest) -> dict[str, Any]:
    from malmoi.interpret.lens import explain_step

    model, tokenizer = service.torch_model()
    return explain_step(model, tokenizer, _ids(service, place), place.token)


def _told(setting: Setting, service: Service, language: Language) -> dict[str, Any]:
    own = getattr(service.base, setting.field)
    high = min(setting.high, service.context) if setting.field == "max_new_tokens" else setting.high
    words = texts()["GenerationConfig"][setting.field][language]
    return {**setting._asdict(), "high": high, "default": own, **{key: text.strip() for key, text in words.items()}}


def _parameters(service: Service, folder: Path, language: Language) -> dict[str, Any]:
    from malmoi.interpret.parameters import described, loss_curve, read_folder

    sources = read_folder(folder)
    found = described(sources)
    found["hyperparameters"]["from"] = Path(sources.origin).name if sources.training else "unknown"  # no path leaves
    found["positional"] |= _places(service, sources.config)
    words = {
        record.__name__: {name: told[language]["what"].strip() for name, told in texts()[record.__name__].items()}
        for record in (ModelConfig, TrainConfig)
    }
    return {"model": service.name, **found, "loss": loss_curve(folder), "texts": words}


def _places(service: Service, config: ModelConfig) -> dict[str, Any]:
    """Wavelengths and likeness by distance, or the cosines of a learned table, and how far each layer reaches."""
    import torch

    from malmoi.interpret.positions import positions

    table = None
    if config.positions == "learned":
        with contextlib.suppress(ApiError):  # nothing to be opened: the reach is known all the same
            learned = service.torch_model()[0].model.embed_positions
            table = learned.weight if learned is not None else None
    found = positions(config, table)
    told: dict[str, Any] = {"reach": found.reach, "windows": found.windows}
    if found.rotary is not None:
        stride = max(1, found.context // POINTS)
        distances = torch.arange(0, found.context, stride, dtype=torch.float32)
        alike = [round(value, 4) for value in found.rotary.similarity(distances).tolist()]
        told |= {"rotary": dataclasses.asdict(found.rotary), "similarity": {"stride": stride, "values": alike}}
    if found.learned is not None:
        step = max(1, len(found.learned.by_distance) // POINTS)
        alike = [round(value, 4) for value in found.learned.by_distance[::step].tolist()]
        told["similarity"] = {"stride": step * found.learned.stride, "values": alike}
    return told
