"""AdamW is torch's, bit for bit, and making it loads no compiler."""

import subprocess
import sys

import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.train.update_rule import AdamW


def test_adamw_is_torchs():
    def parameters():
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((3, 4), (5,), (2, 2))]

    ours, theirs = parameters(), parameters()
    settings = {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-6}
    rule = AdamW([{"params": ours[:1], "weight_decay": 0.1}, {"params": ours[1:], "weight_decay": 0.0}], **settings)
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, fused=True, **settings)
    for step in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            gradient = torch.full_like(mine, 0.1 * step - 0.2) * mine.detach()
            mine.grad, other.grad = gradient, gradient.clone()
        if step == 3:
            ours[1].grad = theirs[1].grad = None  # no gradient, no update
        rule.step()
        reference.step()
        rule.zero_grad()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    assert all(parameter.grad is None for parameter in ours)
    assert rule.state[ours[1]]["step"] == 4


def test_an_optimizer_needs_parameters_and_each_once():
    weight = torch.ones(2, requires_grad=True)
    for wrong in ([], [weight, weight], [{"params": [weight]}, {"params": [weight]}]):
        with pytest.raises(MalmoiError, match="each of them once"):
            AdamW(wrong)


def test_training_starts_without_torchs_compiler():
    probe = """
import sys, torch
from malmoi.config import TrainConfig
from malmoi.train.optimizer import build
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
optimizer = build(model, TrainConfig(max_steps=1))
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
print("torch._dynamo" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
