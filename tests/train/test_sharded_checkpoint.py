"""Checkpoints of a job: whole or absent, read by any number of processes, one included."""

import json
from pathlib import Path

import pytest
import torch
from crew import a_job_of_one, together
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, ParallelConfig, TrainConfig
from malmoi.train import checkpoint
from malmoi.train.keeper import Keeper
from malmoi.train.layout import layout
from malmoi.train.optimizer import build
from malmoi.train.parallel import build_mesh, local, parallelize
from malmoi.train.sharded_checkpoint import ShardedKeeper, read_whole, tensors_of
from malmoi.train.sharded_optimizer import build_sharded
from malmoi.train.step import optimizer_step

CONFIG = TrainConfig(
    sequence_length=16, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=9, ema_decay=0.9
)
MODEL = {"num_attention_heads": 4, "num_hidden_layers": 4, "num_experts": 4}


def shared(folder, seed=0, model=None, parallel=None, asynchronous=False):
    """What a process of a job needs to save and load, with an optimizer state that has something in it."""
    import torch.distributed as dist

    parallel, model = ParallelConfig(**(parallel or {})), tiny_model(seed, **(model or {}))
    grid = layout(parallel, dist.get_world_size(), model.config, CONFIG)
    parts = parallelize(model, grid, parallel, build_mesh(grid, "cpu"))
    optimizer = build_sharded(parts, CONFIG, torch.float32)
    for owner in optimizer.owners.values():
        owner.grad = torch.ones_like(owner)
    optimizer.collect()
    optimizer.step()
    keeper = ShardedKeeper(Path(folder), model, optimizer, CONFIG, None, None, parts=parts, asynchronous=asynchronous)
    return parts, optimizer, keeper


def numbers(parts, optimizer):
    return {name: local(tensor).clone() for name, tensor in tensors_of(parts, optimizer).items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_saved_and_loaded_bitwise(tmp_path, asynchronous):
    with a_job_of_one(tmp_path):
        parts, optimizer, keeper = shared(tmp_path / "run", asynchronous=asynchronous)
        before = numbers(parts, optimizer)
        path = keeper.save(3, None, {"note": "kept"})
        keeper.finish()
        assert path == tmp_path / "run" / "checkpoint-3" and checkpoint.fault_of(path) is None
        assert checkpoint.read_state(path) == {"note": "kept", "step": 3}
        parts, optimizer, keeper = shared(tmp_path / "run", seed=1)
        assert not equal(numbers(parts, optimizer), before)
        assert keeper.newest(lambda words: None) == path
        keeper.load(path)
        assert equal(numbers(parts, optimizer), before)
    assert not [file for file in path.rglob("*") if file.suffix not in (".json", ".safetensors", "")]  # no pickle
    whole, states = read_whole(path)
    assert equal(whole | states, before)


def test_what_was_torn_is_passed_over(tmp_path):
    with a_job_of_one(tmp_path):
        _, _, keeper = shared(tmp_path / "run")
        good, torn = keeper.save(3, None, {}), keeper.save(6, None, {})
        shard = next((torn / "shards").iterdir())
        shard.write_bytes(shard.read_bytes()[:-1])
        said = []
        assert keeper.newest(said.append) == good and "shard-" in said[0]
        assert not keeper.load_best(6) and keeper.load_best(3)


def test_one_process_goes_on_from_a_jobs_checkpoint_and_back(tmp_path):
    with a_job_of_one(tmp_path):
        parts, optimizer, keeper = shared(tmp_path / "job")
        path, before = keeper.save(3, None, {}), numbers(parts, optimizer)
    model = tiny_model(seed=1)
    own = Keeper(tmp_path / "own", model, build(model, CONFIG), CONFIG)
    own.load(path)
    assert equal(dict(model.named_parameters()) | own.optimizer.state_tensors(), before)
    path = own.save(5, None, {})
    with a_job_of_one(tmp_path / "own"):
        parts, optimizer, keeper = shared(tmp_path / "job", seed=2)
        keeper.load(path)
        assert equal(numbers(parts, optimizer), before)


def test_another_model_is_refused_and_a_full_disk_said(tmp_path, monkeypatch):
    with a_job_of_one(tmp_path):
        _, _, keeper = shared(tmp_path / "run")
        path = keeper.save(3, None, {})
        _, _, other = shared(tmp_path / "run", model={"intermediate_size": 64})
        with pytest.raises(MalmoiError, match=r"checkpoint-3: does not fit this model"):
            other.load(path)
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(MalmoiError, match="disk is too full"):
            keeper.save(6, None, {})
    assert checkpoint.steps_in(tmp_path / "run") == [3]


# ---- several processes ----------------------------------------------------------------------------------------------


def written(settings):
    *_, keeper = shared(settings["folder"], 0, MODEL, settings["parallel"], settings["asynchronous"])
    keeper.save(3, None, {})
    keeper.finish()


def checked(settings):
    """Load what others wrote; is each number this process holds where the whole checkpoint has it?"""
    from torch.distributed.tensor import DTensor

    parts, optimizer, keeper = shared(settings["folder"], 1, MODEL, settings["parallel"])
    path = keeper.newest(lambda words: None)
    keeper.load(path)
    weights, states = read_whole(path)
    whole = weights | states
    found = tensors_of(parts, optimizer)
    return [
        name
        for name, tensor in found.items()
        if not torch.equal(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor, whole[name])
    ] + [len(found) < 20]


@pytest.mark.slow
def test_four_write_and_two_others_read(tmp_path):
    grids = [{"tensor_parallel": 2}, {"pipeline_parallel": 2}, {"expert_parallel": 2, "data_parallel_replicate": 2}]
    cases = [
        {"folder": str(tmp_path / f"run-{n}"), "parallel": grid, "asynchronous": n == 1} for n, grid in enumerate(grids)
    ]
    together(4, "test_sharded_checkpoint", "written", *cases)
    manifest = json.loads((tmp_path / "run-0" / "checkpoint-3" / "manifest.json").read_text())
    assert sum(name.startswith("shards/") for name in manifest["files"]) == 4
    others = [{"pipeline_parallel": 2}, {"expert_parallel": 2}, {"tensor_parallel": 2}]
    crossed = [{**case, "parallel": other} for case, other in zip(cases, others, strict=True)]
    assert together(2, "test_sharded_checkpoint", "checked", *crossed) == [[[False]] * len(cases)] * 2
    model = tiny_model(seed=1, **MODEL)  # and one process by itself, which then learns on
    optimizer = build(model, CONFIG)
    checkpoint.load(tmp_path / "run-1" / "checkpoint-3", model, optimizer)
    more = {"learning_rate_factor": 1.0, "max_grad_norm": 1.0, "seed": 0, "step": 3}
    from test_cluster import PRECISION

    assert optimizer_step(model, optimizer, [PatternBatches().batch(0)], precision=PRECISION, **more).applied
