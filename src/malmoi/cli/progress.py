"""Long work shows itself: a training run as a small table in place in a terminal, plain lines elsewhere.

Both take the same events, `Stage` and `Step`, from `pipeline.run`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from malmoi.cli.console import console, count, duration, energy
from malmoi.cli.pipeline import Stage

if TYPE_CHECKING:
    from malmoi.train.loop import Step

SMOOTHING = 0.98  # of the loss and the rate that are shown: single steps jump
BLOCKS = "▁▂▃▄▅▆▇█"
NARROW = 50  # columns: below, there is no room for a bar
LONGEST = 60  # characters of a curve
REMEMBERED = 1024  # losses; then neighbours are merged, so that a long run's curve stays whole


class Screen:
    """Shows a run. Use as a context manager and as the `show` of `pipeline.run`."""

    def __init__(self, lines_every: float = 5.0) -> None:
        self.console = console()
        self.lines_every = lines_every  # seconds, where there is no terminal
        self.loss = self.rate = math.nan
        self.bits_per_byte: float | None = None
        self.gap: float | None = None  # between held-out and training loss
        self.joules: float | None = None  # as last logged
        self.losses: list[float] = []  # of single steps, later of some together
        self.history: list[float] = []  # bits per byte at each evaluation
        self._live: Any = None
        self._step: Step | None = None
        self._each = 1  # steps that a new entry of `losses` stands for
        self._sum = self._summed = 0.0
        self._last_line = -math.inf
        self._stage = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
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
        if step.joules is not None:
            self.joules = step.joules
        if math.isfinite(step.loss):
            self._remember(step.loss)

    def _remember(self, loss: float) -> None:
        self._sum, self._summed = self._sum + loss, self._summed + 1
        if self._summed < self._each:
            return
        self.losses.append(self._sum / self._summed)
        self._sum = self._summed = 0.0
        if len(self.losses) == REMEMBERED:
            self.losses = [(a + b) / 2 for a, b in zip(self.losses[::2], self.losses[1::2], strict=True)]
            self._each *= 2

    def _show_stage(self, stage: Stage) -> None:
        text = f"{stage.name}: {stage.text}"
        if self._live is not None:
            self._live.stop()
            self._live = None
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
            self._show_live(step)
        else:
            self._show_line(step)
        for line in filter(None, step.message.splitlines()):
            if "saved" not in step.events or "checkpoint-" not in line or "interrupted" in step.events:
                self.console.print(line, markup=False)  # each single checkpoint is no news

    def _show_live(self, step: Step) -> None:
        self._step = step
        if self._live is None:
            from rich.live import Live

            if self._stage:
                self.console.file.write("\n")
                self._stage = ""
            self._live = Live(get_renderable=self.view, console=self.console, refresh_per_second=4)
            self._live.start()

    def view(self) -> Any:
        """The run as a few lines that stay in place: how far, the losses with their course, speed and energy."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step, width = self._step, self.console.width
        assert step is not None
        head = Table.grid(padding=(0, 1), expand=True)
        cells: list[Any] = [Text(f"step {step.step:,}/{step.max_steps:,}", no_wrap=True)]
        head.add_column(no_wrap=True)
        if width >= NARROW:
            head.add_column(ratio=1)
            cells.append(ProgressBar(total=step.max_steps, completed=step.step))
        head.add_column(no_wrap=True, justify="right")
        head.add_row(*cells, Text(self._time(step)))
        body = Table.grid(padding=(0, 2))
        for _ in range(3):
            body.add_column(no_wrap=True)
        facts = self._facts(step)
        room = width - 4 - sum(max(len(fact[column]) for fact in facts) for column in (0, 1))
        room = min(room, LONGEST) if str(self.console.encoding).lower().startswith("utf") else 0
        for name, value, course in facts:
            body.add_row(Text(name, "dim"), value, Text(sparkline(course, room), "cyan"))
        whole = Table.grid(expand=True)
        whole.add_row(head)
        whole.add_row(body)
        return whole

    def _facts(self, step: Step) -> list[tuple[str, str, list[float]]]:
        """What is known by now: a name, a value, and how it came about where that is worth a curve."""
        facts: list[tuple[str, str, list[float]]] = []
        if not math.isnan(self.loss):
            facts.append(("loss", f"{self.loss:.3f}", self.losses))
        if self.bits_per_byte is not None:
            facts.append(("held-out", f"{self.bits_per_byte:.3f} bits/byte", self.history))
        if self.gap is not None:
            facts.append(("gap", f"{self.gap:+.3f}", []))
        if not math.isnan(self.rate):
            facts.append(("speed", f"{count(self.rate)} tokens/s", []))
        if self.joules is not None:
            facts.append(("energy", energy(self.joules), []))
        if step.skipped:
            facts.append(("skipped", f"{step.skipped}", []))
        return facts or [("", "", [])]

    def _time(self, step: Step) -> str:
        left = step.max_steps - step.step
        if left and step.step:
            return f"{duration(step.seconds / step.step * left)} left"
        return f"{duration(step.seconds)} in all"

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
        if self.joules is not None:
            parts.append(energy(self.joules))
        return "  ".join((*parts, self._time(step)))


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of some numbers in at most `width` characters: the mean of each stretch, from lowest to highest."""
    if len(values) < 2 or width < 4:
        return ""
    count = min(width, len(values))
    edges = [number * len(values) // count for number in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)
