"""Where a run takes place: in one process, or in many that were started together (`torchrun`).

The training loop asks its world to build the optimizers, to make a step, to measure, to keep and to write down; alone,
that is what the files beside this one do; in a job, what they do together. The loop itself is the same.

    world = of(recipe)                             joins the job, if there is one
    world.take(model, recipe.parallel, config)     cuts the model down to this process's part
    train(model, batches, config, world=world)
    whole = world.whole(model, folder)             the finished model, in the first process
    world.leave()
"""

from __future__ import annotations

import math
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, Recipe, TrainConfig
from malmoi.energy import Meter
from malmoi.train import checkpoint, precision
from malmoi.train.interruption import Interruption
from malmoi.train.keeper import Keeper
from malmoi.train.loss import HeldOut, evaluate
from malmoi.train.optimizer import Optimizers, build
from malmoi.train.precision import Precision
from malmoi.train.record import Record
from malmoi.train.step import StepResult, optimizer_step

PATIENCE = timedelta(hours=24)  # for the first process to read all texts


def device() -> torch.device:
    """Where this process computes: its own GPU, or the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


class Alone:
    """One process: everything is done here and now."""

    first = True  # this process speaks, and writes what is written once
    rows = (0, 1)  # which part of each batch's rows it reads, of how many

    def wait(self) -> None:
        """Until all processes are here."""

    def check(self, parallel: ParallelConfig, model: ModelConfig, config: TrainConfig) -> None:
        """Raise `MalmoiError` for a model and settings that this machine cannot compute or these processes share."""
        precision.resolve(config, device())

    def take(self, model: Any, parallel: ParallelConfig, config: TrainConfig) -> None:
        """Take this process's part of a model, onto its device; batches follow the model's parameters there."""
        model.to(device())

    def num_parameters(self, model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    def precision(self, config: TrainConfig, device: torch.device) -> Precision:
        return precision.resolve(config, device)

    def optimizers(self, model: Any, config: TrainConfig, precise: Precision) -> Optimizers:
        return build(model, config, precise.muon)

    def step(self, *given: Any, **named: Any) -> StepResult:
        return optimizer_step(*given, **named)

    def evaluate(self, model: Any, held_out: list[Any], precise: Precision) -> HeldOut:
        return evaluate(precise.working(model), held_out, precise.autocast)

    def interruption(self) -> Interruption:
        return Interruption()

    def keeper(self, *given: Any) -> Keeper:
        return Keeper(*given)

    def record(self, folder: Path, keep_through: int) -> Any:
        return Record(folder, keep_through, Meter.here())

    def whole(self, model: Any, folder: Path) -> Any:
        """The trained model as an ordinary one, in main memory; None in all processes but the first."""
        return model.to("cpu")

    def leave(self) -> None:
        """The job is done."""


class _Silent:
    """A record that nobody reads: the first process keeps the real one."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: None


class Job(Alone):
    """One process of several that were started together and work as one."""

    def __init__(self) -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self.device = device()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.set_device(self.device)
        store, rank, size = next(rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
            # torchrun keeps its store when it restarts a job, and with it the addresses of processes that are gone; on
            # one machine the count of restarts tells old from new (on several, see docs/cluster.md)
            store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0
        self.patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.team: Any = None

    def wait(self) -> None:
        import torch.distributed as dist

        dist.barrier(group=self.patient)

    def check(self, parallel: ParallelConfig, model: ModelConfig, config: TrainConfig) -> None:
        from malmoi.train.layout import layout

        try:
            super().check(parallel, model, config)
            self.grid = layout(parallel, self.size, model, config)
        except MalmoiError:
            if self.first:
                raise
            raise SystemExit(1) from None  # all found the same; one of them says it
        self.rows = (self.grid.rows_of(self.rank), self.grid.rows)

    def take(self, model: Any, parallel: ParallelConfig, config: TrainConfig) -> None:
        from malmoi.train.cluster import Team
        from malmoi.train.parallel import build_mesh, parallelize

        self.check(parallel, model.config, config)
        grid = self.grid
        self.parallel, self.parameters = parallel, super().num_parameters(model)
        dtype = precision.resolve(config, self.device).compute
        parts = parallelize(model.to(self.device), grid, parallel, build_mesh(grid, self.device.type), dtype)
        pieces, batch = config.gradient_accumulation_steps, config.per_device_train_batch_size
        self.team = Team(parts, pieces, batch, config.sequence_length, dtype)

    def num_parameters(self, model: Any) -> int:
        return self.parameters

    def precision(self, config: TrainConfig, device: torch.device) -> Precision:
        # FSDP rounds the weights that it gathers, so nothing else needs to: no working copy, no autocast.
        found = precision.resolve(config, device)
        return Precision(torch.float32, found.muon, device.type)

    def optimizers(self, model: Any, config: TrainConfig, precise: Precision) -> Optimizers:
        from malmoi.train.sharded_optimizer import build_sharded

        return build_sharded(self.team.parts, config, precise.muon)

    def step(self, *given: Any, **named: Any) -> StepResult:
        return self.team.step(*given, **named)

    def evaluate(self, model: Any, held_out: list[Any], precise: Precision) -> HeldOut:
        return self.team.evaluate(held_out)

    def interruption(self) -> Interruption:
        return self.team.interruption

    def keeper(self, *given: Any) -> Keeper:
        from malmoi.train.sharded_checkpoint import ShardedKeeper

        return ShardedKeeper(*given, parts=self.team.parts, asynchronous=self.parallel.async_checkpoints)

    def record(self, folder: Path, keep_through: int) -> Any:
        return Record(folder, keep_through, Meter.here()) if self.first else _Silent()

    def whole(self, model: Any, folder: Path) -> Any:
        """Through files in `folder`: no process ever holds more than its part, but the first, at the very end."""
        from malmoi.model.gpt import GPT4LMHeadModel
        from malmoi.train import sharded_checkpoint

        temporary = folder / f"{checkpoint.HIDDEN[0]}model"
        sharded_checkpoint.write_weights(temporary, self.team.parts)
        if not self.first:
            return None
        weights, _ = sharded_checkpoint.read_whole(temporary)
        whole = GPT4LMHeadModel(model.config)
        checkpoint.put_weights(whole, weights, temporary)
        whole.generation_config = model.generation_config
        shutil.rmtree(temporary, ignore_errors=True)
        return whole.eval()

    def leave(self) -> None:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()


def started_together() -> bool:
    """Whether this process is one of a job's (torchrun says so in the environment)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def restarted() -> bool:
    """Whether torchrun has started the job anew after one of its processes died."""
    return started_together() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def of(recipe: Recipe) -> Alone:
    """The world that this process is in. Raises `MalmoiError` where settings for a job meet a process by itself."""
    parallel = recipe.parallel
    if started_together():
        if recipe.lora is not None:
            raise MalmoiError("lora is for one process: an adapter is small. Start it without torchrun.")
        return Job()
    if parallel != ParallelConfig():
        sizes = (parallel.data_parallel_shard or 1, parallel.data_parallel_replicate)
        count = math.prod((*sizes, parallel.tensor_parallel, parallel.pipeline_parallel))
        raise MalmoiError(
            f"The recipe's parallel section is for a job of several processes. Start it with: torchrun "
            f"--nproc-per-node {count} -m malmoi train ... (or leave the section out)."
        )
    return Alone()
