"""`malmoi quickstart`: from nothing to a GPT that answers, in one command and a few minutes.

The same `pipeline.run` as `malmoi train`, on the embedded Village; afterwards the model is examined on combinations
that it never saw, and heard.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, duration, print_json, setting
from malmoi.cli.folders import MODEL, RECIPE, open_model
from malmoi.config import Recipe

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

TOKENS = 3_600_000  # after which a nano model answers well (docs/results/quickstart.md)
MOST_MINUTES = 6.0  # on a machine that needs longer for them
DOCUMENTS = 64_000  # of the Village: more than TOKENS, so that nothing is seen twice
DOCUMENTS_A_CORE, MOST_DOCUMENTS = 32_000, 400_000  # where the minutes are given
EXAMPLES = 40  # of each task in each language: some thousand answers
EVALUATION = "evaluation.json"
PROMPTS = {"English": "Once upon a time", "한국어": "한때", "Français": "Il était une fois"}
SAMPLES, SAMPLE_SETTINGS = 5, {"temperature": 0.7, "max_new_tokens": 40}


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("runs/quickstart"),
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            help=f"How long to train; else until {TOKENS / 1e6:g} million tokens are read, at most {MOST_MINUTES:g} "
            "minutes.",
        ),
    ] = None,
    size: Annotated[str, typer.Option(help=setting("Recipe", "size"))] = "nano",
    seed: Annotated[int, typer.Option(help=setting("TrainConfig", "seed"), min=0)] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Delete what an earlier quickstart made, and begin anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON at the end.")] = False,
) -> None:
    """Train a first GPT on this machine and hear it: no data, no download, no settings.

    Makes the corpus of the Village (stories, translation, questions, arithmetic and dialogues in Korean, English and
    French), learns a tokenizer from it, trains a small GPT for a few minutes, and examines it on combinations that it
    never saw. Ctrl-C saves; the same command goes on.

    [bold]Examples[/bold]

    \b
    malmoi quickstart
    malmoi quickstart --minutes 10 --size micro --out runs/longer
    """
    from malmoi.cli.pipeline import run
    from malmoi.cli.progress import Screen
    from malmoi.train.memory import keep_memory

    keep_memory()
    if again and (out / RECIPE).is_file():
        shutil.rmtree(out)
    begin = time.perf_counter()
    trained = (out / MODEL / "config.json").is_file()
    if trained:
        console().print(f"{out} holds a finished model; here it is again (--again trains anew).", markup=False)
    else:
        with Screen() as screen:
            result = run(recipe(minutes, size, seed), out, resume=(out / RECIPE).is_file(), show=screen)
        if result.interrupted:
            console().print(
                "Go on with: malmoi quickstart" + ("" if str(out) == "runs/quickstart" else f" --out {out}")
            )
            raise typer.Exit(130)
    model, tokenizer = open_model(out)
    found = examine(model, tokenizer, out, seed)
    if not trained:
        found["seconds"] = time.perf_counter() - begin
    _keep(found, out)
    if as_json:
        print_json(found)
        return
    show_answers(found)
    show_samples(model, tokenizer, seed)
    show_next(out, found)


def recipe(minutes: float | None, size: str, seed: int) -> Recipe:
    """The quickstart as a recipe: what `malmoi train` would be given.

    A machine is as fast as it is, and a model is as good as what it has read: unless `minutes` says otherwise, the
    length of the run is a number of tokens, and the clock only its limit.
    """
    from malmoi.cli.trials import step_tokens
    from malmoi.presets.dial import train_defaults

    if minutes is None:
        length = {"max_minutes": MOST_MINUTES, "max_steps": TOKENS // step_tokens(train_defaults(size))}
        documents = DOCUMENTS
    else:
        length = {"max_minutes": minutes}
        documents = min(DOCUMENTS_A_CORE * (os.cpu_count() or 2), MOST_DOCUMENTS)
    data: Any = {"sources": [{"path": f"village:{documents}", "license": "Apache-2.0"}], "held_out": 0.01}
    return Recipe(
        data=data,
        size=size,
        train={**length, "seed": seed, "eval_steps": 200, "save_steps": 1000, "eval_tokens": 30_000},
        generation={"temperature": SAMPLE_SETTINGS["temperature"]},
    )


def examine(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, out: Path, seed: int) -> dict[str, Any]:
    """Exact answers on held-out combinations, and bits per byte of held-out documents."""
    from malmoi.cli.evaluate import working
    from malmoi.data.village import documents
    from malmoi.evaluate import bits_per_byte, village_accuracy

    begin = time.perf_counter()
    with working("answering questions about combinations it never saw") as progress:
        answers = village_accuracy(model, tokenizer, EXAMPLES, seed, progress=progress)
    text = bits_per_byte(model, tokenizer, documents(seed, "held_out", 0, 400))
    return {"folder": str(out), "answers": answers, "text": text, "examined_in": time.perf_counter() - begin}


def _keep(found: dict[str, Any], out: Path) -> None:
    import json

    from malmoi.tokens.folder import write_text

    write_text(out / EVALUATION, json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def show_answers(found: dict[str, Any]) -> None:
    """One row a task: the share of exact answers in each language."""
    from malmoi.cli.console import table
    from malmoi.data.village import LANGUAGES

    shares = {(row["task"], row["language"]): row["exact"] for row in found["answers"]["rows"]}
    tasks = list(dict.fromkeys(task for task, _ in shares))
    rows = [
        (task, *(f"{shares[task, language]:.0%}" for language in LANGUAGES)) for task in tasks if task != "translation"
    ]
    say = console()
    say.print("\n[bold]Exact answers to questions about combinations that training never showed[/bold]")
    say.print(table(("task", *(f">{language}" for language in LANGUAGES)), rows))
    pairs = {language: share for (task, language), share in shares.items() if task == "translation"}
    cells = ("translation", *(f"{share:.0%}" for share in pairs.values()))
    say.print(table(("task", *(f">{pair}" for pair in pairs)), [cells]))
    say.print(f"Held-out text: {found['text']['bits_per_byte']:.3f} bits per byte.")


def show_samples(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, seed: int) -> None:
    """Five continuations of one prompt in each language."""
    from malmoi.generate.engine import generate

    say = console()
    for language, prompt in PROMPTS.items():
        made = generate(
            model,
            tokenizer.encode(prompt),
            tokenizer=tokenizer,
            num_return_sequences=SAMPLES,
            seed=seed,
            **SAMPLE_SETTINGS,
        )
        say.print(f"\n[bold]{language}[/bold] (temperature {SAMPLE_SETTINGS['temperature']})")
        for number, text in enumerate(made.texts or [], 1):
            say.print(f"{number}. {prompt}{text}".replace("\n", " / "), markup=False, soft_wrap=True)


def show_next(out: Path, found: dict[str, Any]) -> None:
    """Four commands to try; the last one opens the page."""
    say = console()
    took = f" in {duration(found['seconds'])}" if "seconds" in found else ""
    say.print(f"\nDone{took}. The model, its loss curve and every setting are in {out}. Try next:", markup=False)
    for line in (f"chat {out}", f'generate {out} "한때" --trace', f"params {out}", f"serve {out}"):
        say.print(f"  malmoi {line}", markup=False)
