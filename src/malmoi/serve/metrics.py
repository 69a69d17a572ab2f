"""What a server tells of itself, in Prometheus's text format: counters, gauges, two histograms. No client, no prompt.

The format is a line a number (https://prometheus.io/docs/instrumenting/exposition_formats/), so that the dozen numbers
here need no library.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How often a number of seconds was at most so much."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.sum, self.count = 0.0, 0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            at = next((place for place, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
            self.counts[at] += 1
            self.sum += value
            self.count += 1

    def lines(self, name: str) -> list[str]:
        with self._lock:
            total, lines = 0, []
            for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
                total += count
                lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
            return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {self.count}"]


class Metrics:
    """The numbers of one server since it began."""

    def __init__(self) -> None:
        self.prompt_tokens = self.tokens = self.steps = self.finished = self.refused = self.cancelled = self.failed = 0
        self.busy_seconds = self.joules = 0.0
        self.first_token, self.whole_answer = Histogram(), Histogram()
        self._answers: dict[int, int] = {}
        self._lock = threading.Lock()

    def status(self, code: int) -> None:
        """An HTTP answer was begun."""
        with self._lock:
            self._answers[code] = self._answers.get(code, 0) + 1

    def usual_seconds(self) -> float:
        """How long an answer has taken on the average; a second before there was any."""
        seen = self.whole_answer
        return seen.sum / seen.count if seen.count else 1.0

    def text(self, load: Mapping[str, int]) -> str:
        """The page that Prometheus reads."""
        single = [
            ("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            ("generated_tokens_total", "counter", "Tokens written.", self.tokens),
            ("engine_steps_total", "counter", "Steps of the engine.", self.steps),
            ("engine_busy_seconds_total", "counter", "Time spent in steps.", round(self.busy_seconds, 6)),
            ("energy_joules_total", "counter", "Energy of the steps, measured or estimated.", round(self.joules, 6)),
            ("requests_finished_total", "counter", "Requests answered to their end.", self.finished),
            ("requests_refused_total", "counter", "Requests that found the queue full.", self.refused),
            ("requests_cancelled_total", "counter", "Requests whose client left before the end.", self.cancelled),
            ("requests_failed_total", "counter", "Requests that the engine could not go on with.", self.failed),
            ("requests_running", "gauge", "Requests in the engine.", load["running"]),
            ("requests_waiting", "gauge", "Requests in the queue.", load["waiting"]),
            ("cache_blocks", "gauge", "Blocks of the cache.", load["blocks"]),
            ("cache_blocks_free", "gauge", "Blocks that no text needs.", load["blocks_free"]),
        ]
        lines: list[str] = []
        for name, kind, about, value in single:
            lines += [f"# HELP malmoi_{name} {about}", f"# TYPE malmoi_{name} {kind}", f"malmoi_{name} {value}"]
        lines += ["# HELP malmoi_http_responses_total HTTP answers.", "# TYPE malmoi_http_responses_total counter"]
        with self._lock:
            lines += [f'malmoi_http_responses_total{{code="{code}"}} {n}' for code, n in sorted(self._answers.items())]
        for name, about, histogram in (
            ("first_token_seconds", "From the question to the first token.", self.first_token),
            ("answer_seconds", "From the question to the last token.", self.whole_answer),
        ):
            lines += [f"# HELP malmoi_{name} {about}", f"# TYPE malmoi_{name} histogram"]
            lines += histogram.lines(f"malmoi_{name}")
        return "\n".join(lines) + "\n"
