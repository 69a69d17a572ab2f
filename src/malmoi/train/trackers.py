"""The numbers of a run, sent to programs that teams watch their runs in: TensorBoard, trackio, Weights & Biases.

`metrics.jsonl` in the run's folder stays the source; a tracker receives the same lines. All of them write to this
machine only: no account is asked for and nothing leaves it (`wandb sync` may send a run later, if its owner wants to).
The libraries come with the extra `track` and are imported when a run asks for them.

After a resume a tracker sees the lines since the last checkpoint a second time; the later value of a step is the one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError

EXTRA = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}  # name -> what is imported
PROJECT = "malmoi"


class TensorBoard:
    """Event files under `<run>/tensorboard`; `tensorboard --logdir runs` shows them."""

    def __init__(self, library: Any, folder: Path, settings: dict[str, Any]) -> None:
        self.writer = library.SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Logged:
    """trackio and Weights & Biases, which speak one language: init, log, finish."""

    def __init__(self, library: Any, folder: Path, settings: dict[str, Any]) -> None:
        offline = {"mode": "offline", "dir": str(folder)} if library.__name__ == "wandb" else {}
        self.library = library
        library.init(project=PROJECT, name=folder.resolve().name, config=settings, **offline)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.library.log(numbers, step=step)

    def close(self) -> None:
        self.library.finish()


class Trackers:
    """Every tracker that a run asks for. Raises `MalmoiError` at once for one that is not installed."""

    def __init__(self, names: Sequence[str], folder: Path, settings: dict[str, Any]) -> None:
        libraries = [(name, _library(name)) for name in names]
        self.open = [
            (TensorBoard if name == "tensorboard" else Logged)(library, folder, settings) for name, library in libraries
        ]

    def log(self, entry: dict[str, Any]) -> None:
        """One line of `metrics.jsonl`: its numbers under their own names."""
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name != "step" and isinstance(value, int | float) and abs(value) < float("inf")
        }
        for tracker in self.open:
            tracker.log(numbers, entry["step"])

    def close(self) -> None:
        for tracker in self.open:
            tracker.close()
        self.open = []


def _library(name: str) -> Any:
    try:
        return importlib.import_module(EXTRA[name])
    except ImportError as error:
        raise MalmoiError(
            f"track: {name} is not installed ({error}). Install it: pip install 'malmoi[track]', or leave it out: the "
            f"run's own metrics.jsonl and loss.png are always there."
        ) from None
