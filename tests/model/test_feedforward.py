"""Feed-forward networks against their formulas, with and without gradients."""

import pytest
import torch
import torch.nn.functional as F

from malmoi.layers import Dense
from malmoi.model.feedforward import FeedForward

ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("reading", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formula(activation, gated, bias, reading):
    torch.manual_seed(0)
    network = FeedForward(Dense(8, 12, activation, gated, bias))
    x, act = torch.randn(2, 3, 8), ACTIVATIONS[activation]
    up, down = network.up_proj, network.down_proj
    inner = act(network.gate_proj(x)) * up(x) if gated else act(up(x))
    with torch.set_grad_enabled(not reading):
        torch.testing.assert_close(network(x), F.linear(inner, down.weight, down.bias), atol=1e-6, rtol=1e-5)
    assert (down.bias is not None) == bias
