"""Hyperparameters, found rather than guessed: many short trainings, each choosing its settings by what the others saw.

A *sampler* proposes settings. Random search already beats a grid, because usually few settings matter and a grid tries
few values of each (Bergstra & Bengio 2012); the default, the tree-structured Parzen estimator, also looks at what did
well so far (Bergstra et al. 2011). A *pruner* ends trials that lag behind at their evaluations, which leaves time for
more. Both come from Optuna (extra `sweep`), which keeps the study in one SQLite file.

All trials learn from the same number of tokens and are measured on the same held-out text, so that their losses can be
compared. The sampler is seeded anew for each trial, by the number of trials that were concluded before it: a sweep that
was interrupted and resumed proposes the same settings as one that was not. A trial that was cut off counts as failed,
stays in the study, and its settings are tried again.
"""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.train.guard import DivergedError
from malmoi.train.progress import Step
from malmoi.train.search_space import Setting

STUDY = "study.db"
SAMPLERS, PRUNERS = ("tpe", "random", "grid", "gp"), ("median", "hyperband", "none")
PARTS = 8  # evaluations of a trial, evenly spaced; the pruner may end it at each
BEFORE_PRUNING = 4  # whole trials: before them nobody knows what lagging behind means
GRID = 3  # values of a range in a grid
REPEATS = 2  # of the best setting, with other seeds
TRIALS_A_SETTING, FEWEST, MOST = 10, 5, 60  # trials that a budget is cut into
LEAST_STEPS = 40  # of a trial: below that it is mostly warm-up
MARGIN = 0.97  # of a budget is planned
HOPELESS = 10  # trials without a single one that could be finished
COPIES = 10  # proposals in a row that were all tried before: nothing is left

State = Literal["finished", "pruned", "diverged", "refused", "interrupted"]
Run = Callable[[Mapping[str, Any], Path, int], Iterator[Step]]  # (settings, folder, seeds further) -> a training


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial and what became of it. Losses in nats per token, on held-out text."""

    number: int
    values: dict[str, Any]
    state: State
    loss: float | None = None  # finished: what the run would keep; else as last measured
    bits_per_byte: float | None = None
    curve: tuple[float, ...] = ()  # held-out loss after each of `PARTS` parts
    seconds: float = 0.0
    tokens: int = 0
    note: str = ""  # why it was refused; of which trial it is a copy
    extra_seed: int = 0  # of a repetition: how many seeds further


@dataclass(frozen=True, slots=True)
class Length:
    """How much text each trial learns from, how many trials that makes in the budget, and how they were reckoned."""

    tokens: int
    trials: int | None  # None: as many as fit
    seconds: float  # of one whole trial, as timed before the first


def length(
    seconds: float | None,
    seconds_per_token: float,
    step_tokens: int,
    settings: int,
    *,
    own_tokens: int | None = None,
    tokens: int | None = None,
    trials: int | None = None,
) -> Length:
    """The length of a trial.

    A budget of `seconds` is meant for ten whole trials a setting (or `trials`), with two repetitions of the best one; a
    trial learns from what fits into its share, never more than the run itself would (`own_tokens`) and never less than
    40 steps of the largest batch (`step_tokens`). `tokens` sets the length outright. Without a budget, a trial is as
    long as the run. Raises `MalmoiError` where fewer than five trials, or than `trials`, fit.
    """
    least = tokens or min(LEAST_STEPS * step_tokens, own_tokens or math.inf)
    if seconds is None:
        if trials is None or not (tokens or own_tokens):
            raise MalmoiError("A sweep needs an end: --budget 30min, or --trials 20 (or both).")
        made = tokens or own_tokens or 0
        return Length(made, trials, made * seconds_per_token)
    usable = MARGIN * seconds / seconds_per_token  # tokens that the budget can learn from
    wanted = trials or min(max(TRIALS_A_SETTING * settings, 12), MOST)
    made = tokens or int(min(max(usable / (wanted + REPEATS), least), own_tokens or math.inf))
    fewest = trials or FEWEST
    if usable < fewest * made:
        needed = fewest * made * seconds_per_token / MARGIN / 60
        raise MalmoiError(
            f"A budget of {seconds / 60:.3g} minutes is too short: {fewest} trials of {made:,} tokens take about "
            f"{needed:.2g} minutes here. Give --budget {math.ceil(needed)}min, a smaller model or smaller batches."
        )
    return Length(made, trials, made * seconds_per_token)


@dataclass
class Sweep:
    """A study in a folder: `study.db`, and a folder `trial-000` for each trial.

    `terms` is everything that makes it this sweep and no other (recipe, ranges, sampler, pruner, seed): a study is only
    resumed under the same terms. `own` are the recipe's values of the searched settings, which are tried first.
    """

    folder: Path
    space: Sequence[Setting]
    own: Mapping[str, Any]
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    keeps_best: bool = True  # the run keeps its best checkpoint: a trial counts by its best evaluation
    terms: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grid = _grid(self.space) if self.sampler == "grid" else []
        self.study = self._open()
        self._check_terms()
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":  # its process was killed
                left = Outcome(trial.number, dict(trial.params), "interrupted", note="killed")
                self._conclude(trial.number, left)

    def close(self) -> None:
        """Let go of the file."""
        self.study._storage.remove_session()

    # ---- trials -----------------------------------------------------------------------------------------------------

    def try_next(self, run: Run, watch: Callable[[int, Step], None] = lambda *_: None) -> Outcome:
        """One more trial: ask the sampler, train, tell the study. `watch` sees every step.

        A trial that is interrupted (Ctrl-C) ends as an outcome "interrupted", or by the exception itself where that
        did not fall into training. Raises `MalmoiError` where no trial at all can be finished.
        """
        self._give_up_if_hopeless()
        trial = self._ask()
        values, place = dict(trial.params), self.folder / f"trial-{trial.number:03d}"
        copy = next((o for o in self.outcomes() if o.values == values and o.state not in ("interrupted",)), None)
        if copy is not None:
            made = Outcome(trial.number, values, copy.state, copy.loss, copy.bits_per_byte, copy.curve)
            made = Outcome(**{**asdict(made), "note": f"the same as trial {copy.number}"})
            for part, loss in enumerate(copy.curve, 1):
                trial.report(loss, part)
            return self._conclude(trial.number, made)

        def lagging(part: int, loss: float) -> bool:
            trial.report(loss, part)
            return trial.should_prune()

        begin = time.perf_counter()
        try:
            made = self._train(run, values, place, 0, lambda step: watch(trial.number, step), lagging)
        except BaseException:
            seconds = time.perf_counter() - begin
            self._conclude(trial.number, Outcome(trial.number, values, "interrupted", seconds=seconds))
            shutil.rmtree(place, ignore_errors=True)
            raise
        return self._conclude(trial.number, Outcome(**{**asdict(made), "number": trial.number}))

    def repeat_best(self, run: Run, watch: Callable[[int, Step], None] = lambda *_: None) -> Outcome:
        """Train the best setting once more, with the next seed: how much of a difference is chance?"""
        best, before = self.best(), self.repeats()
        assert best is not None
        extra = len(before) + 1
        place = self.folder / f"repeat-{best.number:03d}-{extra}"
        made = self._train(run, best.values, place, extra, lambda s: watch(best.number, s), lambda *_: False)
        made = Outcome(**{**asdict(made), "number": best.number, "extra_seed": extra})
        if made.state != "interrupted":
            kept = [asdict(repeat) for repeat in (*self._all_repeats(), made)]
            self.study.set_user_attr("repeats", kept)
        return made

    def _train(
        self,
        run: Run,
        values: Mapping[str, Any],
        place: Path,
        extra_seed: int,
        watch: Callable[[Step], None],
        lagging: Callable[[int, float], bool],
    ) -> Outcome:
        """One training from beginning to end, or to where it is not worth going on."""
        begin, state, note = time.perf_counter(), "finished", ""
        curve: list[tuple[float, float | None]] = []  # (loss, bits per byte)
        tokens = 0
        shutil.rmtree(place, ignore_errors=True)
        try:
            steps = run(values, place, extra_seed)
        except MalmoiError as error:  # settings that do not go together
            return Outcome(0, dict(values), "refused", note=str(error), seconds=time.perf_counter() - begin)
        try:
            for step in steps:
                watch(step)
                tokens = step.tokens
                if "interrupted" in step.events:
                    state = "interrupted"
                if step.held_out_loss is None or not math.isfinite(step.held_out_loss):
                    continue
                curve.append((step.held_out_loss, step.bits_per_byte))
                if state == "finished" and step.step < step.max_steps and lagging(len(curve), step.held_out_loss):
                    state = "pruned"
                    break
        except DivergedError as error:
            state, note = "diverged", str(error).partition(". Try")[0]
        finally:
            if hasattr(steps, "close"):
                steps.close()  # pyright: ignore[reportAttributeAccessIssue]
            for checkpoint in place.glob("checkpoint-*"):
                shutil.rmtree(checkpoint, ignore_errors=True)  # a sweep keeps numbers; `best.yaml` makes the model
        if state == "finished" and not curve:
            state, note = "diverged", "its held-out loss was never a finite number"
        if state == "interrupted":
            shutil.rmtree(place, ignore_errors=True)
        kept = min(curve) if curve and state == "finished" and self.keeps_best else curve[-1] if curve else (None, None)
        losses, seconds = tuple(loss for loss, _ in curve), time.perf_counter() - begin
        return Outcome(0, dict(values), state, *kept, losses, seconds, tokens, note)  # type: ignore[arg-type]

    # ---- what is known ----------------------------------------------------------------------------------------------

    def outcomes(self) -> list[Outcome]:
        """All trials that came to an end, in their order."""
        trials = self.study.get_trials(deepcopy=False)
        return [_outcome(trial.user_attrs["outcome"]) for trial in trials if "outcome" in trial.user_attrs]

    def best(self) -> Outcome | None:
        """The finished trial with the least loss."""
        finished = [outcome for outcome in self.outcomes() if outcome.state == "finished"]
        return min(finished, key=lambda outcome: outcome.loss or 0.0, default=None)

    def repeats(self) -> list[Outcome]:
        """The repetitions of what is best now."""
        best = self.best()
        return [repeat for repeat in self._all_repeats() if best is not None and repeat.number == best.number]

    def _all_repeats(self) -> list[Outcome]:
        return [_outcome(kept) for kept in self.study.user_attrs.get("repeats", [])]

    def seconds(self) -> float:
        """Spent so far, on trials that were cut off as well."""
        return sum(outcome.seconds for outcome in (*self.outcomes(), *self._all_repeats()))

    def concluded(self) -> int:
        """Trials that told something: the interrupted ones did not."""
        return sum(outcome.state != "interrupted" for outcome in self.outcomes())

    def exhausted(self) -> bool:
        """Is there nothing left to try? A grid has an end, and so has a handful of choices."""
        if self.grid:
            return self.concluded() >= len(self.grid)
        latest = self.outcomes()[-COPIES:]
        return len(latest) == COPIES and all(outcome.note.startswith("the same as") for outcome in latest)

    def importances(self) -> dict[str, float]:
        """How much each setting mattered for getting among the best, as shares of 1 (PED-ANOVA: Watanabe et al. 2023).

        Empty with fewer than six finished trials, or with one setting.
        """
        finished = [outcome for outcome in self.outcomes() if outcome.state == "finished"]
        if len(finished) < 6 or len(self.space) < 2 or len({outcome.loss for outcome in finished}) < 2:
            return {}
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        found = get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(share) for name, share in found.items() if math.isfinite(share)}

    def remember(self, name: str, value: Any) -> None:
        """Keep something (that JSON can hold) with the study."""
        self.study.set_user_attr(name, value)

    def recall(self, name: str) -> Any:
        """What was kept under a name; None where nothing was."""
        return self.study.user_attrs.get(name)

    # ---- Optuna -----------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        optuna = _optuna()
        from sqlalchemy.exc import SQLAlchemyError

        path = self.folder / STUDY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve().as_posix()}")
            return optuna.create_study(
                storage=storage, study_name="sweep", load_if_exists=True, pruner=_pruner(optuna, self.pruner)
            )
        except (SQLAlchemyError, RuntimeError) as error:
            raise MalmoiError(
                f"{path}: cannot be opened as a study ({str(error).partition(chr(10))[0]}). Delete it to begin anew."
            ) from None

    def _check_terms(self) -> None:
        before = self.recall("terms")
        if before is None:
            self.remember("terms", dict(self.terms))
            return
        for name in {**before, **self.terms}:
            if before.get(name) != self.terms.get(name):
                raise MalmoiError(
                    f"{self.folder}: holds another sweep: its {name} was {_brief(before.get(name))}, and is "
                    f"{_brief(self.terms.get(name))} now. Put it back to go on, or choose another --out."
                )

    def _ask(self) -> Any:
        from optuna.trial import TrialState

        concluded = self.concluded()
        self.study.sampler = self._sampler(concluded)
        fixed = self.grid[concluded] if self.grid else dict(self.own) if concluded == 0 else {}
        allowed = all(setting.holds(fixed.get(setting.name)) for setting in self.space)
        if fixed and allowed and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(fixed)
        return self.study.ask({setting.name: _distribution(setting) for setting in self.space})

    def _sampler(self, concluded: int) -> Any:
        samplers = _optuna().samplers
        seed = randomness.key(self.seed, "sweep", concluded) % 2**32
        if self.sampler == "tpe":
            # Early: a short sweep has no ten trials to spend on chance.
            return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=len(self.space) + 3)
        if self.sampler == "gp":
            try:
                import scipy  # noqa: F401
            except ImportError:
                raise MalmoiError("--sampler gp needs scipy: pip install scipy") from None
            return samplers.GPSampler(seed=seed, n_startup_trials=len(self.space) + 3, deterministic_objective=False)
        return samplers.RandomSampler(seed=seed)

    def _conclude(self, number: int, outcome: Outcome) -> Outcome:
        from optuna.trial import TrialState

        trial_id = self.study.get_trials(deepcopy=False)[number]._trial_id
        self.study._storage.set_trial_user_attr(trial_id, "outcome", asdict(outcome))
        if outcome.state == "finished":
            self.study.tell(number, outcome.loss)
        else:
            failed = outcome.state == "interrupted"
            self.study.tell(number, state=TrialState.FAIL if failed else TrialState.PRUNED)
        return outcome

    def _give_up_if_hopeless(self) -> None:
        outcomes = [outcome for outcome in self.outcomes() if outcome.state != "interrupted"]
        if len(outcomes) >= HOPELESS and all(outcome.state in ("diverged", "refused") for outcome in outcomes):
            raise MalmoiError(
                f"Not one of {len(outcomes)} trials could be finished. The last one: {outcomes[-1].note} Narrow the "
                f"ranges around what the recipe can do."
            )


def _outcome(kept: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**kept, "curve": tuple(kept["curve"])})


def _grid(space: Sequence[Setting]) -> list[dict[str, Any]]:
    """All combinations; of a range its ends and its middle."""
    return [
        dict(zip((setting.name for setting in space), values, strict=True))
        for values in itertools.product(*(setting.grid(GRID) for setting in space))
    ]


def _distribution(setting: Setting) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if setting.choices:
        return CategoricalDistribution(setting.choices)
    log = setting.scale == "log"
    if setting.whole:
        return IntDistribution(int(setting.low), int(setting.high), log=log)
    return FloatDistribution(setting.low, setting.high, log=log)


def _pruner(optuna: Any, name: str) -> Any:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=PARTS, reduction_factor=2)
    return optuna.pruners.NopPruner()


def _optuna() -> Any:
    import warnings

    try:
        import optuna
    except ImportError:
        raise MalmoiError("A sweep needs Optuna: pip install 'malmoi[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... (changed further on)"
