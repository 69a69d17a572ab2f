"""`malmoi sweep`: hyperparameters, found rather than guessed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, duration, json_text, print_json, table
from malmoi.config import Config, LoraConfig, MalmoiError, ModelConfig, Recipe, TrainConfig, nearest

if TYPE_CHECKING:
    from malmoi.cli.trials import Prepared
    from malmoi.train.progress import Step
    from malmoi.train.search_space import Setting
    from malmoi.train.sweep import Length, Outcome, Sweep

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

BEST = "best.yaml"
LEAST_EXAM = 4096  # held-out tokens at least, however short a trial is
STEP_FIELDS = ("sequence_length", "per_device_train_batch_size", "gradient_accumulation_steps")
SHOWN = 8  # trials in the terminal's table; the report has all


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.yaml); see recipes/.")],
    over: Annotated[
        str,
        typer.Option(
            help="What to search: learning_rate,batch_size; with ranges: learning_rate=1e-4:1e-2,optimizer=muon|adamw."
        ),
    ],
    budget: Annotated[str | None, typer.Option(help="Time for training, such as 30min or 2h.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials, instead of or within the budget.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Length of a trial in steps of the recipe's own batch; else by the budget."),
    ] = None,
    sampler: Annotated[str, typer.Option(help="Who proposes settings: tpe, random, grid or gp.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="Who ends bad trials early: median, hyperband or none.")] = "median",
    seed: Annotated[int, typer.Option(min=0, help="Of the search. The trials train with the recipe's seed.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The sweep's folder; else runs/sweep-NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Search for good settings: many short trainings of the same length, each measured on the same held-out text.

    Leaves a report, a picture and best.yaml, a recipe to train with. Ctrl-C stops; the same command goes on, and with a
    larger --budget adds trials.

    [bold]Examples[/bold]

    \b
    malmoi sweep recipes/village.yaml --over learning_rate,batch_size,weight_decay --budget 30min
    malmoi sweep mine.yaml --over "learning_rate=x0.3:x3,optimizer=muon|adamw" --trials 20
    malmoi sweep mine.yaml --over residual_dropout=0:0.5,weight_decay=0:1 --budget 2h --pruner none
    """
    from malmoi.cli import pipeline
    from malmoi.cli.trials import seconds_of
    from malmoi.train.sweep import PRUNERS, SAMPLERS

    for given, known, option in ((sampler, SAMPLERS, "--sampler"), (pruner, PRUNERS, "--pruner")):
        if given not in known:
            raise MalmoiError(
                f"{option} {given}: there is none such.{nearest(given, known)} Known: {', '.join(known)}."
            )
    seconds = None if budget is None else seconds_of(budget)
    asked = Recipe.from_yaml(recipe)
    settings = pipeline.resolve(asked)
    space, own = _space(over, settings)
    if seconds is None and trials is None:
        raise MalmoiError("A sweep needs an end: --budget 30min, or --trials 20 (or both).")
    folder = out or Path("runs") / f"sweep-{recipe.stem}"
    words = ["malmoi sweep", str(recipe), f'--over "{over}"']
    options = {"budget": budget, "trials": trials, "steps": steps, "out": out}
    options |= {"sampler": sampler if sampler != "tpe" else None, "pruner": pruner if pruner != "median" else None}
    words += [f"--{name} {value}" for name, value in {**options, "seed": seed or None}.items() if value is not None]
    search = _Search(asked, folder, space, own, seconds, trials, steps, " ".join(words), as_json)
    found, interrupted = search.run(settings, sampler, pruner, seed)
    if as_json:
        print_json(found)
    if interrupted:
        console(stderr=as_json).print(f"Stopped. Go on with: {search.command}", markup=False, soft_wrap=True)
        raise typer.Exit(130)


def _space(over: str, settings: Any) -> tuple[tuple[Setting, ...], dict[str, Any]]:
    """The settings to search, and the recipe's own values of them; every end of every range tried on the recipe."""
    from malmoi.cli import pipeline
    from malmoi.cli.trials import changed
    from malmoi.train.search_space import parse, shown

    recipe: Recipe = settings.recipe
    values: dict[str, dict[str, Any]] = {"train": settings.train.model_dump()}
    records: dict[str, type[Config]] = {"train": TrainConfig}
    if recipe.start_from is None:
        model = pipeline.model_config(recipe, recipe.size, settings.vocab_size, settings.train)
        values["model"], records["model"] = model.model_dump(), ModelConfig
    if recipe.lora is not None:
        values["lora"], records["lora"] = recipe.lora.model_dump(), LoraConfig
    space = parse(over, values, records)
    for setting in space:
        for value in setting.extremes():
            try:
                pipeline.resolve(changed(recipe, {setting.name: value}))
            except MalmoiError as error:
                raise MalmoiError(f"--over {setting.short}: {shown(value)} cannot be taken. {error}") from None
    own = {setting.name: values[setting.name.partition(".")[0]][setting.short] for setting in space}
    return space, own


@dataclasses.dataclass
class _Search:
    """One call of the command."""

    asked: Recipe
    folder: Path
    space: tuple[Setting, ...]
    own: dict[str, Any]
    seconds: float | None
    trials: int | None
    steps: int | None
    command: str
    quiet: bool

    def run(self, settings: Any, sampler: str, pruner: str, seed: int) -> tuple[dict[str, Any], bool]:
        """Try, repeat the best, report. Returns the report and whether Ctrl-C ended it."""
        from malmoi.cli.trials import check_new, discard, prepare
        from malmoi.train.sweep import STUDY, Sweep

        is_new = not (self.folder / STUDY).is_file()
        if is_new:
            check_new(self.folder, "sweep")
        terms = {
            "recipe": settings.recipe.model_dump(mode="json"),
            "ranges": {setting.name: setting.words() for setting in self.space},
            "sampler": sampler,
            "pruner": pruner,
            "seed": seed,
            "steps": self.steps,
        }
        keeps_best = settings.train.load_best_model_at_end
        study = Sweep(self.folder, self.space, self.own, sampler, pruner, seed, keeps_best, terms)
        show = _Show(self.quiet)
        try:
            try:
                prepared = prepare(self.asked, self.folder, show.stage)
                length = self._length(study, prepared)
            except MalmoiError:
                if is_new:
                    study.close()
                    discard(self.folder)
                raise
            show.begin(study, length, self.seconds)
            interrupted = self._work(study, prepared, length, show)
            return self._report(study, length, settings, show), interrupted
        finally:
            show.end()
            study.close()

    def _length(self, study: Sweep, prepared: Prepared) -> Length:
        """How long a trial is: decided once, from the budget of the first call."""
        from malmoi.cli.trials import pace, resolved, step_tokens
        from malmoi.train.sweep import LEAST_STEPS, PARTS, Length, length

        if kept := study.recall("length"):
            return Length(**kept)
        recipe, train = prepared.settings.recipe, prepared.settings.train
        measured = pace(prepared, resolved(prepared, recipe, step_tokens(train) * LEAST_STEPS, PARTS, LEAST_EXAM))
        # Measuring reads half as many tokens as learning, at the most: see `_start`.
        per_token = measured.seconds_per_token + 0.5 * measured.seconds_per_measured_token
        own = _run_tokens(train, prepared.unique_tokens, measured.seconds_per_token)
        tokens = self.steps * step_tokens(train) if self.steps else None
        options = {"own_tokens": own, "tokens": tokens, "trials": self.trials}
        made = length(self.seconds, per_token, _largest_step(train, self.space), len(self.space), **options)
        study.remember("length", dataclasses.asdict(made))
        study.remember("run_tokens", own)
        return made

    def _work(self, study: Sweep, prepared: Prepared, length: Length, show: _Show) -> bool:
        """Trials while there are any to do, then repetitions of the best. True where Ctrl-C ended it."""
        from malmoi.train.sweep import REPEATS

        def run(values: Any, place: Path, extra_seed: int) -> Any:
            return _start(prepared, length, dict(values), place, extra_seed)

        try:
            while self._another(study, length):
                outcome = study.try_next(run, show.step)
                show.outcome(outcome, study)
                if outcome.state == "interrupted":
                    return True
            while study.best() is not None and len(study.repeats()) < REPEATS and self._room(study, length, 1):
                outcome = study.repeat_best(run, show.step)
                show.outcome(outcome, study)
                if outcome.state == "interrupted":
                    return True
        except KeyboardInterrupt:
            return True
        return False

    def _another(self, study: Sweep, length: Length) -> bool:
        """Is there a trial left to do, and time for it and for repeating the best?"""
        from malmoi.train.sweep import FEWEST, REPEATS

        done = study.concluded()
        if study.exhausted() or (self.trials is not None and done >= self.trials):
            return False
        return self._room(study, length, 1 if done < FEWEST else 1 + REPEATS)

    def _room(self, study: Sweep, length: Length, runs: int) -> bool:
        if self.seconds is None:
            return True
        whole = [outcome.seconds for outcome in study.outcomes() if outcome.state == "finished" and outcome.tokens]
        each = sum(whole) / len(whole) if whole else length.seconds
        return self.seconds - study.seconds() >= runs * each

    def _report(self, study: Sweep, length: Length, settings: Any, show: _Show) -> dict[str, Any]:
        """Write report.md, report.json, sweep.png and best.yaml; show the same in the terminal."""
        import yaml

        from malmoi.cli.trials import changed
        from malmoi.tokens.folder import write_text
        from malmoi.train import sweep_report as report

        found = report.facts(study, length, run_tokens=study.recall("run_tokens"))
        picture = report.draw(found, self.folder / report.PICTURE)
        page = report.markdown(found, self.folder.name.removeprefix("sweep-"), self.command, picture)
        write_text(self.folder / report.REPORT, page)
        write_text(self.folder / report.NUMBERS, json_text(found) + "\n")
        if (best := study.best()) is not None:
            made = changed(self.asked, best.values).model_dump(mode="json", exclude_unset=True)
            if settings.recipe.size is not None:
                made["size"] = settings.recipe.size  # it follows from nothing else once model has settings of its own
            reached = f"{report.measure(best):.4f} {report.unit(found)}"
            note = f"# The best settings of a sweep: {reached}; see {report.REPORT}.\n"
            write_text(self.folder / BEST, note + yaml.safe_dump(made, sort_keys=False, allow_unicode=True))
        show.end()
        if not self.quiet:
            _print(found, self.folder, picture)
        return found


def _largest_step(train: TrainConfig, space: tuple[Setting, ...]) -> int:
    """Tokens of one optimizer step at the largest batch that is searched."""
    searched = {setting.short: max(setting.extremes()) for setting in space if setting.short in STEP_FIELDS}
    return math.prod(searched.get(field, getattr(train, field)) for field in STEP_FIELDS)


def _start(prepared: Prepared, length: Length, values: dict[str, Any], place: Path, extra_seed: int) -> Any:
    """One trial as a training. Each evaluation reads a sixteenth of what the trial learns from, at the most."""
    from malmoi.cli.trials import changed, resolved, run
    from malmoi.train.sweep import PARTS

    exam = min(prepared.settings.train.eval_tokens, max(length.tokens // (2 * PARTS), LEAST_EXAM))
    recipe = changed(prepared.settings.recipe, values)
    return run(prepared, resolved(prepared, recipe, length.tokens, PARTS, exam, extra_seed), place)


def _run_tokens(train: TrainConfig, unique: int, seconds_per_token: float) -> int:
    """What the recipe's own run would learn from: its shortest limit, or one epoch."""
    from malmoi.cli.trials import step_tokens

    limits = []
    if train.max_steps is not None:
        limits.append(train.max_steps * step_tokens(train))
    if train.num_train_epochs is not None:
        limits.append(train.num_train_epochs * unique)
    if train.max_minutes is not None:
        limits.append(train.max_minutes * 60 / seconds_per_token)
    return int(min(limits, default=unique))


def _print(found: dict[str, Any], folder: Path, picture: bool) -> None:
    from malmoi.train import sweep_report as report

    say = console()
    if found["best"] is None:
        say.print("No trial was finished yet.")
        return
    rows = report.setting_rows(found)
    say.print(table(("setting", ">best", ">recipe", "searched", ">mattered"), rows, title="Best settings"))
    names = [setting["name"].partition(".")[2] for setting in found["settings"]]
    headings = (">trial", *(f">{name}" for name in names), f">{report.unit(found)}", "state", ">seconds")
    say.print(table(headings, report.trial_rows(found, SHOWN), title="Best trials"))
    for remark in found["remarks"]:
        say.print(f"- {remark}", markup=False)
    made = ", ".join([report.REPORT, *([report.PICTURE] if picture else []), BEST])
    say.print(f"In {folder}: {made}. Train with it: malmoi train {folder / BEST} --out runs/NAME", markup=False)


class _Show:
    """Progress: one line a finished trial, and in a terminal a bar for the one that runs."""

    def __init__(self, quiet: bool) -> None:
        self.console = console(stderr=quiet)
        self.bar: Any = None
        self.task: Any = None
        self.shown = ""

    def stage(self, stage: Any) -> None:
        if getattr(stage, "name", "") != self.shown:
            self.shown = stage.name
            self.console.print(f"{stage.name}: {stage.text}", markup=False)

    def begin(self, study: Sweep, length: Length, seconds: float | None) -> None:
        done = study.concluded()
        said = f"A trial learns from {length.tokens:,} tokens, about {duration(length.seconds)} here."
        if done:
            said = f"Going on after {done} trials and {duration(study.seconds())}. {said}"
        if seconds is not None:
            said += f" The budget is {duration(seconds)}."
        self.console.print(said, markup=False)
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn())
            self.bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
            self.task = self.bar.add_task("", total=None)
            self.bar.start()

    def step(self, number: int, step: Step) -> None:
        if self.bar is not None:
            words = f"trial {number}  step {step.step:,}/{step.max_steps:,}  loss {step.loss:.3f}"
            self.bar.update(self.task, completed=step.step, total=step.max_steps, description=words)

    def outcome(self, outcome: Outcome, study: Sweep) -> None:
        from malmoi.train.search_space import shown
        from malmoi.train.sweep import PARTS
        from malmoi.train.sweep_report import measure

        best = study.best()
        values = "  ".join(f"{name.partition('.')[2]}={shown(value)}" for name, value in outcome.values.items())
        reached = "" if measure(outcome) is None else f"{measure(outcome):.4f}"
        state = outcome.state + (f" at {len(outcome.curve)}/{PARTS}" if outcome.state == "pruned" else "")
        if outcome.extra_seed:
            state = f"repeated with seed +{outcome.extra_seed}"
        elif best is not None and best.number == outcome.number:
            state = "best so far"
        line = f"trial {outcome.number:>3}  {reached:>8}  {state:<16}  {duration(outcome.seconds):>5}  {values}"
        self.console.print(line + (f"  ({outcome.note})" if outcome.note else ""), markup=False)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
