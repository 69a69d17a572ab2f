"""Norms against their formulas; lengths are exact even where the numbers are coarse."""

import pytest
import torch

from malmoi.layers import Norm
from malmoi.model.norm import build_norm


@pytest.mark.parametrize("reading", [True, False])
def test_formulas(reading):
    torch.manual_seed(0)
    x = torch.randn(4, 16) * 3 + 1
    rms, layer = build_norm(Norm("rms_norm", 16, 1e-6)), build_norm(Norm("layer_norm", 16, 1e-5))
    with torch.no_grad():
        for parameter in (*rms.parameters(), *layer.parameters()):
            parameter.normal_()
    x.requires_grad_(not reading)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * rms.weight
    torch.testing.assert_close(rms(x), expected, atol=1e-5, rtol=1e-5)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reading", [True, False])
@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm"])
def test_coarse_numbers_keep_their_type_and_an_exact_length(kind, reading):
    norm = build_norm(Norm(kind, 4096, 1e-6)).to(torch.bfloat16)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 50
    x.requires_grad_(not reading)
    result = norm(x)
    assert result.dtype == torch.bfloat16
    length = result.detach().double().square().mean(-1).sqrt()
    torch.testing.assert_close(length, torch.ones_like(length), atol=4e-3, rtol=0)  # half a bfloat16 step
