"""`malmoi scale`: what more data or a larger model would buy, read off small runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, duration, json_text, print_json, table
from malmoi.config import MalmoiError, ModelConfig, Recipe

if TYPE_CHECKING:
    from malmoi.cli.trials import Prepared
    from malmoi.plan.ladder import Rung
    from malmoi.plan.scaling import Point

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

PLAN, RUNS = "plan.json", "runs"
BITS, NATS = "bits per byte", "nats per token"
EXAM_SHARE = 8  # a run's one evaluation reads at most this part of what the shortest run learns from
LEAST_EXAM = 8192  # held-out tokens at least
PATIENCE = 1.25  # times the budget: no run begins that would end later


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """A finished run as the law sees it, and the seconds it took."""

    point: Point
    unit: str
    seconds: float


@app.command()
def scale(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (.yaml): its model is the top of the ladder.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for training, such as 30min or 2h.")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option(help="Finished runs to fit instead, or folders of them. May be repeated.")
    ] = None,
    flops: Annotated[
        list[float] | None, typer.Option(help="A budget in training FLOPs to split, such as 1e18. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder; otherwise runs/scale-NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train a ladder of small models, fit how loss falls with size and text, and say what more of either would buy.

    Every size is trained for several lengths, each with a learning-rate schedule of its own. Finished runs are kept,
    and the same command goes on where it stopped. With --runs nothing is trained.

    [bold]Examples[/bold]

    \b
    malmoi scale recipes/village.yaml --budget 30min
    malmoi scale mine.yaml --budget 2h --flops 1e17 --flops 1e18
    malmoi scale --runs runs/a --runs runs/b --runs runs/sizes --out runs/law
    """
    from malmoi.cli.trials import seconds_of

    for each in flops or ():
        if not 0 < each < float("inf"):
            raise MalmoiError(f"--flops {each:g} is no budget; it must be a number above 0, such as 1e18.")
    if (recipe is None) == (not runs):
        raise MalmoiError(
            "Give a recipe to train a ladder (malmoi scale mine.yaml --budget 30min), or finished --runs."
        )
    command = " ".join(["malmoi scale", *([str(recipe)] if recipe else []), *(f"--runs {each}" for each in runs or ())])
    command += "".join(f" --{name} {value}" for name, value in (("budget", budget), ("out", out)) if value is not None)
    say, extra = console(stderr=as_json), {}
    if recipe is None:
        folder = out or Path("runs") / "scale"
        measured = _from_runs(runs or [])
    else:
        if budget is None:
            raise MalmoiError("How long may it take? For example: --budget 30min")
        folder = out or Path("runs") / f"scale-{recipe.stem}"
        ladder = _Ladder(Recipe.from_yaml(recipe), folder, seconds_of(budget), say)
        try:
            measured, extra = ladder.climb()
        except KeyboardInterrupt:
            measured = None
        if measured is None:
            say.print(f"Stopped; what is finished is kept. Go on with: {command}", markup=False, soft_wrap=True)
            raise typer.Exit(130)
    found = _report(measured, folder, command, flops or [], extra)
    if as_json:
        print_json(found)
    else:
        _print(found, folder)


@dataclasses.dataclass
class _Ladder:
    """The runs that a recipe and a budget ask for."""

    recipe: Recipe
    folder: Path
    seconds: float
    say: Any

    def climb(self) -> tuple[list[_Measured] | None, dict[str, Any]]:
        """Train what is missing. The measured runs (None after Ctrl-C), and what the report wants to know besides."""
        from malmoi.cli import pipeline
        from malmoi.cli.trials import check_new, discard, prepare, step_tokens

        if self.recipe.start_from is not None:
            raise MalmoiError("A scaling law is about models trained from the beginning; leave out start_from.")
        settings = pipeline.resolve(self.recipe)
        is_new = not (self.folder / PLAN).is_file()
        if is_new:
            check_new(self.folder, "ladder")
        else:
            self._check_same(settings.recipe)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            prepared = prepare(self.recipe, self.folder, self._stage)
            rungs, exam = self._planned(prepared) if is_new else self._kept()
        except MalmoiError:
            if is_new:
                discard(self.folder)
            raise
        measured = self._train(prepared, rungs, exam)
        train = settings.train
        own_tokens = train.max_steps * step_tokens(train) if train.max_steps else None
        if own_tokens is None and train.num_train_epochs:
            own_tokens = train.num_train_epochs * prepared.unique_tokens
        extra: dict[str, Any] = {"unique_tokens": prepared.unique_tokens}
        if measured is not None:
            extra["missing"] = len(rungs) - len(measured)
        if own_tokens:
            extra["own"] = (_counted(prepared, _top(prepared)), own_tokens)
        return measured, extra

    def _stage(self, stage: Any) -> None:
        self.say.print(f"{stage.name}: {stage.text}", markup=False)

    def _check_same(self, recipe: Recipe) -> None:
        before = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))["recipe"]
        now = recipe.model_dump(mode="json")
        changed = [name for name in now if now[name] != before.get(name)]
        if changed:
            raise MalmoiError(
                f"{self.folder}: holds the ladder of another recipe (different: {', '.join(changed)}). Choose another "
                f"--out, or delete it."
            )

    def _kept(self) -> tuple[list[Rung], int]:
        from malmoi.plan.ladder import Rung

        kept = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        return [Rung(**rung) for rung in kept["rungs"]], kept["eval_tokens"]

    def _planned(self, prepared: Prepared) -> tuple[list[Rung], int]:
        """Time one size after the other until the budget is full; write the plan down."""
        from malmoi.cli.trials import changed, pace, resolved, step_tokens
        from malmoi.plan import ladder
        from malmoi.tokens.folder import write_text

        step = step_tokens(prepared.settings.train)
        facts = (self.seconds, step, prepared.unique_tokens)
        timed: list[tuple[ModelConfig, float]] = []
        chosen: tuple[list[tuple[ModelConfig, float]], tuple[int, ...]] | None = None
        for config in ladder.sizes(_top(prepared)):
            recipe = changed(prepared.settings.recipe, _fields(config))
            speed = pace(prepared, resolved(prepared, recipe, step * ladder.LEAST_STEPS, 1, LEAST_EXAM))
            each = speed.seconds_per_token + speed.seconds_per_measured_token / EXAM_SHARE
            timed.append((config, each))
            window = timed[-ladder.SIZES :]
            made = ladder.lengths([cost for _, cost in window], *facts)
            if made is None and len(window) >= 3:
                break
            if made is not None and len(window) >= 3:
                chosen = window, made
        if chosen is None:
            if len(timed) < 3:
                raise MalmoiError(
                    f"The model is too small for a ladder: a law needs three sizes, and below a hidden size of "
                    f"{ladder.NARROWEST} there are none. Give a recipe with a larger model."
                )
            raise ladder.refusal([cost for _, cost in timed[:3]], *facts)
        window, lengths = chosen
        made_of = [(config, _counted(prepared, config)) for config, _ in window]
        rungs = [ladder.Rung(_fields(config), count, tokens) for config, count in made_of for tokens in lengths]
        rungs.sort(key=lambda rung: rung.parameters * rung.tokens)
        exam = min(prepared.settings.train.eval_tokens, max(lengths[0] // EXAM_SHARE, LEAST_EXAM))
        plan = {
            "recipe": prepared.settings.recipe.model_dump(mode="json"),
            "eval_tokens": exam,
            "rungs": [dataclasses.asdict(rung) for rung in rungs],
        }
        write_text(self.folder / PLAN, json_text(plan) + "\n")
        return rungs, exam

    def _train(self, prepared: Prepared, rungs: list[Rung], exam: int) -> list[_Measured] | None:
        """The missing runs, cheapest first, as far as the budget goes."""
        from malmoi.plan.scaling import FLOPS

        sizes, lengths = ({getattr(rung, name) for rung in rungs} for name in ("parameters", "tokens"))
        self.say.print(
            f"{len(rungs)} runs: {len(sizes)} sizes ({min(sizes):,} to {max(sizes):,} parameters), {len(lengths)} "
            f"lengths ({min(lengths):,} to {max(lengths):,} tokens).",
            markup=False,
        )
        done: list[_Measured] = []
        for number, rung in enumerate(rungs, 1):
            place = self.folder / RUNS / rung.name
            known = _read(place)
            if known is None:
                spent = sum(each.seconds for each in done)
                work = [FLOPS * each.point.parameters * each.point.tokens for each in done]
                expected = spent / sum(work) * FLOPS * rung.parameters * rung.tokens if done else 0.0
                if spent + expected > PATIENCE * self.seconds:
                    continue
                if not _run(prepared, rung, exam, place, self._progress(number, len(rungs), rung)):
                    return None
                known = _read(place)
            if known is not None:
                done.append(known)
                self.say.print(
                    f"run {number:>2}/{len(rungs)}  {rung.parameters:>11,} parameters  {rung.tokens:>12,} tokens  "
                    f"{known.point.loss:.4f} {known.unit}  {duration(known.seconds)}",
                    markup=False,
                )
        return done

    def _progress(self, number: int, total: int, rung: Rung) -> Any:
        if not self.say.is_terminal:
            return lambda step: None

        def show(step: Any) -> None:
            end = "\r\x1b[2K" if step.step == step.max_steps else ""
            words = f"run {number:>2}/{total}  {rung.parameters:,} parameters  step {step.step:,}/{step.max_steps:,}"
            self.say.file.write(f"\r\x1b[2K{words}{end}")
            self.say.file.flush()

        return show


def _run(prepared: Prepared, rung: Rung, exam: int, place: Path, show: Any) -> bool:
    """One run of the ladder, from its checkpoint where it has one. False where Ctrl-C ended it."""
    import shutil

    from malmoi.cli.trials import changed, resolved, run

    recipe = changed(prepared.settings.recipe, rung.model)
    settings = resolved(prepared, recipe, rung.tokens, 1, exam)
    interrupted = False
    for step in run(prepared, settings, place, resume=place.is_dir()):
        show(step)
        interrupted = "interrupted" in step.events
    if not interrupted:
        for checkpoint in place.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return not interrupted


def _top(prepared: Prepared) -> ModelConfig:
    from malmoi.cli import pipeline

    recipe = prepared.settings.recipe
    return pipeline.model_config(recipe, recipe.size, len(prepared.tokenizer), prepared.settings.train)


def _counted(prepared: Prepared, config: ModelConfig) -> int:
    from malmoi.plan.ladder import parameters

    return parameters(config.replace(vocab_size=len(prepared.tokenizer)))


def _fields(config: ModelConfig) -> dict[str, Any]:
    """What a recipe has to say for exactly this shape."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    names += ("intermediate_size", "moe_intermediate_size", "layer_types")
    return {f"model.{name}": value for name, value in config.model_dump(mode="json").items() if name in names}


# ---- finished runs --------------------------------------------------------------------------------------------------


def _read(folder: Path) -> _Measured | None:
    """A finished run: size, tokens, held-out loss at its end. None where it is unfinished or was not measured."""
    from malmoi.plan.ladder import parameters
    from malmoi.plan.scaling import Point
    from malmoi.tokens.folder import read_json
    from malmoi.train.record import CONFIG, SUMMARY, read_metrics

    if not (folder / SUMMARY).is_file() or not (folder / CONFIG).is_file():
        return None
    summary, lines = read_json(folder / SUMMARY), read_metrics(folder)
    last = lines[-1] if lines else {}
    if summary.get("stopped_early") or last.get("step") != summary["steps"] or last.get("val_loss") is None:
        return None
    config = ModelConfig(**_settings(folder)["model"])
    bits = last.get("bpb")
    point = Point(parameters(config), summary["tokens"], last["val_loss"] if bits is None else bits)
    return _Measured(point, NATS if bits is None else BITS, summary["seconds"])


def _settings(folder: Path) -> dict[str, Any]:
    import yaml

    from malmoi.tokens.folder import read_text
    from malmoi.train.record import CONFIG

    return yaml.safe_load(read_text(folder / CONFIG))


def _from_runs(places: list[Path]) -> list[_Measured]:
    """All finished runs at or below the places; they must have been measured on the same text in the same way."""
    from malmoi.cli.runs import find_runs

    found: list[_Measured] = []
    exams: dict[str, Path] = {}
    for folder in find_runs(places):
        measured = _read(folder)
        if measured is not None:
            found.append(measured)
            exams.setdefault(json.dumps([measured.unit, *_exam(folder)], sort_keys=True), folder)
    if len(exams) > 1:
        one, other = list(exams.values())[:2]
        raise MalmoiError(
            f"{one} and {other} cannot be compared: a law needs runs on the same data, vocabulary and sequence length, "
            f"measured with the same eval_tokens. Name the runs that belong together."
        )
    if not found:
        raise MalmoiError(f"There is no finished, measured run in {', '.join(map(str, places))}.")
    return found


def _exam(folder: Path) -> Iterator[Any]:
    settings = _settings(folder)
    for name in ("data", "vocab_size", "tokenizer"):
        yield settings.get(name)
    for name in ("sequence_length", "eval_tokens"):
        yield settings["train"].get(name)


def _report(
    measured: list[_Measured], folder: Path, command: str, flops: list[float], extra: dict[str, Any]
) -> dict[str, Any]:
    from malmoi.plan import scaling_report as report
    from malmoi.plan.scaling import FLOPS, fit
    from malmoi.tokens.folder import write_text

    law = fit(each.point for each in measured)
    largest = max(measured, key=lambda each: each.point.parameters * each.point.tokens)
    work = FLOPS * largest.point.parameters * largest.point.tokens
    speed = work / largest.seconds if largest.seconds > 0 else None
    unit = largest.unit
    found = report.facts(law, unit=unit, flops_per_second=speed, flops=flops, **extra)
    folder.mkdir(parents=True, exist_ok=True)
    picture = report.draw(law, unit, folder / report.PICTURE)
    write_text(folder / report.REPORT, report.markdown(found, folder.name.removeprefix("scale-"), command, picture))
    write_text(folder / report.NUMBERS, json_text(found) + "\n")
    return found


def _print(found: dict[str, Any], folder: Path) -> None:
    from malmoi.plan import scaling_report as report

    say = console()
    for name, (headings, body) in report.rows(found).items():
        if body:
            say.print(table(headings, body, title=name))
    say.print(report.where(found), markup=False)
    for remark in found["remarks"]:
        say.print(f"- {remark}", markup=False)
    say.print(f"The report is in {folder / report.REPORT}.", markup=False)
