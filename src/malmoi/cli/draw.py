"""`malmoi draw FOLDER TEXT`: a picture of a text, or several of them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from malmoi.cli import options
from malmoi.cli.console import console, setting
from malmoi.cli.folders import open_speaker, say_note

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def draw(
    folder: Annotated[str, typer.Argument(help="A model that knows pictures: its folder, or a run's.")],
    text: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("drawing.png"),
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=64, help="Pictures, side by side.")] = 1,
    guidance_scale: Annotated[float | None, typer.Option(help=setting("GenerationConfig", "guidance_scale"))] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    backend: options.BackendChoice = "auto",
) -> None:
    """Draw a picture of a text. The same seed draws the same picture.

    [bold]Examples[/bold]

    \b
    malmoi draw runs/emoji "빨간색 하트" --out heart.png
    malmoi draw runs/scenes "two blue circles" -n 4 --guidance-scale 4 --seed 1
    """
    import numpy as np

    from malmoi.generate.pictures import draw as drawn
    from malmoi.generate.settings import new_seed
    from malmoi.tokens.folder import write_bytes
    from malmoi.tokens.picture import png

    given = {"guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = {name: value for name, value in given.items() if value is not None}
    speaker = open_speaker(folder, backend)
    say_note(speaker)
    seed = new_seed() if seed is None else seed
    pictures = drawn(speaker.backend, speaker.tokenizer, text, n=n, seed=seed, **settings)
    write_bytes(out, png(np.concatenate([np.asarray(picture) for picture in pictures], axis=1)))
    console().print(f"{out}: {text} (seed {seed})", markup=False)
