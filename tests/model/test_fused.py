"""Hand-written gradients agree with the plain formulas, and a model trains the same with either."""

import pytest
import torch
import torch.nn.functional as F

from malmoi.config import ModelConfig
from malmoi.model import fused
from malmoi.model.gpt import GPT4LMHeadModel

check = torch.autograd.gradcheck


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_gradients_against_finite_differences():
    torch.manual_seed(0)
    x, weight = wide(2, 3, 8), wide(8)
    assert check(lambda x, w: fused.RMSNorm.apply(x, w, 1e-6), (x, weight))
    assert check(fused.GatedSiLU.apply, (x, wide(2, 3, 8)))
    cos, sin = torch.randn(2, 1, 3, 8, dtype=torch.float64), torch.randn(2, 1, 3, 8, dtype=torch.float64)
    assert check(lambda x: fused.Rotate.apply(x, cos, sin), (wide(2, 4, 3, 8),))


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_attention_against_the_library(key_value_heads):
    torch.manual_seed(0)
    q, k, v = wide(2, 4, 5, 6), wide(2, key_value_heads, 5, 6), wide(2, key_value_heads, 5, 6)
    hidden = ~torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill(hidden, float("-inf"))
    assert check(lambda *qkv: fused.Attend.apply(*qkv, mask), (q, k, v))
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(fused.Attend.apply(q, k, v, mask), plain)


def test_a_model_has_the_same_gradients_with_and_without(monkeypatch):
    config = ModelConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    ids = torch.randint(0, 61, (3, 16), generator=torch.Generator().manual_seed(1))
    documents = torch.arange(16).expand(3, 16) // 5

    def gradients(dtype):
        model = GPT4LMHeadModel(config).to(dtype)
        model(ids, labels=ids, document_ids=documents).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    # float64 takes the written-out attention as well, so that the comparison is sharp
    monkeypatch.setattr(fused, "SHORT_ROW_DTYPES", (torch.float64,))
    ours = gradients(torch.float64)
    monkeypatch.setattr(fused, "pays", lambda x: False)
    plain = gradients(torch.float64)
    for name, gradient in plain.items():
        # the plain norm sums in float32
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
