"""Tokens that travel to their experts come back as if they had stayed; the balance loss is that of the whole batch."""

import torch
from crew import a_job_of_one
from tiny_run import tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.model.experts import balance_loss
from malmoi.train import expert_parallel
from malmoi.train.layout import layout
from malmoi.train.parallel import build_mesh


def test_travelling_changes_nothing_and_balance_joins_the_gradient(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 32, requires_grad=True)
    plain, cut = (tiny_model(num_experts=4).train() for _ in range(2))
    here, there = plain.model.layers[0].mlp, cut.model.layers[0].mlp
    expected = here(x)
    (expected.square().sum() + 0.5 * here.balance).backward()
    wanted, x.grad = x.grad, None
    with a_job_of_one(tmp_path):
        train = TrainConfig(sequence_length=16, per_device_train_batch_size=4)
        mesh = build_mesh(layout(ParallelConfig(), 1, cut.config, train), "cpu")
        expert_parallel.cut(there, mesh["expert"])
        balance = expert_parallel.Balance(mesh["expert"].get_group())
        balance.watch(there)
        balance.weight = 0.5
        found = there(x)
        found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x.grad, wanted)
    for name, parameter in here.named_parameters():
        torch.testing.assert_close(there.get_parameter(name).grad, parameter.grad)
    assert there.balance is None


def test_the_balance_of_one_process_is_the_models_own(tmp_path):
    probabilities = torch.rand(12, 4).softmax(dim=-1)
    with a_job_of_one(tmp_path):
        balance = expert_parallel.Balance(torch.distributed.group.WORLD)
        found = balance._loss(probabilities, 2)
    torch.testing.assert_close(found, balance_loss(probabilities, probabilities.topk(2, dim=-1).indices))
