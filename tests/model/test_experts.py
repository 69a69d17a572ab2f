"""Routing: each token is the weighted sum of its best experts, computed here one token at a time."""

import pytest
import torch

from malmoi.layers import Dense, Experts
from malmoi.model import experts
from malmoi.model.feedforward import FeedForward

GATED = Dense(8, 12, "silu", gated=True, bias=False)
KINDS = {
    "gated": Experts(hidden_size=8, number=5, per_token=2, expert=GATED),
    "plain": Experts(8, 5, 2, Dense(8, 12, "gelu", gated=False, bias=True)),
    "gpt-oss": Experts(8, 5, 2, Dense(8, 12, "silu", gated=True, bias=True, limit=0.5), router_bias=True),
}


def built(spec):
    torch.manual_seed(0)
    layer = experts.Experts(spec).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.fixture
def mixture():
    return built(KINDS["gated"])


def alone(layer, number):
    """One expert as an ordinary feed-forward network."""
    network = FeedForward(layer.experts.spec)
    for name, part in network.named_children():
        if isinstance(part, torch.nn.Linear):
            part.weight.data = getattr(layer.experts, name)[number]
            if part.bias is not None:
                part.bias.data = getattr(layer.experts, f"{name}_bias")[number]
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_is_the_weighted_sum_of_its_experts(kind):
    mixture = built(KINDS[kind])
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        result = mixture(x)
        for row in range(3):
            for place in range(4):
                token = x[row, place]
                probabilities = mixture.gate(token).softmax(-1)
                best = probabilities.argsort(descending=True)[:2]
                expected = sum(alone(mixture, i)(token) * probabilities[i] for i in best) / probabilities[best].sum()
                torch.testing.assert_close(result[row, place], expected, atol=1e-6, rtol=1e-5)


def test_an_expert_that_nobody_chose_rests(mixture):
    with torch.no_grad():
        mixture.gate.weight.zero_()
        mixture.gate.weight[3, 0], mixture.gate.weight[1, 0] = 2.0, 1.0
    mixture(torch.ones(2, 3, 8)).sum().backward()
    moved = mixture.experts.up_proj.grad.abs().sum(dim=(1, 2)) > 0
    assert moved.tolist() == [False, True, False, True, False]


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
