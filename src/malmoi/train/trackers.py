"""The numbers of a run, sent to programs that teams watch their runs in: TensorBoard, trackio, Weights & Biases.

`metrics.jsonl` in the run's folder stays the source; a tracker receives the same lines. All of them write to this
machine only: no account is asked for and nothing leaves it (`wandb sync` may send a run later, if its owner wants to).
The libraries come with the extra `track` and are imported when a run asks for them.

After a resume a tracker sees the lines since the last checkpoint a second time; the later value of a step is the one.
A tracker that fails on the way is left behind with a warning: watching must never end a run.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from malmoi.config import MalmoiError

EXTRA = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}  # name -> what is imported
PROJECT = "malmoi"
# What would make trackio send numbers to another machine; and what keeps wandb here, and silent.
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL")
QUIET = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class Tracker(Protocol):
    """What hears of a run: numbers by name with the step they belong to, and the end."""

    def log(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files under `<run>/tensorboard`; `tensorboard --logdir runs` shows them."""

    def __init__(self, library: Any, folder: Path, settings: dict[str, Any]) -> None:
        self.writer = library.SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Trackio:
    """trackio's database on this machine (`TRACKIO_DIR`); `trackio show --project malmoi` shows it.

    A resumed run goes on under its name.
    """

    def __init__(self, library: Any, folder: Path, settings: dict[str, Any]) -> None:
        resumed = (folder / "metrics.jsonl").is_file()
        self.library = library
        self.run = library.init(
            project=PROJECT,
            name=folder.resolve().name,
            config=settings,
            resume="allow" if resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it says good-bye
            try:
                self.library.finish()
            except RuntimeError:  # called from another thread than `init` was
                self.run.finish()


class WeightsAndBiases:
    """An offline run under `<run>/wandb`, one a session; its owner may `wandb sync` it."""

    def __init__(self, library: Any, folder: Path, settings: dict[str, Any]) -> None:
        name = folder.resolve().name
        quiet = library.Settings(silent=True, console="off", disable_git=True, save_code=False)
        given = {"project": PROJECT, "name": name, "group": name, "config": settings, "dir": str(folder)}
        self.run = library.init(mode="offline", settings=quiet, **given)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


KINDS = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WeightsAndBiases}


class Trackers:
    """Every tracker that a run asks for. Raises `MalmoiError` at once for one that is not installed."""

    def __init__(self, names: Sequence[str], folder: Path, settings: dict[str, Any]) -> None:
        self.open: list[tuple[str, Tracker]] = []
        if not names:
            return
        with _staying_here():
            libraries = [(name, _library(name)) for name in names]
            folder.mkdir(parents=True, exist_ok=True)
            for name, library in libraries:
                try:
                    self.open.append((name, KINDS[name](library, folder, settings)))
                except Exception as error:
                    self.close()
                    raise MalmoiError(f"track: {name} cannot begin ({error}). Leave it out, or repair it.") from error

    def log(self, entry: dict[str, Any]) -> None:
        """One line of `metrics.jsonl`: its numbers under their own names."""
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name != "step" and isinstance(value, int | float) and abs(value) < float("inf")
        }
        for name, tracker in list(self.open):
            try:
                tracker.log(numbers, entry["step"])
            except Exception as error:
                self.open.remove((name, tracker))
                warnings.warn(f"track: {name} failed and hears no more of this run ({error}).", stacklevel=2)

    def close(self) -> None:
        for name, tracker in self.open:
            try:
                tracker.close()
            except Exception as error:
                warnings.warn(f"track: {name} could not be closed ({error}).", stacklevel=2)
        self.open = []


@contextlib.contextmanager
def _staying_here() -> Iterator[None]:
    """The environment without what leads elsewhere, and silence while the libraries introduce themselves."""
    before = {name: os.environ.get(name) for name in (*ELSEWHERE, *QUIET)}
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    os.environ.update(QUIET)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _library(name: str) -> Any:
    try:
        return importlib.import_module(EXTRA[name])
    except ImportError as error:
        raise MalmoiError(
            f"track: {name} is not installed ({error}). Install it: pip install 'malmoi[track]', or leave it out: the "
            f"run's own metrics.jsonl and loss.png are always there."
        ) from None
