"""The grid of processes: every combination that cannot work is refused in a sentence that names its numbers."""

import pytest

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig
from malmoi.train.layout import layers_of, layout

MODEL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
TRAIN = {"sequence_length": 16, "per_device_train_batch_size": 8, "max_steps": 2}


def grid(processes, parallel=None, model=None, train=None):
    settings = ModelConfig(**{**MODEL, **(model or {})}), TrainConfig(**{**TRAIN, **(train or {})})
    return layout(ParallelConfig(**(parallel or {})), processes, *settings)


def test_what_is_not_said_is_sharded():
    assert (grid(4).shard, grid(4).rows, grid(4).processes) == (4, 4, 4)
    mixed = grid(8, {"tensor_parallel": 2, "data_parallel_replicate": 2})
    assert (mixed.shard, mixed.rows, mixed.processes) == (2, 4, 8)


def test_neighbours_share_the_same_rows():
    mixed = grid(8, {"tensor_parallel": 2, "pipeline_parallel": 2}, train={"gradient_accumulation_steps": 2})
    assert [mixed.rows_of(rank) for rank in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("processes", "parallel", "changes", "words"),
    [
        (4, {"data_parallel_shard": 3}, {}, ["4 processes", "asks for 3"]),
        (2, {"tensor_parallel": 4}, {}, ["2 processes", "asks for 4"]),
        (3, {}, {}, ["= 3", "per_device_train_batch_size = 8"]),
        (4, {"tensor_parallel": 4}, {}, ["tensor_parallel = 4", "num_key_value_heads = 2"]),
        (3, {"tensor_parallel": 3}, {}, ["tensor_parallel = 3", "sequence_length = 16"]),
        (2, {"pipeline_parallel": 2}, {}, ["2 stages", "gradient_accumulation_steps = 1"]),
        (8, {"pipeline_parallel": 8}, {"gradient_accumulation_steps": 8}, ["8 pipeline", "num_hidden_layers = 4"]),
        (
            2,
            {"pipeline_parallel": 2, "pipeline_schedule": "interleaved"},
            {"gradient_accumulation_steps": 5},
            ["pipeline_parallel (interleaved) = 2", "gradient_accumulation_steps = 5"],
        ),
        (2, {"expert_parallel": 2}, {}, ["expert_parallel = 2", "num_experts = 0"]),
        (4, {"expert_parallel": 4}, {"num_experts": 6}, ["expert_parallel = 4", "num_experts = 6"]),
        (2, {"expert_parallel": 4}, {"num_experts": 4}, ["expert_parallel = 4", "data_parallel_shard = 2"]),
        (2, {}, {"max_minutes": 3}, ["max_minutes", "max_steps"]),
        (2, {}, {"torch_compile": True}, ["torch_compile"]),
    ],
)
def test_what_cannot_work_is_refused(processes, parallel, changes, words):
    model = {name: changes[name] for name in changes if name in ModelConfig.model_fields}
    train = {name: changes[name] for name in changes if name in TrainConfig.model_fields}
    with pytest.raises(MalmoiError) as refused:
        grid(processes, parallel, model, train)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_stages_hold_every_layer_once():
    for layers, processes in ((4, 2), (5, 2), (7, 4)):
        mixed = grid(processes, {"pipeline_parallel": processes}, train={"gradient_accumulation_steps": 8})
        parts = [layers_of(stage, mixed, layers) for stage in range(mixed.stages)]
        assert [layer for part in parts for layer in part] == list(range(layers))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
