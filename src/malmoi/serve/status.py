"""What a server says of itself: its model, whether it lives and can answer, its numbers; text to tokens and back.

`/health` is the process: it answers as long as anything does. `/ready` is the engine: it fails once no answer can be
had any more, so that whoever balances load looks elsewhere.
"""

from typing import TYPE_CHECKING, Any

from malmoi.serve import schema
from malmoi.serve.asking import require_model
from malmoi.serve.prompts import ordinary
from malmoi.serve.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request
    from fastapi.responses import PlainTextResponse

    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready")
    async def ready() -> dict[str, Any]:
        service.require_life()
        return {"status": "ready", **service.load}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return service.metrics.text(service.load)

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        require_model(service, name)
        return _model(service)

    @routes.post("/tokenize")
    async def tokenize(body: schema.TokenizeRequest, request: Request) -> dict[str, Any]:
        require_model(service, body.model)
        ids = await service.working(request.state.key, service.tokenizer.encode, body.text)
        return {"tokens": ids, "count": len(ids), "max_model_len": service.context}

    @routes.post("/detokenize")
    async def detokenize(body: schema.DetokenizeRequest, request: Request) -> dict[str, Any]:
        require_model(service, body.model)
        tokens = ordinary(service, body.tokens, "tokens")
        return {"text": await service.working(request.state.key, service.tokenizer.decode, tokens)}

    return routes


def _model(service: Service) -> dict[str, Any]:
    images = service.tokenizer.images is not None
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "malmoi",
        "context_length": service.context,
        "vocab_size": service.engine.backend.vocab_size,
        "model_hash": service.model_hash,
        "engine": service.engine_name,
        "reads_images": images,
        "draws_images": images,
    }
