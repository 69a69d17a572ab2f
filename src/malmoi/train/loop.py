"""The training loop: one generator for every stage, from pretraining to instruction tuning.

    for step in train(model, batches, config, folder="runs/mine", held_out=held_out):
        print(step.step, step.loss)

Each item is one finished optimizer step; the caller prints, the loop never does. A step is a pure function of
(settings, data, seed, number of the step) and of what the checkpoint holds, so a run that was interrupted anywhere and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from malmoi.config import MalmoiError, Recipe, TrainConfig
from malmoi.train import checkpoint, record
from malmoi.train.adapters import freeze
from malmoi.train.ahead import Ahead
from malmoi.train.budget import counted, reviewed, settle, time_steps
from malmoi.train.guard import Guard
from malmoi.train.interruption import Interruption
from malmoi.train.job import Alone
from malmoi.train.loss import HeldOut, first_tokens
from malmoi.train.memorization import Memorization, measure, seen
from malmoi.train.memory import in_pieces, within_memory
from malmoi.train.messages import say
from malmoi.train.progress import Progress, Step, check_same_run, fingerprint
from malmoi.train.schedule import learning_rate_factor
from malmoi.train.short_rows import shortened
from malmoi.train.step import StepFunction, StepResult
from malmoi.train.stopping import Watch
from malmoi.train.trackers import Trackers

__all__ = ["Step", "train"]

T = TypeVar("T")


def train(
    model: Any,
    batches: Any,
    config: TrainConfig,
    *,
    folder: Path | str | None = None,
    held_out: Any = None,
    resume: bool = False,
    tokenizer: Any = None,
    on_save: Callable[[Path], None] | None = None,
    recipe: Recipe | None = None,
    language: str = "en",
    step_function: StepFunction | None = None,
    world: Alone | None = None,
) -> Iterator[Step]:
    """Train `model` in place, one `Step` at a time.

    `batches.batch(i)` gives batch i, `steps_per_epoch(e)` and `epoch_of(i)` its place; an optimizer step uses
    `gradient_accumulation_steps` of them. `held_out` is a list of batches, or an object like `batches` (the first
    `eval_tokens` tokens of it are used, the same ones every time).

    With a `folder` the run is recorded there and saved every `save_steps` steps, at each better held-out loss, at the
    end and on Ctrl-C or SIGTERM; `resume=True` goes on from the newest whole checkpoint. `on_save(path)` may add files
    to a checkpoint; `tokenizer` is saved into it. At the end the model is in evaluation mode and, with
    `load_best_model_at_end`, holds its best weights.

    Raises `MalmoiError` at once for settings that cannot work or do not match the run being resumed, and later for a
    full disk or a run that diverged. `world` is where the run takes place; one process, unless it says otherwise.
    """
    world = world or Alone()
    step_function = step_function or world.step
    place = Path(folder) if folder is not None else None
    run = _Run(model, batches, config, place, held_out, tokenizer, on_save, recipe, language, step_function, world)
    run.find_start(resume)
    return run.steps()


@dataclass
class _Run:
    """One run: `train`'s arguments and what becomes of them."""

    model: Any
    batches: Any
    config: TrainConfig
    folder: Path | None
    held_out_source: Any
    tokenizer: Any
    on_save: Callable[[Path], None] | None
    recipe: Recipe | None
    language: str
    step_function: StepFunction
    world: Alone

    def __post_init__(self) -> None:
        config = self.config
        self.precision = self.world.precision(config, next(self.model.parameters()).device)
        self.ahead = Ahead(self.batches) if self.precision.device_type == "cuda" else None
        freeze(self.model, config.freeze)
        self.optimizer = self.world.optimizers(self.model, config, self.precision)
        self.held_out = first_tokens(self.held_out_source, config.eval_tokens)
        self.fingerprint = fingerprint(self.batches)
        self.progress = Progress()
        self.watch = Watch(config.early_stopping_patience, config.early_stopping_threshold)
        self.guard = Guard.of(config)
        given = (self.folder, self.model, self.optimizer, config, self.tokenizer, self.on_save)
        self.keeper = self.world.keeper(*given)
        self.notes: list[tuple[str, str]] = []  # (event, message) for the next Step
        self.gap: float | None = None  # of the last evaluation
        self.memorization: Memorization | None = None  # as last measured
        self.max_steps = 0  # not settled yet
        self.record: record.Record | None = None

    def find_start(self, resume: bool) -> None:
        """Where to begin: refuse to run over another run, or take up the newest whole checkpoint."""
        if self.folder is None:
            if resume:
                raise MalmoiError("resume needs the folder of the run to go on with.")
            return
        present = checkpoint.steps_in(self.folder)
        if present and not resume:
            raise MalmoiError(
                f"{self.folder} already holds a run (checkpoint-{present[-1]}). Go on with it by resume, or choose "
                f"another folder, or delete it first."
            )
        if not resume:
            return
        path = self.keeper.newest(lambda words: self.notes.append(("", words)))
        if path is None:
            if present:
                raise MalmoiError("No checkpoint can be used. " + " ".join(words for _, words in self.notes))
            self.notes.append(("", self._say("nothing_to_resume", path=self.folder)))
            return
        state = checkpoint.read_state(path)
        check_same_run(path, state, self.config, self._model_settings(), self.fingerprint)
        self.keeper.load(path)
        self.progress = Progress(**state["progress"])
        self.watch = Watch.from_state(state["watch"])
        self.guard = Guard.of(self.config, state.get("guard"))
        self.max_steps, self.keeper.saved_step = state["max_steps"], state["step"]
        self.notes.append(("resumed", self._say("resumed", path=path)))
        if state["threads"] != self._threads():
            self.notes.append(("", self._say("threads", before=state["threads"], now=self._threads())))

    def _settle_length(self, begin: float, interruption: Interruption) -> None:
        config = self.config

        def clock() -> tuple[float, float, float]:
            how = (self.precision, self.step_function, lambda: interruption.requested)
            per_step, per_evaluation = self._within_memory(
                lambda: time_steps(self.model, self._micro_batches, self.held_out, config, *how)
            )
            return time.perf_counter() - begin, per_step, per_evaluation

        self.max_steps, per_step = settle(config, self.batches, clock)
        if per_step is not None:
            timed = {"seconds": per_step, "minutes": config.max_minutes, "steps": self.max_steps}
            self.notes.append(("", self._say("timed", **timed)))
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
        started = {
            "parameters": self.world.num_parameters(self.model),
            "steps": self.max_steps,
            "tokens": rows * config.sequence_length,
            "dtype": str(self.precision.compute).removeprefix("torch."),
        }
        self.notes.append(("", self._say("started", **started)))

    def _open_record(self) -> None:
        if self.folder is None:
            return
        settings = self.config.model_dump(mode="json")
        trackers = Trackers(self.config.track if self.world.first else (), self.folder, settings)
        self.record = self.world.record(self.folder, self.progress.step)
        if self.record is not None:
            self.record.trackers = trackers
        sizes = self.keeper.make_room(self.watch.best_step, self.progress.step)
        if not self.progress.step:
            self.notes.append(("", self._say("disk", **sizes)))
        self._describe()

    def _describe(self) -> None:
        """The resolved settings; written again at the end, when the number of steps is certain."""
        if self.record is None:
            return
        resolved = self.config.replace(max_steps=self.max_steps).model_dump(mode="json")
        settings = self.recipe.model_dump(mode="json") if self.recipe is not None else {}
        settings |= {"model": self._model_settings(), "train": resolved}
        self.record.describe(settings, {"data": self.fingerprint, "dtype": str(self.precision.compute)})

    def steps(self) -> Iterator[Step]:
        """The generator behind `train`."""
        begin, threads = time.perf_counter(), torch.get_num_threads()
        torch.set_num_threads(self._threads())
        with self.world.interruption() as interruption:
            try:
                if not self.max_steps:
                    self._settle_length(begin, interruption)
                self._open_record()
                begin -= self.progress.seconds
                yield from self._steps(begin, interruption)
            finally:
                torch.set_num_threads(threads)
                if self.ahead:
                    self.ahead.close()
                if self.record is not None:
                    self.record.close()

    def _steps(self, begin: float, interruption: Interruption) -> Iterator[Step]:
        done, progress = None, self.progress
        first, arrived = progress.step, time.perf_counter()
        most = counted(self.config, self.batches) if self.config.max_minutes is not None else None
        while not progress.stopped and progress.step < self.max_steps:
            if interruption.requested and done is not None:  # heard while the caller had the word
                yield self._stop_for_now(done)
                return
            start = time.perf_counter()
            factor = learning_rate_factor(progress.step, self.config, self.max_steps)
            result = self._learn(factor)
            elapsed = time.perf_counter() - start
            held_out = self._evaluate_if_due()
            progress.seconds = time.perf_counter() - begin
            pace = (time.perf_counter() - arrived) / (progress.step - first)
            self.max_steps = reviewed(self.config, most, self.max_steps, progress.step, progress.seconds, pace)
            done = self._report(result, factor, elapsed, held_out)
            done = self._log_if_due(done)
            if self.guard.hopeless():
                raise self.guard.give_up(progress.step, self.config, self.keeper.way_back())
            self._save_if_due(interruption)
            last = progress.stopped or progress.step >= self.max_steps
            if last:
                self._finish()
                done = replace(done, memorized=self.memorization.training if self.memorization else None)
            done = self._with_notes(done)
            if interruption.requested and not last:
                yield self._stop_for_now(done)
                return
            yield done
        if done is None:  # resumed a run that had already ended
            self._finish()
            yield self._with_notes(
                Step(progress.step, self.max_steps, math.nan, 0.0, math.nan, progress.tokens, 0.0, progress.seconds, 0)
            )

    def _learn(self, factor: float) -> StepResult:
        progress = self.progress
        self.model.train()
        result = self._within_memory(
            lambda: self.step_function(
                self.model,
                self.optimizer,
                self._micro_batches(progress.step),
                learning_rate_factor=factor,
                max_grad_norm=self.config.max_grad_norm,
                precision=self.precision,
                seed=self.config.seed,
                step=progress.step,
                loss_limit=self.guard.limit(),
                label_smoothing=self.config.label_smoothing,
            )
        )
        progress.step += 1
        reason = self.guard.observe(progress.step, result, self.language)
        if result.applied:
            progress.tokens += result.tokens
            progress.add(result.loss)
        else:
            progress.skipped += 1
            words = self._say("skipped", step=progress.step, reason=reason, count=progress.skipped)
            self.notes.append(("skipped", words))
        return result

    def _micro_batches(self, step: int) -> list[Any]:
        count = self.config.gradient_accumulation_steps
        numbers = range(step * count, (step + 1) * count)
        batches = self.ahead.take(numbers) if self.ahead else list(map(self.batches.batch, numbers))
        return in_pieces(shortened(batches, step, self.config, self.max_steps), self.progress.pieces)

    def _within_memory(self, learn: Callable[[], T]) -> T:
        """Do it; where memory does not suffice, do the same in smaller pieces and say so."""

        def halved(**values: object) -> None:
            self.notes.append(("halved", self._say("halved", **values)))

        return within_memory(learn, self.config, self.progress, halved)

    def _evaluate_if_due(self) -> HeldOut | None:
        progress = self.progress
        due = progress.step % self.config.eval_steps == 0 or progress.step == self.max_steps
        if not due or not self.held_out:
            return None
        average = self.optimizer.average
        with average.in_place() if average is not None else nullcontext():
            held_out = self.world.evaluate(self.model, self.held_out, self.precision)
            finding = self.watch.observe(progress.step, progress.take(progress.evaluated), held_out.loss)
            if finding.improved:
                self.keeper.remember_best()
        self.notes.append(("evaluated", ""))
        self.gap = finding.numbers.get("gap")
        progress.stopped = finding.stop
        if words := finding.text(self.language):
            self.notes.append(("stopped early" if finding.stop else "", words))
        if finding.kind:
            self._measure_memorization()
        return held_out

    def _measure_memorization(self) -> None:
        """Only where the losses part and at the end: it takes as long as some steps."""
        samples, apart = self.config.memorization_samples, torch.distributed.is_available()
        if not samples or not hasattr(self.model, "generate") or (apart and torch.distributed.is_initialized()):
            return
        learned_from = seen(self.batches, self.progress.step * self.config.gradient_accumulation_steps)
        self.memorization = measure(self.model, learned_from, self.held_out, samples, self.config.seed)
        if self.memorization is not None:
            self.notes.append(("memorization", self.memorization.text(self.language)))

    def _report(self, result: StepResult, factor: float, elapsed: float, held_out: HeldOut | None) -> Step:
        progress = self.progress
        return Step(
            step=progress.step,
            max_steps=self.max_steps,
            loss=result.loss,
            learning_rate=self.config.learning_rate * factor,
            grad_norm=result.grad_norm,
            tokens=progress.tokens,
            tokens_per_second=result.tokens / max(elapsed, 1e-9),
            seconds=progress.seconds,
            epoch=self.batches.epoch_of((progress.step - 1) * self.config.gradient_accumulation_steps),
            held_out_loss=held_out.loss if held_out else None,
            bits_per_byte=held_out.bits_per_byte if held_out else None,
            gap=self.gap if held_out else None,
            memorized=self.memorization.training if self.memorization and held_out else None,
            skipped=progress.skipped,
        )

    def _log_if_due(self, done: Step) -> Step:
        """A line each `logging_steps`, at the first and last step and at evaluations: the same after a resume."""
        due = done.step % self.config.logging_steps == 0 or done.step in (1, self.max_steps)
        due = due or done.held_out_loss is not None or bool(self.guard.reason)
        if self.record is None or not due:
            return done
        entry = record.entry_of(done, self.progress.take(self.progress.logged), self.guard.reason)
        return replace(done, joules=self.record.append(entry))

    def _save_if_due(self, interruption: Interruption) -> None:
        step, config = self.progress.step, self.config
        better = self.watch.best_step == step and (config.load_best_model_at_end or config.early_stopping_patience)
        last = self.progress.stopped or step == self.max_steps
        if step % config.save_steps == 0 or better or last or interruption.requested:
            self._save()

    def _save(self) -> None:
        if self.record is None:
            return
        self.record.flush()
        state = {
            "max_steps": self.max_steps,
            "threads": self._threads(),
            "data": self.fingerprint,
            "progress": asdict(self.progress),
            "watch": self.watch.state(),
            "guard": self.guard.state(),
            "train": self.config.model_dump(mode="json"),
            "model": self._model_settings(),
            "torch": torch.__version__,
        }
        path = self.keeper.save(self.progress.step, self.watch.best_step, state)
        self.notes.append(("saved", self._say("saved", path=path)))

    def _stop_for_now(self, done: Step) -> Step:
        """Interrupted: make sure that the step is saved, and tell how to go on."""
        if self.folder is None:
            self.notes.append(("interrupted", self._say("interrupted_unsaved", step=done.step)))
            return self._with_notes(done)
        path = checkpoint.path_of(self.folder, done.step)
        if self.keeper.saved_step != done.step:
            self._save()
        self.keeper.finish()
        self.notes.append(("interrupted", self._say("interrupted", step=done.step, path=path)))
        return self._with_notes(done)

    def _finish(self) -> None:
        """Load the best weights, draw the curves."""
        self._describe()
        best = self.watch.best_step
        loaded = False
        if self.config.load_best_model_at_end and best is not None and best != self.progress.step:
            loaded = self.keeper.load_best(best)
            words = {"step": best, "loss": self.watch.best}
            self.notes.append(("", self._say("best_loaded" if loaded else "best_lost", **words)))
        if self.optimizer.average is not None and not loaded:
            self.optimizer.average.put_into_model()
        self.model.eval()
        self._measure_memorization()
        if self.record is not None:
            self.record.conclude(self._summary())
        self.keeper.finish()
        if self.folder is not None and self.world.first and record.plot(self.folder) is None:
            self.notes.append(("", self._say("no_plot")))
        self.notes.append(("finished", self._say("finished", step=self.progress.step)))

    def _summary(self) -> dict[str, Any]:
        """The run in one record; the same numbers for a person are in the messages."""
        progress, watch = self.progress, self.watch
        return {
            "parameters": self.world.num_parameters(self.model),
            "steps": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "training_loss": watch.history[-1][1] if watch.history else None,
            "held_out_loss": watch.history[-1][2] if watch.history else None,
            "best_held_out_loss": watch.best,
            "best_step": watch.best_step,
            "gap": self.gap,
            "memorization": asdict(self.memorization) if self.memorization else None,
            "skipped": progress.skipped,
            "stopped_early": progress.stopped,
        }

    def _with_notes(self, done: Step) -> Step:
        """The step with everything that happened since the last one was handed out."""
        events = (*done.events, *(event for event, _ in self.notes if event))
        message = "\n".join([done.message, *(words for _, words in self.notes)]).strip()
        self.notes.clear()
        return replace(done, events=events, message=message)

    def _threads(self) -> int:
        return self.config.num_threads or torch.get_num_threads()

    def _model_settings(self) -> dict[str, Any]:
        settings = getattr(self.model, "config", None)
        return settings.model_dump(mode="json") if settings is not None else {}

    def _say(self, name: str, **values: object) -> str:
        return say(name, self.language, **values)
