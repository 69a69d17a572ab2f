"""Long work shows itself: a training run in place in a terminal, plain lines elsewhere.

Both take the same events, `Stage` and `Step`, from `pipeline.run`.
"""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from malmoi.cli.console import console, count, duration
from malmoi.cli.pipeline import Stage

if TYPE_CHECKING:
    from malmoi.train.loop import Step

SMOOTHING = 0.98  # of the loss and the rate that are shown: single steps jump


class Screen:
    """Shows a run. Use as a context manager and as the `show` of `pipeline.run`."""

    def __init__(self, lines_every: float = 5.0) -> None:
        self.console = console()
        self.lines_every = lines_every  # seconds, where there is no terminal
        self.loss = self.rate = math.nan
        self.bits_per_byte: float | None = None
        self.gap: float | None = None  # between held-out and training loss
        self.history: list[float] = []  # bits per byte at each evaluation
        self._bar: Any = None
        self._task: Any = None
        self._last_line = -math.inf
        self._stage = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._stage and self.console.is_terminal:
            self.console.print()

    def __call__(self, event: Stage | Step) -> None:
        if isinstance(event, Stage):
            self._show_stage(event)
        else:
            self._take(event)
            self._show_step(event)

    def _take(self, step: Step) -> None:
        """Smooth what jumps; an average over few steps leans on few."""
        keep = min(SMOOTHING, 1 - 1 / (step.step + 1))
        for name, value in (("loss", step.loss), ("rate", step.tokens_per_second)):
            before = getattr(self, name)
            if math.isfinite(value):
                setattr(self, name, value if math.isnan(before) else keep * before + (1 - keep) * value)
        if step.bits_per_byte is not None:
            self.bits_per_byte = step.bits_per_byte
            self.history.append(step.bits_per_byte)
        if step.gap is not None:
            self.gap = step.gap

    def _show_stage(self, stage: Stage) -> None:
        text = f"{stage.name}: {stage.text}"
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if not self.console.is_terminal:
            now = time.monotonic()
            if stage.name != self._stage or now - self._last_line >= self.lines_every:
                self._last_line = now
                self.console.print(text, markup=False)
        else:
            again = "\r\x1b[2K" if stage.name == self._stage else "\n" if self._stage else ""
            self.console.file.write(f"{again}{text}")
            self.console.file.flush()
        self._stage = stage.name

    def _show_step(self, step: Step) -> None:
        if self.console.is_terminal:
            self._show_bar(step)
        else:
            self._show_line(step)
        for line in filter(None, step.message.splitlines()):
            if "saved" not in step.events or "checkpoint-" not in line or "interrupted" in step.events:
                self.console.print(line, markup=False)  # each single checkpoint is no news

    def _show_bar(self, step: Step) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn

            if self._stage:
                self.console.file.write("\n")
                self._stage = ""
            self._bar = Progress(
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                console=self.console,
                expand=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=step.max_steps)
            self._bar.start()
        self._bar.update(self._task, completed=step.step, total=step.max_steps, description=self.words(step))

    def _show_line(self, step: Step) -> None:
        now = time.monotonic()
        due = now - self._last_line >= self.lines_every or step.step in (1, step.max_steps)
        if due or step.bits_per_byte is not None:
            self._last_line = now
            self.console.print(f"step {step.step:,}/{step.max_steps:,}  {self.words(step)}", markup=False)

    def words(self, step: Step) -> str:
        """loss, bits per byte, tokens/s, time left."""
        parts = [] if math.isnan(self.loss) else [f"loss {self.loss:.3f}"]
        if self.bits_per_byte is not None:
            parts.append(f"held-out {self.bits_per_byte:.3f} bits/byte")
        if not math.isnan(self.rate):
            parts.append(f"{count(self.rate)} tokens/s")
        if self.gap is not None:
            parts.append(f"gap {self.gap:+.3f}")
        if step.skipped:
            parts.append(f"{step.skipped} skipped")
        left = step.max_steps - step.step
        if left and step.step:
            parts.append(f"{duration(step.seconds / step.step * left)} left")
        else:
            parts.append(f"{duration(step.seconds)} in all")
        return "  ".join(parts)
