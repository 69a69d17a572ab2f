"""Many processes learn what one does: the same losses, whatever the axes (gloo, on the CPU)."""

import dataclasses

import pytest
import torch
from crew import together
from tiny_run import PatternBatches, tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.train.loss import evaluate
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.step import optimizer_step

STEPS = 20
MODEL = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.1}
PRECISION = Precision(torch.float32, torch.float32, "cpu")


def train_config(**changes):
    basis = {"sequence_length": 16, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    return TrainConfig(**{**basis, "max_steps": STEPS, "dtype": "float32", **changes})


def own_rows(batch, part, parts):
    """A process's share of a batch, as `Batches` deals them out."""
    size = len(batch.input_ids) // parts
    mine = slice(part * size, (part + 1) * size)
    names = ("input_ids", "labels", "position_ids", "document_ids")
    cut = {name: getattr(batch, name)[mine] for name in names}
    return dataclasses.replace(batch, **cut, num_target_tokens=int((cut["labels"] != -100).sum()))


def losses(step, model, optimizer, config, part=0, parts=1):
    batches = PatternBatches(rows=config.per_device_train_batch_size)
    pieces, found = config.gradient_accumulation_steps, []
    for number in range(STEPS):
        micro = [own_rows(batches.batch(number * pieces + piece), part, parts) for piece in range(pieces)]
        result = step(
            model,
            optimizer,
            micro,
            learning_rate_factor=1.0,
            max_grad_norm=config.max_grad_norm,
            precision=PRECISION,
            seed=0,
            step=number,
            label_smoothing=config.label_smoothing,
        )
        assert result.applied
        found.append([result.loss, result.grad_norm, result.targets, result.tokens])
    return found


def held_out():
    return [PatternBatches(seed=9, rows=4).batch(index) for index in range(3)]


def alone(settings):
    config, model = train_config(**settings.get("train", {})), tiny_model(**{**MODEL, **settings.get("model", {})})
    model.train()
    found = losses(optimizer_step, model, build(model, config), config)
    return found, evaluate(model, held_out())


def member(settings):
    """What each process of a crew does."""
    import torch.distributed as dist

    from malmoi.train.cluster import Team
    from malmoi.train.layout import layout
    from malmoi.train.parallel import build_mesh, parallelize
    from malmoi.train.sharded_optimizer import build_sharded

    config, model = train_config(**settings.get("train", {})), tiny_model(**{**MODEL, **settings.get("model", {})})
    parallel = ParallelConfig(**settings["parallel"])
    grid = layout(parallel, dist.get_world_size(), model.config, config)
    parts = parallelize(model, grid, parallel, build_mesh(grid, "cpu"))
    team = Team(parts, config.gradient_accumulation_steps, config.per_device_train_batch_size, config.sequence_length)
    optimizer = build_sharded(parts, config, torch.float32)
    model.train()
    found = losses(team.step, model, optimizer, config, grid.rows_of(dist.get_rank()), grid.rows)
    measured = team.evaluate(held_out())
    return found, [measured.loss, measured.bits_per_byte, measured.tokens]


def check(size, *cases):
    """A crew of `size` does each case and finds what one process finds."""
    everyone = together(size, "test_cluster", "member", *cases)
    assert all(one == everyone[0] for one in everyone)  # all report the same numbers
    for case, (found, measured) in zip(cases, everyone[0], strict=True):
        expected, expected_measured = alone(case)
        for one, other in zip(found, expected, strict=True):
            assert one[0] == pytest.approx(other[0], rel=1e-5), case
            assert one[1] == pytest.approx(other[1], rel=1e-3), case
            assert one[2:] == other[2:], case
        assert measured[0] == pytest.approx(expected_measured.loss, rel=1e-4), case
        assert measured[1:] == [pytest.approx(expected_measured.bits_per_byte, rel=1e-4), expected_measured.tokens]
    return everyone[0]


GPT2 = {"norm": "layer_norm", "positions": "learned", "feed_forward": "plain", "qk_norm": False, "attention_bias": True}
GPT2 |= {"mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}


@pytest.mark.slow
def test_two_processes_learn_what_one_does():
    """Each axis by itself."""
    check(
        2,
        {"parallel": {}},
        {"parallel": {"data_parallel_replicate": 2}, "train": {"optimizer": "adamw"}},
        {"parallel": {"tensor_parallel": 2}, "model": GPT2},
        {"parallel": {"tensor_parallel": 2}, "model": EXPERTS},
        {"parallel": {"expert_parallel": 2}, "model": EXPERTS},
        {"parallel": {"pipeline_parallel": 2}},
        {"parallel": {"pipeline_parallel": 2}, "model": {**EXPERTS, "tie_word_embeddings": False}},
        {
            "parallel": {"pipeline_parallel": 2, "pipeline_schedule": "interleaved"},
            "model": {"num_hidden_layers": 4},
            "train": {"gradient_accumulation_steps": 4},
        },
    )


@pytest.mark.slow
def test_four_processes_learn_what_one_does():
    """Axes crossed, with recomputation and the model's rarer parts."""
    recompute = "activation_checkpointing"
    rare = {"attention_sinks": True, "norm_placement": "post"}
    check(
        4,
        {"parallel": {"data_parallel_replicate": 2, recompute: "selective"}},
        {"parallel": {"pipeline_parallel": 2, recompute: "full"}},
        {
            "parallel": {"expert_parallel": 2, "tensor_parallel": 2, recompute: "selective"},
            "model": {**EXPERTS, "attention_sinks": True, "router_bias": True, "mlp_bias": True},
            "train": {"gradient_accumulation_steps": 1},
        },
        {
            "parallel": {"tensor_parallel": 2, "pipeline_parallel": 2},
            "train": {"label_smoothing": 0.1},
            "model": {"ngram_sizes": [2], "ngram_vocab_size": 64},
        },
        {
            "parallel": {"tensor_parallel": 2, recompute: "full"},
            "train": {"optimizer": "adamw", "ema_decay": 0.9, "gradient_accumulation_steps": 1},
            "model": rare,
        },
    )
