"""`malmoi generate FOLDER PROMPT`: let a model continue a text, and see how it came to each token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli import options
from malmoi.cli.console import console, print_json, read_stdin, write
from malmoi.cli.folders import Speaker, open_speaker, say_note

if TYPE_CHECKING:
    from malmoi.tokens.picture import Picture

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def generate(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    max_new_tokens: options.MaxNewTokens = None,
    max_length: options.MaxLength = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    n: options.Sequences = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    backend: options.BackendChoice = "auto",
    trace: Annotated[bool, typer.Option("--trace", help="Show how each token was chosen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of streaming.")] = False,
    image: Annotated[Path | None, typer.Option(help="A picture that stands before the text.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where pictures go that it draws (PNG).")] = None,
) -> None:
    """Let a model continue a text, or a picture and a text.

    The text appears as it is written. Setting a temperature, top-k, top-p, min-p or several sequences (-n) means
    sampling; --temperature 0 always takes the likeliest token. The same seed gives the same text.

    [bold]Examples[/bold]

    \b
    malmoi generate runs/quickstart "한때" --temperature 0.7
    malmoi generate runs/quickstart "Translate this text to French: " -n 5 --seed 1
    echo "Once upon a time" | malmoi generate runs/quickstart - --trace
    malmoi generate runs/emoji "한국어: " --image apple.png
    """
    text = read_stdin().rstrip("\n") if prompt == "-" else prompt
    picture = opened(image) if image is not None else None
    speaker = open_speaker(folder, backend)
    say_note(speaker)
    given = {
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "num_return_sequences": n,
        "seed": seed,
        "stop_strings": tuple(stop) if stop else None,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    several = settings.get("num_return_sequences", speaker.generation_config.num_return_sequences) > 1
    ids = speaker.tokenizer.encode(text) if picture is None else _after(speaker, picture, text)
    if several or as_json:
        rows = _together(speaker, text, ids, settings, trace, as_json)
    else:
        rows = [_stream(speaker, text, ids, settings, trace)]
    if out is not None:
        _save(speaker, rows, out)


def opened(path: Path) -> Picture:
    """A picture that can be read: a mistake in its name is said before a model is opened."""
    from malmoi.tokens.picture import Picture

    picture = Picture(path)
    picture.open()
    return picture


def _after(speaker: Speaker, picture: Picture, text: str) -> list[int]:
    from malmoi.tokens.interleave import encode_parts

    return [index for row in encode_parts(speaker.tokenizer, [picture, text]) for index in row]


def _save(speaker: Speaker, rows: list[list[int]], out: Path) -> None:
    """Every picture of what was written, side by side."""
    import numpy as np

    from malmoi.tokens.folder import write_bytes
    from malmoi.tokens.interleave import decode_parts
    from malmoi.tokens.picture import png

    parts = [part for row in rows for part in decode_parts(speaker.tokenizer, row)]
    pictures = [np.asarray(part) for part in parts if not isinstance(part, str)]
    if not pictures:
        console(stderr=True).print("The model drew no picture; nothing was written.")
        return
    write_bytes(out, png(np.concatenate(pictures, axis=1)))


def _stream(speaker: Speaker, text: str, ids: list[int], settings: dict[str, Any], trace: bool) -> list[int]:
    """The ids that were written, each shown as soon as it can be; a picture as a word in brackets."""
    from malmoi.generate.engine import stream

    tokens = stream(speaker.backend, speaker.tokenizer, ids, trace=trace, **settings)  # raises before showing anything
    write(text)
    traces, written = [], []
    images = speaker.tokenizer.images
    for token in tokens:
        write("[picture]" if images is not None and token.id == images.end else token.text)
        written.append(token.id)
        if token.trace is not None:
            traces.append(token.trace)
    write("\n")
    if trace:
        from malmoi.cli.surprise import trace_table

        console().print(trace_table(traces))
    return written


def _together(
    speaker: Speaker, text: str, ids: list[int], settings: dict[str, Any], trace: bool, as_json: bool
) -> list[list[int]]:
    from malmoi.generate.engine import generate as generate_all

    made = generate_all(speaker.backend, ids, tokenizer=speaker.tokenizer, trace=trace, **settings)
    texts, traces = made.texts or [], made.traces or [[] for _ in made.new_tokens]
    if as_json:
        rows = [
            {"text": written, "ids": ids, "finish_reason": reason}
            | ({"trace": [item.to_dict() for item in why]} if trace else {})
            for written, ids, reason, why in zip(texts, made.new_tokens, made.finish_reasons, traces, strict=True)
        ]
        said = {"prompt": text, "engine": speaker.engine, "seed": made.seed, "settings": made.config.model_dump()}
        print_json({**said, "completions": rows})
        return made.new_tokens
    for number, (written, why) in enumerate(zip(texts, traces, strict=True), start=1):
        console().print(f"[dim]--- {number} of {len(texts)}[/dim]")
        write(f"{text}{written}\n")
        if trace:
            from malmoi.cli.surprise import trace_table

            console().print(trace_table(why))
    return made.new_tokens
