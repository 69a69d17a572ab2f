"""`malmoi serve FOLDER`: a chat page for people and an OpenAI-compatible API for programs, on this machine."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from malmoi.cli import options
from malmoi.cli.folders import model_folder, open_model, open_speaker, say_note
from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.serve.service import Service

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

HOST, PORT = "127.0.0.1", 8000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY = "MALMOI_API_KEY"
CACHE_TOKENS = 32_768  # 64 texts of 512 tokens
BLOCK = 32  # positions in a block of the cache


@app.command()
def serve(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    host: Annotated[str, typer.Option(help="The address to listen on; beyond this machine a key is needed.")] = HOST,
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65_535)] = PORT,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"A key that clients must send (may be repeated). Better in {KEY}: others see arguments."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name under which the server may be addressed (may be repeated).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the API; else the folder's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the native engine.", min=1)] = None,
    cache_tokens: Annotated[
        int, typer.Option(help="Tokens that the cache holds, of all texts together.", min=1024, max=10_000_000)
    ] = CACHE_TOKENS,
    backend: options.BackendChoice = "auto",
) -> None:
    """Talk to a model in the browser, and let programs use it by OpenAI's API.

    [bold]Examples[/bold]

    \b
    malmoi serve runs/quickstart
    malmoi serve runs/quickstart --port 8080
    MALMOI_API_KEY=secret malmoi serve runs/quickstart --host 0.0.0.0 --allowed-host my.machine
    """
    keys = [key for key in (api_key or os.environ.get(KEY, "").split(",")) if key]
    if host not in LOOPBACK and not keys:
        raise MalmoiError(
            f"--host {host} lets other machines in, and anybody there could use the model. Set a key "
            f"({KEY}=... or --api-key ...), or leave --host out."
        )
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MalmoiError("The server needs an extra: pip install 'malmoi[serve]'.") from None
    from malmoi.serve.app import create_app
    from malmoi.serve.http import run

    service = service_of(folder, backend, name, threads, cache_tokens // BLOCK)
    named = f"[{host}]" if ":" in host else host  # as a browser writes it
    run(create_app(service, keys=keys, hosts=[*(allowed_host or []), named]), host, port, service.name)


def service_of(
    folder: str, backend: options.BackendChoice, name: str | None, threads: int | None, blocks: int | None
) -> Service:
    """The folder as something that many may talk to."""
    from malmoi.generate.engine import Engine
    from malmoi.serve.service import Service

    speaker = open_speaker(folder, backend, threads=threads, num_blocks=blocks)
    say_note(speaker)
    place = Path(model_folder(folder)).expanduser()
    print(f"{folder}: {speaker.engine}", file=sys.stderr)
    return Service(
        Engine(speaker.backend, speaker.tokenizer, generation_config=speaker.generation_config),
        speaker.tokenizer,
        name or Path(folder).resolve().name,
        model_hash=hash_of(place),
        engine_name=speaker.engine,
        folder=place if place.is_dir() else None,
        open_torch=functools.partial(open_model, folder),
    )


def hash_of(folder: Path) -> str:
    """SHA-256 of what makes a model's answers: weights, configuration and tokenizer, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in (".safetensors", ".bin") or path.name in ("config.json", "tokenizer.json"):
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
    return digest.hexdigest()
