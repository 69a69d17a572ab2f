"""`malmoi train`: a model from a recipe or from files."""

from __future__ import annotations

import json
import os
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli import preparing
from malmoi.cli.console import console, duration, energy, setting
from malmoi.cli.data import unescaped
from malmoi.cli.folders import ADAPTER, RECIPE, model_folder
from malmoi.cli.transfer import lora_from
from malmoi.config import MalmoiError, Recipe, TrainConfig, nearest

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (.yaml); see recipes/.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; otherwise runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
    data: Annotated[
        list[str] | None, typer.Option(help="Files, folders, globs, or village, instead of a recipe.")
    ] = None,
    field: Annotated[str | None, typer.Option(help=setting("SourceConfig", "field"))] = None,
    template: Annotated[str | None, typer.Option(help=setting("SourceConfig", "template"))] = None,
    size: Annotated[str | None, typer.Option(help=setting("Recipe", "size"))] = None,
    minutes: Annotated[float | None, typer.Option(help=setting("TrainConfig", "max_minutes"))] = None,
    steps: Annotated[int | None, typer.Option(help=setting("TrainConfig", "max_steps"))] = None,
    epochs: Annotated[float | None, typer.Option(help=setting("TrainConfig", "num_train_epochs"))] = None,
    vocab_size: Annotated[int | None, typer.Option(help=setting("Recipe", "vocab_size"))] = None,
    tokenizer: Annotated[str | None, typer.Option(help=setting("Recipe", "tokenizer"))] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", "--start-from", help=setting("Recipe", "start_from"))
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(help=setting("Recipe", "lora") + " Such as r=8,alpha=16,dropout=0.05,targets=q_proj+v_proj."),
    ] = None,
    track: Annotated[
        str | None, typer.Option(help=setting("TrainConfig", "track") + " Several: tensorboard,wandb.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the recipe: --set train.learning_rate=0.01. May be repeated."),
    ] = None,
) -> None:
    """Train a model: read the data, learn a tokenizer, train, save a model folder.

    With a recipe, options change what the recipe says. Ctrl-C saves; --resume goes on and ends with the same model as a
    run that was never stopped. What a setting means: malmoi explain NAME.

    [bold]Examples[/bold]

    \b
    malmoi train recipes/village.yaml
    malmoi train --data books/ --size micro --minutes 10 --out runs/books
    malmoi train recipes/village.yaml --set train.learning_rate=0.01 --out runs/faster
    malmoi train --resume --out runs/books
    malmoi train recipes/village.yaml --track tensorboard,trackio
    malmoi train --from runs/books --steps 300 --out runs/more
    malmoi train --from runs/books --data letters/ --set train.learning_rate=0.0003
    malmoi train --from runs/books --data letters/ --lora r=8,alpha=16
    """
    options: dict[str, Any] = {
        "size": size,
        "vocab_size": vocab_size,
        "tokenizer": tokenizer,
        "start_from": start_from,
        "lora": None if lora is None else lora_from(lora),
        "train.max_minutes": minutes,
        "train.max_steps": steps,
        "train.num_train_epochs": epochs,
        "train.track": None if track is None else trackers_from(track),
    }
    given = {name: value for name, value in options.items() if value is not None}
    folder = out or _default_folder(recipe, data)
    if resume and recipe is None and not data:
        if out is None:
            raise MalmoiError("--resume needs to know which run: malmoi train --resume --out runs/NAME")
        if not preparing.recipe_in(out).is_file():
            raise MalmoiError(f"{out}: there is no run here to go on with (no {RECIPE}).")
        recipe = preparing.recipe_in(out)
    if recipe is None and not data and start_from is not None:
        given["data"] = _data_of(start_from)
    made = _recipe(recipe, data, field, template, {**given, **_assignments(changes or [])})
    _run(made, folder, resume)


def _run(recipe: Recipe, folder: Path, resume: bool) -> None:
    from malmoi.cli.pipeline import run
    from malmoi.cli.progress import Screen
    from malmoi.train.memory import keep_memory

    keep_memory()
    if int(os.environ.get("RANK", "0")):  # one of a job's other processes: the first one speaks for all
        if run(recipe, folder, resume=resume).interrupted:
            raise typer.Exit(130)
        return
    with Screen() as screen:
        result = run(recipe, folder, resume=resume, show=screen)
    say = console()
    if result.interrupted:
        say.print(f"Go on with: malmoi train --resume --out {folder}", markup=False)
        raise typer.Exit(130)
    if result.last is not None:
        say.print(
            f"Trained in {duration(result.last.seconds)}: {result.last.tokens:,} tokens, {result.last.step:,} steps."
        )
    for line in _energy(folder):
        say.print(line, markup=False)
    if screen.bits_per_byte is not None:
        say.print(f"Held-out text: {screen.bits_per_byte:.3f} bits per byte.")
    if recipe.lora is not None:
        say.print(f"The adapter alone is in {folder / ADAPTER}; merged, it is the model.", markup=False)
    say.print(f"The model is in {result.model_folder}. Try:", markup=False)
    for line in (f'generate {folder} "..."', f"eval {folder}", f"params {folder}"):
        say.print(f"  malmoi {line}", markup=False)


def trackers_from(words: str) -> list[str]:
    """`tensorboard,wandb` as names that are known."""
    known = typing.get_args(typing.get_args(TrainConfig.model_fields["track"].annotation)[0])
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise MalmoiError(f"--track {name}: is not known.{nearest(name, known)} Known: {', '.join(known)}.")
    return list(dict.fromkeys(names))


def _energy(folder: Path) -> list[str]:
    """What the run took, by its summary."""
    from malmoi.train.record import SUMMARY

    try:
        spent = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["energy"]
        each = f", {energy(spent['joules_per_token'])} a token" if spent["joules_per_token"] is not None else ""
        return [f"Energy: {energy(spent['joules'])} ({spent['kilowatt_hours']:.3g} kWh){each}; {spent['method']}."]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _recipe(
    path: Path | None, data: list[str] | None, field: str | None, template: str | None, changes: dict[str, Any]
) -> Recipe:
    """The recipe that a command line means."""
    if path is not None and data:
        raise MalmoiError("Give either a recipe or --data, not both. A recipe names its own data.")
    if path is None and not data and "data" not in changes:
        raise MalmoiError(
            "What shall the model learn from? Give a recipe (malmoi train recipes/village.yaml) or files "
            "(malmoi train --data books/ --size nano --minutes 3)."
        )
    values: dict[str, Any]
    if path is not None:
        if path.suffix not in (".yaml", ".yml"):
            raise MalmoiError(
                f"{path}: a recipe is a .yaml file. To train on a file of text: malmoi train --data {path}"
            )
        values = Recipe.from_yaml(path).model_dump(mode="json", exclude_unset=True)
    elif not data:
        values = {}
    else:
        source: dict[str, Any] = {"path": list(data or []), "field": field, "template": unescaped(template)}
        values = {"data": {"sources": [{key: value for key, value in source.items() if value is not None}]}}
    for name, value in changes.items():
        _assign(values, name, value)
    return Recipe(**values)


def _data_of(start_from: str) -> dict[str, Any]:
    """The data that a model was trained on: what it goes on with when nothing else is named."""
    place = Path(model_folder(start_from)) / RECIPE
    if not place.is_file():
        raise MalmoiError(
            f"{start_from}: does not say what it was trained on (no {RECIPE}). Name data to go on with: --data FILES."
        )
    return Recipe.from_yaml(place).data.model_dump(mode="json", exclude_unset=True)


def _assignments(words: list[str]) -> dict[str, Any]:
    """`train.learning_rate=0.01` -> {"train.learning_rate": 0.01}; values are read as YAML."""
    import yaml

    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise MalmoiError(f"--set wants NAME=VALUE, such as train.learning_rate=0.01 (given: {word!r}).")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise MalmoiError(f"--set {word}: the value is not valid YAML.") from None
    return found


def _assign(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted name in nested dictionaries."""
    *sections, last = name.split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise MalmoiError(f"--set {name}: '{section}' holds no settings of its own.")
    place[last] = value


def _default_folder(recipe: Path | None, data: list[str] | None) -> Path:
    name = recipe.stem if recipe is not None else Path((data or ["model"])[0].rstrip("/*")).stem
    return Path("runs") / (name or "model")
