"""`malmoi verify`: the promises of exactness, proved on your own recipe and machine."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, language, print_json, table
from malmoi.cli.folders import RECIPE
from malmoi.config import MalmoiError, Recipe

if TYPE_CHECKING:
    from malmoi.train.proofs import Proof

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

VILLAGE = "village:600"  # of an endless village so much is enough here

WORDS = {
    "interrupted": {"en": "interrupted = straight", "ko": "중단 후 이어서 = 끊김 없이"},
    "accumulated": {"en": "accumulated = large batch", "ko": "나누어 쌓은 기울기 = 큰 배치"},
    "cached": {"en": "cached = uncached", "ko": "캐시 사용 = 캐시 없이"},
    "packed": {"en": "packed = alone", "ko": "한 줄에 여럿 = 따로"},
    "observed": {"en": "observed = unobserved", "ko": "들여다볼 때 = 그냥 둘 때"},
    "in_a_batch": {"en": "in a batch = alone", "ko": "배치 안에서 = 혼자"},
    "exported": {"en": "exported = ours", "ko": "저장 후 다시 읽음 = 원래 모델"},
    "planned": {"en": "planned = counted", "ko": "계산한 매개변수 수 = 실제 수"},
}
HEADINGS = {
    "en": ("promise", ">difference", ">allowed", ">seconds", ""),
    "ko": ("약속", ">차이", ">허용", ">초", ""),
}
SAID = {
    "en": {"bits": "bit for bit", "holds": "holds", "fails": "FAILS", "all": "All {count} promises hold here."},
    "ko": {"bits": "비트까지 같음", "holds": "지켜짐", "fails": "어긋남", "all": "약속 {count}가지가 모두 지켜집니다."},
}


@app.command()
def verify(
    what: Annotated[Path, typer.Argument(help="A recipe (.yaml), or the folder of a run.")],
    steps: Annotated[int, typer.Option(min=2, help="Steps of the run that is interrupted and resumed.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Prove the promises of exactness on your own recipe and machine, with a few steps.

    Each line computes something by two roads and shows the largest difference. Exits 1 if a promise is broken.

    [bold]Examples[/bold]

    \b
    malmoi verify recipes/village.yaml
    malmoi verify runs/village --json
    """
    with tempfile.TemporaryDirectory() as place:
        found = []
        for proof in _proofs(what, Path(place), steps):
            found.append(proof)
            if not as_json:
                print(".", end="", flush=True)
    broken = [proof for proof in found if not proof.holds]
    if as_json:
        print_json([{**dataclasses.asdict(proof), "holds": proof.holds} for proof in found])
    else:
        print()
        _show(found)
    if broken:
        raise typer.Exit(1)


def _show(found: list[Proof]) -> None:
    tongue = language()
    said = SAID[tongue]
    rows = [
        (
            WORDS[proof.name][tongue],
            f"{proof.difference:.1e}" if proof.difference else "0",
            f"{proof.allowed:.0e}" if proof.allowed else said["bits"],
            f"{proof.seconds:.1f}",
            said["holds"] if proof.holds else said["fails"],
        )
        for proof in found
    ]
    console().print(table(HEADINGS[tongue], rows))
    if all(proof.holds for proof in found):
        console().print(said["all"].format(count=len(found)), markup=False)


def _proofs(what: Path, place: Path, steps: int) -> Iterator[Proof]:
    from malmoi import layers
    from malmoi.cli import pipeline
    from malmoi.train.proofs import Proof, Subject, proofs

    recipe = Recipe.from_yaml(_recipe(what))
    settings = pipeline.resolve(recipe)
    show: Any = lambda _: None  # noqa: E731
    prepared = what if what.is_dir() else place
    tokenizer = pipeline.prepare_tokenizer(settings, prepared, show)
    if not (prepared / pipeline.TOKENS).is_dir():
        settings = dataclasses.replace(settings, recipe=_less(settings.recipe))
    tokens = pipeline.prepare_tokens(settings, prepared, tokenizer, show)
    batches, held_out = pipeline.build_batches(settings, tokens, prepared)
    subject = Subject(
        lambda: pipeline.build_model(settings, tokenizer), batches, (held_out or [])[:1], settings.train, place
    )
    yield from proofs(subject, steps)
    begin = time.perf_counter()
    model = subject.make()
    apart = abs(layers.count_parameters(model.config) - model.num_parameters())
    yield Proof("planned", float(apart), 0.0, time.perf_counter() - begin)


def _recipe(what: Path) -> Path:
    if what.is_dir():
        if (what / RECIPE).is_file() and (what / "tokens").is_dir():
            return what / RECIPE
        raise MalmoiError(
            f"{what}: is not the folder of a run (no {RECIPE} and tokens). Give a recipe, or such a folder."
        )
    return what


def _less(recipe: Recipe) -> Recipe:
    """The same recipe with little of an endless source."""
    sources = [
        source.replace(path=VILLAGE) if isinstance(source.path, str) and source.path.startswith("village") else source
        for source in recipe.data.sources
    ]
    return recipe.replace(data=recipe.data.replace(sources=[source.model_dump() for source in sources]))
