"""The keeper of a run's weights: what is saved when, what stays, and which weights are the best.

Where a run has a folder, the best weights lie in its best checkpoint; without one they are kept in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from malmoi.config import TrainConfig
from malmoi.tokens.folder import write_text
from malmoi.train import checkpoint
from malmoi.train.optimizer import Optimizers
from malmoi.train.record import METRICS


@dataclass
class Keeper:
    """Saves and finds the weights of one run. `folder` None: nothing is written."""

    folder: Path | None
    model: Any
    optimizer: Optimizers
    config: TrainConfig
    tokenizer: Any = None
    on_save: Callable[[Path], None] | None = None
    saved_step: int = -1
    best_weights: dict[str, Tensor] | None = None  # only where there is no folder to keep them in

    def newest(self, on_skip: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint of the run."""
        return checkpoint.latest(self.folder, on_skip) if self.folder is not None else None

    def load(self, path: Path) -> None:
        """Take up the weights and the optimizers' state of a checkpoint, and the log as it was then."""
        checkpoint.load(path, self.model, self.optimizer)
        self.restore_log(path)

    def restore_log(self, path: Path) -> None:
        """Whatever became of the run's log since, the checkpoint holds it whole."""
        if self.folder is not None and (path / METRICS).is_file():
            write_text(self.folder / METRICS, (path / METRICS).read_text(encoding="utf-8"))

    def finish(self) -> None:
        """Wait until everything that was saved is on the disk; it always is, where saving is not left to a thread."""

    def make_room(self, best: int | None, step: int) -> dict[str, float]:
        """Clear away what is not needed and what comes after `step`; the sizes, in MB, of what will be written.

        Raises `MalmoiError` now rather than in an hour if the disk cannot hold the checkpoints of this run.
        """
        if self.folder is None:
            return {}
        checkpoint.set_aside_after(self.folder, step)
        checkpoint.prune(self.folder, self.config.save_total_limit, best)
        count = self.config.save_total_limit + 1  # and the best one
        each = checkpoint.bytes_needed(self.model, self.optimizer)
        missing = max(count - len(checkpoint.steps_in(self.folder)), 1)
        free = checkpoint.require_space(self.folder, missing * each, "the checkpoints of this run")
        return {"each": each / 1e6, "count": count, "needed": count * each / 1e6, "free": free / 1e6}

    def save(self, step: int, best: int | None, state: dict[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        path = checkpoint.save(self.folder, step, self.model, self.optimizer, state, self._add_files)
        checkpoint.prune(self.folder, self.config.save_total_limit, best)
        self.saved_step = step
        return path

    def _add_files(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        if self.folder is not None and (self.folder / METRICS).is_file():
            shutil.copyfile(self.folder / METRICS, folder / METRICS)
        if self.on_save is not None:
            self.on_save(folder)

    def remember_best(self) -> None:
        """The weights as they are now (where averages are kept: the averages, put in place for the evaluation)."""
        if self.folder is None and self.config.load_best_model_at_end:
            self.best_weights = {name: t.clone() for name, t in checkpoint.model_tensors(self.model).items()}

    def load_best(self, best: int) -> bool:
        """Put the weights of the evaluation at step `best` into the model; False if they are gone or damaged."""
        if self.folder is None:
            if self.best_weights is not None:
                checkpoint.put_weights(self.model, self.best_weights)
            return self.best_weights is not None
        path = checkpoint.path_of(self.folder, best)
        if checkpoint.fault_of(path) is not None:
            return False
        if self.optimizer.average is None:
            checkpoint.load(path, self.model)
        else:
            checkpoint.load(path, self.model, self.optimizer)
            self.optimizer.average.put_into_model()
        return True

    def way_back(self) -> str:
        """A sentence that names the last checkpoint, if there is one."""
        saved = checkpoint.steps_in(self.folder) if self.folder is not None else []
        return f" The last checkpoint is {checkpoint.path_of(self.folder, saved[-1])}." if self.folder and saved else ""
