"""The HTTP connection itself: uvicorn with limits on how long a request may take to arrive, and a good ending.

On SIGTERM or Ctrl-C no new connection is taken and streams are finished, for `limits.DRAIN_SECONDS` at most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from malmoi.serve import limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server


def server(app: FastAPI, host: str, port: int, *, log_level: str = "warning") -> Server:
    """The server, not started: `run()` blocks, `serve()` is its coroutine."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=_patient(),  # pyright: ignore[reportArgumentType]
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_level=log_level,
            access_log=False,  # addresses and paths are people's own business
            server_header=False,
            proxy_headers=False,  # nobody may say that he comes from elsewhere
            limit_concurrency=limits.CONNECTIONS,
            timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=limits.DRAIN_SECONDS,
            h11_max_incomplete_event_size=limits.HEADER_BYTES,
        )
    )


def run(app: FastAPI, host: str, port: int, name: str) -> None:
    """Serve until told to stop."""
    import socket
    import sys

    from malmoi.config import MalmoiError

    try:
        door = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=limits.CONNECTIONS
        )
    except OSError as error:
        raise MalmoiError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}. Is another server running there? "
            "Choose another --port."
        ) from None
    shown = f"[{host}]" if ":" in host else host
    print(f"{name}: http://{shown}:{door.getsockname()[1]}  (Ctrl-C stops)", file=sys.stderr, flush=True)
    server(app, host, port).run(sockets=[door])


def _patient() -> type[asyncio.Protocol]:
    """uvicorn's protocol, with an end to its patience: it waits for a request's headers as long as somebody likes."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._waiting = self.loop.call_later(limits.BODY_SECONDS, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()  # a request has arrived; its body has its own limit
            elif self._waiting is None:
                self._waiting = self.loop.call_later(limits.BODY_SECONDS, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Patient
