"""Stages, one after another, are the model."""

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.train.layout import layout
from malmoi.train.loss import cross_entropy
from malmoi.train.pipeline_parallel import split

LEARNED = {"norm": "layer_norm", "positions": "learned", "qk_norm": False, "ngram_sizes": (2,), "ngram_vocab_size": 64}


def grid_of(model, schedule="1f1b"):
    train = TrainConfig(sequence_length=16, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    parallel = ParallelConfig(pipeline_parallel=2, pipeline_schedule=schedule)
    return layout(parallel, 2, model.config, train)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
@pytest.mark.parametrize("changes", [{}, LEARNED, {"num_experts": 2, "tie_word_embeddings": False}])
def test_the_stages_of_all_processes_are_the_model(schedule, changes):
    batch = PatternBatches().batch(0)
    expected = cross_entropy(tiny_model(num_hidden_layers=4, **changes), batch)[0]
    held = [tiny_model(num_hidden_layers=4, **changes) for _ in range(2)]
    stages = {}
    for position, model in enumerate(held):
        stages |= split(model, grid_of(model, schedule), position, None)
    x = batch.input_ids
    for number in sorted(stages):
        x = stages[number](x, batch.position_ids, batch.document_ids, batch.labels, torch.zeros(1))
    torch.testing.assert_close(x[0], expected)


def test_each_process_holds_its_part_under_the_whole_models_names():
    whole = {name: value.shape for name, value in tiny_model(num_hidden_layers=4).named_parameters()}
    held = [tiny_model(num_hidden_layers=4) for _ in range(2)]
    for position, model in enumerate(held):
        split(model, grid_of(model), position, None)
    first, last = ({name: value.shape for name, value in model.named_parameters()} for model in held)
    assert first.keys() | (last.keys() - {"lm_head.weight"}) == whole.keys() and not first.keys() & last.keys()
    assert "model.layers.3.mlp.up_proj.weight" in last and "model.embed_tokens.weight" in first
    assert last["lm_head.weight"] == whole["model.embed_tokens.weight"]  # tied: a copy at the other end
