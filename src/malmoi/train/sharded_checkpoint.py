"""Checkpoints that many processes write together and any number of them can read.

    checkpoint-500/
      shards/shard-00001-...safetensors   what each process held of every tensor, with its place in the whole
      state.json, ...                     as in a checkpoint of one process
      manifest.json                       written last, by the first process, when all the others are done

`torch.distributed.checkpoint` decides who writes which piece (each piece once, however many processes hold it) and, on
reading, which pieces of which files make up what this process now holds; the files are safetensors, without pickle. So
a run that was saved by four processes goes on with two, or one, or with another grid, and back. A process that stops in
the middle leaves a hidden folder without a manifest, which nobody ever reads.

With `async_checkpoints` the tensors are copied to main memory, training goes on, and the files and at last the manifest
are written by a thread; the next save waits for it.
"""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from malmoi.config import MalmoiError
from malmoi.train import checkpoint
from malmoi.train.keeper import Keeper
from malmoi.train.parallel import Parts, local
from malmoi.train.sharded_optimizer import ShardedOptimizers

FORM = 2  # of the manifest


def _dcp() -> Any:
    """torch's library; imported late, because it looks for other packages and takes its time."""
    import torch.distributed.checkpoint

    return torch.distributed.checkpoint


def tensors_of(parts: Parts, optimizer: ShardedOptimizers | None) -> dict[str, Tensor]:
    """Weights by their names and optimizer state by `<parameter>:<state>`, each as a part of the whole tensor."""
    found = {
        parts.saved_name(name): parts.as_sharded(name, parameter.detach(), local(parameter.detach()))
        for name, parameter in parts.model.named_parameters()
    }
    return found | (optimizer.sharded_state() if optimizer is not None else {})


def read(path: Path, parts: Parts, optimizer: ShardedOptimizers | None) -> None:
    """Fill this process's part of the weights (and of the optimizers' state) from a checkpoint of any job; collective.

    Raises `MalmoiError` for tensors that are missing or of another shape.
    """
    reader = _reader(path)
    if optimizer is not None:
        optimizer.make_state(_shapes(reader))
    try:
        _dcp().load(tensors_of(parts, optimizer), storage_reader=reader)
    except (Exception, _dcp().CheckpointException) as error:
        raise MalmoiError(f"{path}: does not fit this model: {_cause(error)}.") from error


def write_weights(path: Path, parts: Parts) -> None:
    """Write the weights alone, for `read_whole`; collective."""
    writer = _dcp().HuggingFaceStorageWriter(str(path / checkpoint.SHARDS), save_distributed=True)
    (path / checkpoint.SHARDS).mkdir(parents=True, exist_ok=True)
    try:
        _dcp().save(tensors_of(parts, None), storage_writer=writer)
    except (Exception, _dcp().CheckpointException) as error:
        raise MalmoiError(f"{path.parent}: the model could not be written: {_cause(error)}.") from error


def read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and the optimizers' state of a sharded checkpoint as whole tensors, in a process by itself."""
    reader = _reader(path)
    whole = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in _shapes(reader).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group is meant
        _dcp().load(whole, storage_reader=reader, no_dist=True)
    weights = {name: tensor for name, tensor in whole.items() if ":" not in name}
    return weights, {name: tensor for name, tensor in whole.items() if ":" in name}


def _reader(path: Path) -> Any:
    """Of a checkpoint of one process, whose tensors lie whole in two files, just as well."""
    return _dcp().HuggingFaceStorageReader(
        str(path / checkpoint.SHARDS if (path / checkpoint.SHARDS).is_dir() else path)
    )


def _shapes(reader: Any) -> dict[str, tuple[torch.Size, torch.dtype]]:
    entries = reader.read_metadata().state_dict_metadata.items()
    return {name: (entry.size, entry.properties.dtype) for name, entry in entries}


def _cause(error: BaseException) -> BaseException:
    """What went wrong where it went wrong first: torch wraps it, with the stack traces of all processes."""
    failures = getattr(error, "failures", None)
    return next(iter(failures.values()))[0] if failures else error


@dataclass
class ShardedKeeper(Keeper):
    """`Keeper` for a job: all processes call every method, the first one writes what is not a tensor.

    What may fail on the first process alone fails on all, with the same words.
    """

    parts: Any = None
    asynchronous: bool = False

    def __post_init__(self) -> None:
        self.first = dist.get_rank() == 0
        self.writing: tuple[_Written, Path] | None = None
        self.group: Any = dist.new_group(backend="gloo")  # of its own: a thread must not speak between training's words

    def newest(self, on_skip: Callable[[str], None]) -> Path | None:
        self.finish()
        skipped: list[str] = []
        path = self._first(lambda: checkpoint.latest(self.folder or "", skipped.append))
        for words in self._first(lambda: skipped):
            on_skip(words)
        return path

    def load(self, path: Path) -> None:
        self.finish()
        read(path, self.parts, self._sharded())
        self._first(lambda: self.restore_log(path))

    def make_room(self, best: int | None, step: int) -> dict[str, float]:
        return self._first(lambda: super(ShardedKeeper, self).make_room(best, step))

    def save(self, step: int, best: int | None, state: dict[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        self.finish()
        folder, target = self.folder, checkpoint.path_of(self.folder, step)
        temporary = folder / f"{checkpoint.HIDDEN[0]}{step}"
        needed = checkpoint.bytes_needed(self.model, self.optimizer)

        def prepare() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.require_space(folder, needed, target.name)
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / checkpoint.SHARDS).mkdir(parents=True)

        def seal() -> None:
            checkpoint.seal(temporary, target, {**state, "step": step}, self._add_files, FORM)
            checkpoint.prune(folder, self.config.save_total_limit, best)

        self._first(prepare)
        writer = _dcp().HuggingFaceStorageWriter(str(temporary / checkpoint.SHARDS), save_distributed=True)
        tensors = tensors_of(self.parts, self._sharded())
        try:
            if self.asynchronous:
                future: Any = _dcp().async_save(tensors, storage_writer=writer, process_group=self.group)
                self.writing = (_Written(future, seal if self.first else None), target)
            else:
                _dcp().save(tensors, storage_writer=writer, process_group=self.group)
                self._first(seal)
        except MalmoiError:
            raise
        except (Exception, _dcp().CheckpointException) as error:  # any process's disk, told to all
            raise MalmoiError(checkpoint.why_not_saved(_cause(error), folder, step)) from error
        finally:
            if self.first and self.writing is None:
                shutil.rmtree(temporary, ignore_errors=True)
        self.saved_step = step
        return target

    def finish(self) -> None:
        """Wait until a checkpoint that is being written is whole."""
        if self.writing is None:
            return
        written, target = self.writing
        self.writing = None
        found = written.wait()

        def tell() -> None:
            if found is not None:
                raise MalmoiError(checkpoint.why_not_saved(found, target.parent, int(target.name.split("-")[1])))

        self._first(tell)

    def remember_best(self) -> None:
        if self.folder is None and self.config.load_best_model_at_end:
            self.best_weights = {name: local(t).clone() for name, t in tensors_of(self.parts, None).items()}

    def load_best(self, best: int) -> bool:
        self.finish()
        if self.folder is None:
            if self.best_weights is not None:
                for name, tensor in tensors_of(self.parts, None).items():
                    local(tensor).copy_(self.best_weights[name])
            return self.best_weights is not None
        path = checkpoint.path_of(self.folder, best)
        if self._first(lambda: checkpoint.fault_of(path)) is not None:
            return False
        average = self.optimizer.average
        read(path, self.parts, self._sharded() if average is not None else None)
        if average is not None:
            average.put_into_model()
        return True

    def _sharded(self) -> ShardedOptimizers:
        assert isinstance(self.optimizer, ShardedOptimizers)
        return self.optimizer

    def _first(self, do: Callable[[], Any]) -> Any:
        """What the first process finds by doing it, told to all; an error there is an error everywhere."""
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = do()
            except (OSError, MalmoiError) as error:
                told[1] = str(error)
        dist.broadcast_object_list(told, src=0, group=self.group)
        if told[1] is not None:
            raise MalmoiError(told[1])
        return told[0]


class _Written:
    """A checkpoint that is being written: `wait` for its files and, on the first process, for its manifest."""

    def __init__(self, future: Any, seal: Callable[[], None] | None) -> None:
        self.future, self.seal = future, seal
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="checkpoint")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.future.result()
            if self.seal is not None:
                self.seal()
        except (Exception, _dcp().CheckpointException) as error:  # told to everyone by the thread that waits
            self.error = _cause(error)

    def wait(self) -> BaseException | None:
        self.thread.join()
        return self.error
