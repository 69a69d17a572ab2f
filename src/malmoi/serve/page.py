"""The chat page: a few static files, served from memory under a policy that lets nothing else in.

The page is plain modules that a browser runs as they are written; nothing is built and nothing comes from elsewhere.
Its Content-Security-Policy forbids every script and style that is not one of these files, every request to another
origin, frames and forms. Even if a model's words found a hole in the page, they could not call anybody.

A file is named by the hash of its content (its ETag): a browser asks whether it has changed and is mostly told "no".
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from malmoi.serve.errors import ApiError

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",  # pictures that a person attaches
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",  # kept, but asked for by its ETag each time
}


class File(NamedTuple):
    content: bytes
    kind: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """Every file of the page by its name."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in KINDS:
            content = path.read_bytes()
            files[path.name] = File(content, KINDS[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return files


def add_page(app: "FastAPI") -> None:
    """The page at `/`, its files at `/page/NAME`."""
    from fastapi import Request, Response

    files = read_files()

    def answer(name: str, request: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise ApiError(404, "The page has no such file.")
        headers = {**HEADERS, "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.kind, headers=headers)

    async def index(request: Request) -> Response:
        return answer("index.html", request)

    async def icon(request: Request) -> Response:
        return answer("icon.svg", request)

    async def static(request: Request) -> Response:
        return answer(request.path_params["name"], request)

    for path, route in (("/", index), ("/favicon.ico", icon), ("/page/{name}", static)):
        app.add_route(path, route, methods=["GET", "HEAD"], include_in_schema=False)
