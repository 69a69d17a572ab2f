"""Optimizers over slices: in a job of one they are the optimizers of one process."""

import pytest
import torch
from crew import a_job_of_one
from tiny_run import tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.train.layout import layout
from malmoi.train.optimizer import build
from malmoi.train.parallel import build_mesh, local, parallelize
from malmoi.train.sharded_optimizer import build_sharded


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_job_of_one_updates_as_one_process(tmp_path, kind):
    config = TrainConfig(sequence_length=16, per_device_train_batch_size=4, optimizer=kind, ema_decay=0.9)
    plain, shared = tiny_model(num_experts=2), tiny_model(num_experts=2)
    one = build(plain, config)
    with a_job_of_one(tmp_path):
        grid = layout(ParallelConfig(), 1, shared.config, config)
        parts = parallelize(shared, grid, ParallelConfig(), build_mesh(grid, "cpu"))
        many = build_sharded(parts, config, torch.float32)
        for turn in range(3):
            for mine, theirs in zip(plain.parameters(), shared.parameters(), strict=True):
                mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(turn))
                theirs.grad = torch.zeros_like(theirs)
                local(theirs.grad).copy_(mine.grad)
            many.collect()
            torch.testing.assert_close(many.grad_norm(), one.grad_norm())
            for optimizers in (one, many):
                optimizers.step()
                optimizers.zero_grad()
            assert all(parameter.grad is None for parameter in shared.parameters())
        for mine, theirs in zip(plain.parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(local(theirs), mine)
        state = many.sharded_state()
        assert state.keys() == one.state_tensors().keys()
        for name, tensor in one.state_tensors().items():
            torch.testing.assert_close(local(state[name]), tensor)
