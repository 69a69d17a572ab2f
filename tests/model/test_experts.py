"""Routing: each token is the weighted sum of its best experts, computed here one token at a time."""

import pytest
import torch

from malmoi.layers import Dense, Experts
from malmoi.model import experts

SPEC = Experts(hidden_size=8, number=5, per_token=2, expert=Dense(8, 12, "silu", gated=True, bias=False))


@pytest.fixture
def mixture():
    torch.manual_seed(0)
    return experts.Experts(SPEC).eval()


def test_each_token_is_the_weighted_sum_of_its_experts(mixture):
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        result = mixture(x)
        for row in range(3):
            for place in range(4):
                token = x[row, place]
                probabilities = mixture.gate(token).softmax(-1)
                best = probabilities.argsort(descending=True)[:2]
                expected = sum(mixture.experts[i](token) * probabilities[i] for i in best) / probabilities[best].sum()
                torch.testing.assert_close(result[row, place], expected, atol=1e-6, rtol=1e-5)


def test_an_expert_that_nobody_chose_rests(mixture):
    called = []
    for number, expert in enumerate(mixture.experts):
        expert.register_forward_hook(lambda *_, number=number: called.append(number))
    with torch.no_grad():
        mixture.gate.weight.zero_()
        mixture.gate.weight[3, 0], mixture.gate.weight[1, 0] = 2.0, 1.0
        mixture(torch.ones(2, 3, 8))
    assert called == [1, 3]


def test_balance_loss_is_one_when_balanced_and_grows_when_not():
    even = torch.full((10, 5), 0.2)
    every = torch.arange(10).view(10, 1) % 5
    assert experts.balance_loss(even, every).item() == pytest.approx(1)
    sure = torch.zeros(10, 5)
    sure[:, 2] = 1
    assert experts.balance_loss(sure, torch.full((10, 1), 2)).item() == pytest.approx(5)


def test_following_the_balance_loss_spreads_the_load(mixture):
    mixture.train()
    x = torch.randn(1, 64, 8) + 2  # a common direction makes a few experts everyone's favourites
    optimizer = torch.optim.Adam([mixture.gate.weight], lr=0.05)
    losses = []
    for _ in range(40):
        mixture(x)
        optimizer.zero_grad()
        mixture.balance.backward()
        optimizer.step()
        losses.append(mixture.balance.item())
    assert losses[0] > 1.3
    assert losses[-1] < 1.1


def test_the_balance_loss_is_for_training_only(mixture):
    mixture(torch.randn(1, 4, 8))
    assert mixture.balance is None
