"""`malmoi describe FOLDER PICTURE`: what a model says to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli import options, seeing
from malmoi.cli.console import print_json, write
from malmoi.cli.folders import open_speaker, say_note
from malmoi.cli.generate import opened

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def describe(
    folder: Annotated[str, typer.Argument(help="A model that knows pictures: its folder, or a run's.")],
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file of any size.")],
    prompt: Annotated[str, typer.Argument(help='A question, or how the answer begins: "English: ".')] = "English: ",
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    backend: options.BackendChoice = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is in a picture.

    [bold]Examples[/bold]

    \b
    malmoi describe runs/emoji apple.png
    malmoi describe runs/emoji apple.png "한국어: "
    malmoi describe runs/scenes scene.png "How many blue circles? "
    """
    from malmoi.generate.pictures import describe as described

    given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    settings = {name: value for name, value in given.items() if value is not None}
    shown = opened(picture)
    engine, answer = "torch", seeing.describe(folder, shown, prompt, max_new_tokens)
    if answer is None:
        speaker = open_speaker(folder, backend)
        say_note(speaker)
        engine, answer = speaker.engine, described(speaker.backend, speaker.tokenizer, shown, prompt, **settings)
    if as_json:
        print_json({"picture": picture, "prompt": prompt, "answer": answer, "engine": engine})
    else:
        write(f"{answer}\n")
