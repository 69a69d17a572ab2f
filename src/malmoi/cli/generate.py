"""`malmoi generate FOLDER PROMPT`: let a model continue a text, and see how it came to each token."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from malmoi.cli import options
from malmoi.cli.console import console, print_json, read_stdin, write
from malmoi.cli.folders import Speaker, open_speaker, say_note

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
) -> None:
    """Let a model continue a text.

    The text appears as it is written. Setting a temperature, top-k, top-p, min-p or several sequences (-n) means
    sampling; --temperature 0 always takes the likeliest token. The same seed gives the same text.

    [bold]Examples[/bold]

    \b
    malmoi generate runs/quickstart "한때" --temperature 0.7
    malmoi generate runs/quickstart "Translate this text to French: " -n 5 --seed 1
    echo "Once upon a time" | malmoi generate runs/quickstart - --trace
    """
    text = read_stdin().rstrip("\n") if prompt == "-" else prompt
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
    if several or as_json:
        _together(speaker, text, settings, trace, as_json)
    else:
        _stream(speaker, text, settings, trace)


def _stream(speaker: Speaker, text: str, settings: dict[str, Any], trace: bool) -> None:
    from malmoi.generate.engine import stream

    ids = speaker.tokenizer.encode(text)
    tokens = stream(speaker.backend, speaker.tokenizer, ids, trace=trace, **settings)  # raises before showing anything
    write(text)
    traces = []
    for token in tokens:
        write(token.text)
        if token.trace is not None:
            traces.append(token.trace)
    write("\n")
    if trace:
        from malmoi.cli.surprise import trace_table

        console().print(trace_table(traces))


def _together(speaker: Speaker, text: str, settings: dict[str, Any], trace: bool, as_json: bool) -> None:
    from malmoi.generate.engine import generate as generate_all

    ids = speaker.tokenizer.encode(text)
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
        return
    for number, (written, why) in enumerate(zip(texts, traces, strict=True), start=1):
        console().print(f"[dim]--- {number} of {len(texts)}[/dim]")
        write(f"{text}{written}\n")
        if trace:
            from malmoi.cli.surprise import trace_table

            console().print(trace_table(why))
