"""One step of a training job of any size, as one of its processes would make it, on this computer and without memory.

The program is the one that a real job runs (`parallel.py`, `cluster.py`, the optimizers, the loss), on tensors without
numbers (`pretence.py`) and among processes that do not exist (torch's fake process group: every exchange succeeds at
once). What comes out is what a plan wants to know before the job is paid for: bytes by class, operations, messages.

Devices are CPUs here, so FSDP, attention and norms take the paths that they take on a CPU; what is kept for the way
back is nearly the same on a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train.cluster import Team
from malmoi.train.layout import Layout, layout
from malmoi.train.memory import Piece
from malmoi.train.parallel import build_mesh, local, parallelize
from malmoi.train.precision import Precision
from malmoi.train.pretence import Pretence
from malmoi.train.sharded_optimizer import build_sharded

ENOUGH = 2  # micro-batches of a step that are run; all of them are alike


def rehearse(
    model: ModelConfig, parallel: ParallelConfig, train: TrainConfig, world: int, rank: int, dtype: torch.dtype
) -> dict[str, Any]:
    """One step of process `rank` of `world`: `memory` in bytes by class, `flops`, bytes of `communication`.

    Where a step has more than a few micro-batches, a few are run and the others counted as the same again
    (`micro_batches`: run, of). Raises `MalmoiError` for a layout that cannot work.
    """
    if dist.is_initialized():
        raise MalmoiError("This process belongs to a job already; a dry run needs one by itself.")
    grid = layout(parallel, world, model, train)
    pieces = train.gradient_accumulation_steps
    run = min(pieces, max(ENOUGH, grid.stages))
    with _job(world, rank):
        return _step(model, parallel, train.replace(gradient_accumulation_steps=run), grid, dtype, pieces)


def rehearse_apart(
    model: ModelConfig, parallel: ParallelConfig, train: TrainConfig, world: int, rank: int, dtype: torch.dtype
) -> dict[str, Any]:
    """`rehearse` in a process of its own: torch remembers a job's groups, and a second job must not meet them."""
    layout(parallel, world, model, train)
    records = [record.model_dump(mode="json") for record in (model, parallel, train)]
    asked = json.dumps([*records, world, rank, str(dtype).removeprefix("torch.")])
    command = [sys.executable, "-m", "malmoi.train.rehearsal"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise MalmoiError(f"The dry run of process {rank} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer() -> None:
    model, parallel, train, world, rank, dtype = json.loads(sys.stdin.read())
    records = (ModelConfig(**model), ParallelConfig(**parallel), TrainConfig(**train))
    print(json.dumps(rehearse(*records, world, rank, getattr(torch, dtype))))


@contextmanager
def _job(world: int, rank: int) -> Iterator[None]:
    """A job of `world` processes of which only this one exists; what another would tell it, it says itself."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    tell = dist.broadcast_object_list
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        dist.broadcast_object_list = lambda *_given, **_named: None
        yield
    finally:
        dist.broadcast_object_list = tell
        dist.destroy_process_group()


def _step(
    model_config: ModelConfig,
    parallel: ParallelConfig,
    train: TrainConfig,
    grid: Layout,
    dtype: torch.dtype,
    pieces: int,
) -> dict[str, Any]:
    run, pretence = train.gradient_accumulation_steps, Pretence(model_config.vocab_size)
    mesh = build_mesh(grid, "cpu")
    with torch.device("meta"):  # no weights are drawn there
        model = GPT4LMHeadModel(model_config)
    with pretence.running():
        model.to_empty(device="cpu")
        model.tie_weights()
        parts = parallelize(model, grid, parallel, mesh, dtype)
        team = Team(parts, run, train.per_device_train_batch_size, train.sequence_length, dtype)
        optimizer = build_sharded(parts, train, dtype)
        batches = [_rows(train, grid)] * run
        for stage in parts.stages.values():  # FSDP pads what does not divide when it is first used: before, not within
            if isinstance(stage, FSDPModule):
                stage._get_fsdp_state()._lazy_init()
        books = pretence.keep()
        books.name((local(parameter) for parameter in model.parameters()), "weights")
        counted: dict[str, Any] = {}
        add_up, collect = parts.sync, optimizer.collect

        def sync() -> None:  # all micro-batches have gone both ways
            counted.update(flops=books.flops, sent=books.sent.copy())
            add_up()

        def collected() -> None:
            collect()
            books.name(optimizer.gradients(), "gradients")

        parts.sync, optimizer.collect = sync, collected  # pyright: ignore[reportAttributeAccessIssue]
        team.step(
            model.train(),
            optimizer,
            batches,
            learning_rate_factor=1.0,
            max_grad_norm=train.max_grad_norm,
            precision=Precision(torch.float32, dtype, "cpu"),
            seed=train.seed,
            step=0,
        )
        books.name(optimizer.state_tensors().values(), "optimizer")
    again = (pieces - run) / run
    kinds = books.sent | counted["sent"]
    return {
        "memory": books.largest(),
        "flops": books.flops + counted["flops"] * again,
        "communication": {kind: books.sent[kind] + counted["sent"][kind] * again for kind in kinds},
        "micro_batches": {"run": run, "of": pieces},
    }


def _rows(train: TrainConfig, grid: Layout) -> Piece:
    """This process's rows of a micro-batch: each one document, every position a target."""
    shape = (train.per_device_train_batch_size // grid.rows, train.sequence_length)
    ids = torch.zeros(shape, dtype=torch.long)
    positions = torch.arange(shape[1]).repeat(shape[0], 1)
    return Piece(ids, ids, positions, ids, ids.numel())


if __name__ == "__main__":
    _answer()
