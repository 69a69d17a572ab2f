"""What comes before training, and a process that is killed in the middle of it.

Learning a tokenizer and tokenising can take hours, so what was finished of it is kept: each part appears whole or not
at all. Until `recipe.yaml` says that all parts are there, the recipe lies in the folder under a hidden name; the same
command, or `--resume`, then goes on. Another recipe begins anew. Files and folders that a killed process left half
written carry hidden names, and are cleared away at the next start.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from malmoi.cli.folders import RECIPE
from malmoi.config import Config, MalmoiError, Recipe

PREPARING = ".preparing.yaml"
PARTS = ("tokenizer", "image_tokenizer", "tokens", "validation")
GIVEN = ("tokens", "validation")  # may be put into a run's folder before it begins; such are never dropped
MARK = "# given: "
DECIDES_TOKENS = {
    "": ("start_from", "tokenizer", "vocab_size", "image_tokenizer", "images", "vision"),
    "data.": ("sources", "held_out", "validation"),
}
# Names that our writers give to what is not finished: .tokens.building-71-0a1b2c3d, .config.yaml.0a1b2c3d4e5f.tmp
HALF_WRITTEN = re.compile(
    r"\.(.+)\.((building|old|writing)-\d+(-[0-9a-f]+)?|[0-9a-f]{8,}\.(tmp|saving)|\d+)|\.(writing|old)-.+"
)


def is_unfinished(folder: Path) -> bool:
    """Was preparing begun here and never ended? Perhaps the process was killed before it could note its recipe.

    A folder of nothing but finished tokens counts: a person made them (`malmoi data build`) for a run to come.
    """
    if (folder / RECIPE).is_file() or not folder.is_dir():
        return False
    if (folder / PREPARING).is_file():
        return True
    whole = GIVEN if (folder / "tokens" / "manifest.json").is_file() else ()
    return all(entry.name in whole or HALF_WRITTEN.fullmatch(entry.name) for entry in folder.iterdir())


def recipe_in(folder: Path) -> Path:
    """The recipe to go on with, finished preparing or not; it may not exist."""
    return folder / PREPARING if is_unfinished(folder) else folder / RECIPE


def begin(folder: Path, recipe: Recipe) -> None:
    """Clear away what is half written; note the recipe, and drop the parts that were prepared for another one."""
    from malmoi.tokens.folder import write_text

    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, *(folder / part for part in (*PARTS, "model"))):
        clear_half_written(place)
    if (folder / RECIPE).is_file():
        (folder / PREPARING).unlink(missing_ok=True)
        return
    note = folder / PREPARING
    noted = note.read_text(encoding="utf-8") if note.is_file() else None
    first = (noted or "").partition("\n")[0]
    if noted is None:
        given = [part for part in GIVEN if (folder / part / "manifest.json").is_file()]
    else:
        given = first.removeprefix(MARK).split() if first.startswith(MARK) else []
    text = (f"{MARK}{' '.join(given)}\n" if given else "") + recipe.to_yaml()
    if noted != text:
        for part in PARTS:
            if noted is not None and part not in given:
                shutil.rmtree(folder / part, ignore_errors=True)
        write_text(note, text)


def check_resumed(recipe: Recipe, folder: Path) -> None:
    """A run goes on with the tokens that it has; refuse a recipe (filled in) that asks for others, naming the setting.

    What else a recipe may not change, the training loop knows.
    """
    before = Recipe.from_yaml(folder / RECIPE)
    for place, was, now in (("", before, recipe), ("data.", before.data, recipe.data)):
        for name in DECIDES_TOKENS[place]:
            then, asked = getattr(was, name), getattr(now, name)
            if then != asked:
                raise MalmoiError(
                    f"{folder}: {place}{name} was {_said(then)} when this run began and is {_said(asked)} now; its "
                    f"tokens are made. Put the old value back (malmoi train --resume --out {folder} takes it), or "
                    f"choose another --out."
                )


def _said(value: object) -> str:
    """A setting as a recipe has it, without what is left at its default."""
    if isinstance(value, tuple):
        return f"[{', '.join(_said(each) for each in value)}]"
    return str(value.model_dump(mode="json", exclude_defaults=True)) if isinstance(value, Config) else repr(value)


def end(folder: Path) -> None:
    """All parts are there and `recipe.yaml` is written."""
    (folder / PREPARING).unlink(missing_ok=True)


def clear_half_written(folder: Path) -> None:
    """Remove what writers of ours left in `folder` when they were killed; nothing else."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if HALF_WRITTEN.fullmatch(entry.name):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
