"""A step of a job that does not exist holds, computes and sends what a job that does would."""

import pytest
import torch
import torch.distributed as dist

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig
from malmoi.layers import count_parameters
from malmoi.train.rehearsal import rehearse, rehearse_apart

SMALL = ModelConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
EXPERTS = SMALL.replace(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
TRAIN = TrainConfig(sequence_length=32, per_device_train_batch_size=8, optimizer="adamw")


def rehearsed(model, world, rank=0, pieces=1, **parallel):
    rows = max(world, TRAIN.per_device_train_batch_size)
    train = TRAIN.replace(gradient_accumulation_steps=pieces, per_device_train_batch_size=rows)
    # tensor parallelism meets the groups of the job before: a process each, which takes seconds
    make = rehearse_apart if "tensor_parallel" in parallel else rehearse
    return make(model, ParallelConfig(**parallel), train, world, rank, torch.float32)


@pytest.mark.parametrize(
    ("model", "world", "pieces", "parallel"),
    [
        (SMALL, 2, 1, {}),
        pytest.param(
            SMALL, 2, 1, {"tensor_parallel": 2, "activation_checkpointing": "selective"}, marks=pytest.mark.slow
        ),
        (SMALL, 2, 2, {"pipeline_parallel": 2, "activation_checkpointing": "full"}),
        pytest.param(EXPERTS, 4, 1, {"expert_parallel": 2}, marks=pytest.mark.slow),
    ],
    ids=["sharded", "tensor", "pipeline", "experts"],
)
def test_all_processes_together_hold_the_model(model, world, pieces, parallel):
    """What is sliced is held once; twice are tables by a tensor axis or a pipeline's ends, experts by an outer axis."""
    found = [rehearsed(model, world, rank, pieces, **parallel) for rank in range(world)]
    held = sum(step["memory"]["weights"] for step in found)
    whole = 4 * count_parameters(model)
    table, experts = 4 * 96 * 32, 4 * 2 * 4 * 3 * 32 * 32
    again = {"tensor_parallel": table, "pipeline_parallel": table, "expert_parallel": experts}
    assert held == pytest.approx(whole + sum(again.get(axis, 0) for axis in parallel), rel=0.02)
    for step in found:
        assert step["memory"]["gradients"] == step["memory"]["weights"]
        assert step["memory"]["optimizer"] == pytest.approx(2 * step["memory"]["weights"], rel=0.01)
        assert step["memory"]["peak"] > 4 * step["memory"]["weights"]


def test_thousands_of_processes_and_what_they_send():
    step = rehearsed(SMALL, 1024, rank=1023, data_parallel_replicate=128)
    alone = rehearsed(SMALL, 8)
    assert not dist.is_initialized()
    assert step["memory"]["weights"] == alone["memory"]["weights"]  # slices over the same eight
    assert step["communication"]["reduce_scatter"] == alone["communication"]["reduce_scatter"]
    assert step["communication"]["all_reduce"] > alone["communication"]["all_reduce"]


def test_more_micro_batches_are_the_same_again():
    two, six = rehearsed(SMALL, 2, pieces=2), rehearsed(SMALL, 2, pieces=6)
    assert six["flops"] == pytest.approx(3 * two["flops"], rel=0.01)
    assert six["memory"] == two["memory"]
    assert six["micro_batches"] == {"run": 2, "of": 6}


def test_a_layout_that_cannot_work_is_refused_and_leaves_nothing_behind():
    with pytest.raises(MalmoiError, match="tensor_parallel = 3"):
        rehearsed(SMALL, 3, tensor_parallel=3)
    assert not dist.is_initialized()
