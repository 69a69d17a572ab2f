"""One shape for every error: OpenAI's `{"error": {"message", "type", "param", "code"}}`, never a stack trace or a path.

Raise `ApiError` anywhere in a request. A `MalmoiError` (a person's mistake, in the house's words) becomes a 400;
whatever else is raised is a fault of the server: a 500 that says only so, and the log says the rest.

A log is read line by line, by people and by programs. So what an exception says, which may quote a client, stands there
cut short and escaped: nothing that a client sent can begin a line of its own.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from typing import Any

from malmoi.config import MalmoiError, nearest

log = logging.getLogger("malmoi.serve")

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told: an HTTP status, a sentence, and the field that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Any:
        """The HTTP answer."""
        from starlette.responses import JSONResponse

        return JSONResponse(self.body(), self.status, self.headers)


def told(error: BaseException) -> ApiError:
    """What a client may know of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MalmoiError):
        return ApiError(400, str(error))
    log_fault("a request failed", error)
    return ApiError(500, "The server failed on this request. Its log says more.", code="internal_error")


def log_fault(what: str, error: BaseException) -> None:
    """Log a fault of the server itself: what it was on one line, and where."""
    places = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s(%.200r)\n%s", what, type(error).__name__, str(error), places)


def of_fields(errors: Sequence[Any], known: Sequence[str] = ()) -> ApiError:
    """The first thing that is wrong with a request's fields (pydantic's list), naming the field. `known` are the
    fields of the body, for the nearest one to be named."""
    first = errors[0]
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    name = ".".join(place)[:200].encode("utf-8", "replace").decode() or None
    if first["type"] == "extra_forbidden":
        guess = nearest(place[-1], known) if len(place) == 1 else ""
        return ApiError(400, f"The field '{name}' is not supported here.{guess}", name, "unsupported_parameter")
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    if first["type"] == "missing":
        return ApiError(400, f"The field '{name}' is missing.", name, "missing_required_parameter")
    message = str(first["msg"]).removeprefix("Value error, ")[:500]
    return ApiError(400, f"{name}: {message}." if name else f"{message}.", name, "invalid_value")
