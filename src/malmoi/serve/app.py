"""The server as one ASGI application: the guard at the door, a router a topic, one shape for errors.

`create_app(service)` is all of it; the service holds an engine, which may be a made-up one, and that is how the tests
drive the same server that people talk to.
"""

import contextlib
import importlib.util
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from malmoi import __version__
from malmoi.config import MalmoiError
from malmoi.serve import chat, completions, embeddings, images, limits, responses, status
from malmoi.serve.errors import ApiError, of_fields, told
from malmoi.serve.guard import Guard, Keys
from malmoi.serve.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app(service: Service, *, keys: Sequence[str] = (), hosts: Sequence[str] = ()) -> "FastAPI":
    """The application. `keys` are the API keys that it accepts (none: everybody), `hosts` the names that it answers to
    besides this machine's own. Its lifespan starts and stops the service."""
    try:
        from fastapi import FastAPI
    except ImportError:
        raise MalmoiError("The server needs an extra: pip install 'malmoi[serve]'.") from None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Malmoi",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages fetch scripts from elsewhere
        redoc_url=None,
        responses=_RESPONSES,
        redirect_slashes=False,
    )
    app.state.service = service
    _tell_errors(app)
    for topic in (chat, completions, responses, embeddings, images, status):
        app.include_router(topic.router(service))
    for name in ("inside", "page"):  # looking inside, and the page for people
        if importlib.util.find_spec(f"malmoi.serve.{name}") is not None:
            module: Any = importlib.import_module(f"malmoi.serve.{name}")
            if name == "page":
                module.add_page(app)
            else:
                app.include_router(module.router(service))
    pictures = service.tokenizer.images is not None
    app.add_middleware(
        Guard,
        metrics=service.metrics,
        keys=Keys(keys),
        hosts=hosts,
        body_bytes=limits.PICTURE_BODY_BYTES if pictures else limits.BODY_BYTES,
    )
    return app


def _error_schema(about: str) -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    error = {
        "type": "object",
        "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
        "required": ["message", "type", "param", "code"],
    }
    shape = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    return {"description": about, "content": {"application/json": {"schema": shape}}}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": _error_schema("What is wrong with the request."),
    "5XX": _error_schema("The server cannot answer."),
}


def _tell_errors(app: "FastAPI") -> None:
    """Every error in OpenAI's shape, whoever raised it."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def of_ours(request: Request, error: Exception) -> Any:
        return told(error).response()

    async def of_body(request: Request, error: RequestValidationError) -> Any:
        known = request.scope["route"].body_field if "route" in request.scope else None
        fields = getattr(getattr(known, "field_info", None), "annotation", None)
        return of_fields(error.errors(), list(getattr(fields, "model_fields", ()))).response()

    async def of_routing(request: Request, error: HTTPException) -> Any:
        answer = ApiError(error.status_code, _ROUTING.get(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer.response()

    app.add_exception_handler(ApiError, of_ours)
    app.add_exception_handler(MalmoiError, of_ours)
    app.add_exception_handler(RequestValidationError, of_body)  # pyright: ignore[reportArgumentType]
    app.add_exception_handler(HTTPException, of_routing)  # pyright: ignore[reportArgumentType]


_ROUTING = {404: "There is nothing at this address.", 405: "This address does not take this method."}
