"""The compiled steps of training against the plain formulas in float64, on any number of threads, and their absence."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.model import fused, kernels
from malmoi.model.position import Rotation, rotate

pytestmark = pytest.mark.skipif(kernels.LIBRARY is None, reason="this installation was built without a C++ compiler")

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 5e-6}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2}}


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def agree(step, formula, *inputs, steps=1):
    """Values and gradients of `step` are those of `formula` in float64, to the rounding of so many steps."""
    out = step(*inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = formula(*wide)
    gradient = draw(99, *expected.shape, dtype=out.dtype).detach()
    out.backward(gradient)
    expected.backward(gradient.double())
    close = {name: steps * bound for name, bound in TOLERANCE[out.dtype].items()}
    torch.testing.assert_close(out.double(), expected, **close)
    for ours, theirs in zip(inputs, wide, strict=True):
        scale = max(1.0, float(theirs.grad.abs().max()))
        torch.testing.assert_close(ours.grad.double() / scale, theirs.grad / scale, **close)


def plain_norm(x, weight, eps=1e-6):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 200), size=st.integers(2, 130))
def test_norm(dtype, rows, size):
    x, weight = draw(rows, rows, size, dtype=dtype), draw(size, size, dtype=dtype)
    agree(lambda x, w: fused.RMSNorm.apply(x, w, 1e-6), plain_norm, x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 70), H=st.integers(1, 4), half=st.integers(1, 20), normed=st.booleans())
def test_heads(dtype, B, T, H, half, normed):
    D = 2 * half
    angle = draw(5, B, 1, T, half).detach()
    cos, sin = angle.cos(), angle.sin()
    turn = Rotation(torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype))
    exact = Rotation(turn.cos.double(), turn.sin.double())
    x, weight = draw(B, B, T, H, D, dtype=dtype), draw(T, D, dtype=dtype)

    def formula(x, weight=None):
        x = x if weight is None else plain_norm(x, weight)
        x = x.transpose(1, 2)
        first, second = x.chunk(2, dim=-1)
        return x * exact.cos + torch.cat((second, first), dim=-1) * exact.sin

    if normed:
        agree(lambda x, w: fused.Heads.apply(x, w, 1e-6, *turn), formula, x, weight)
    else:
        agree(lambda x: fused.Heads.apply(x, None, 0.0, *turn), formula, x)


def test_heads_with_one_table_for_all_rows():
    table = draw(1, 1, 1, 5, 8).detach()
    x = draw(2, 3, 5, 2, 8)
    ours = fused.Heads.apply(x, None, 0.0, table, table)
    torch.testing.assert_close(ours, rotate(x.detach().transpose(1, 2), Rotation(table, table)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(dtype):
    # far out on both sides too, where the exponential would overflow
    gate = torch.cat((torch.linspace(-120, 120, 999), torch.randn(3000))).to(dtype).requires_grad_()
    agree(fused.GatedSiLU.apply, lambda gate, up: F.silu(gate) * up, gate, draw(1, 3999, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 300), group=st.integers(1, 3), K=st.integers(1, 2), packed=st.booleans())
def test_attention(dtype, B, T, group, K, packed):
    documents = torch.arange(T).expand(B, T) // (7 if packed else T)
    visible = torch.ones(T, T, dtype=torch.bool).tril() & (documents[:, None, :, None] == documents[:, None, None, :])
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, float("-inf"))
    q, k, v = (draw(i, B, heads, T, 6, dtype=dtype) for i, heads in ((1, group * K), (2, K), (3, K)))

    def formula(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)

    agree(lambda q, k, v: fused.Attend.apply(q, k, v, mask), formula, q, k, v, steps=3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_surprise(dtype, smoothing):
    logits = (draw(1, 50, 333) * 8).detach().to(dtype)
    targets = torch.randint(0, 333, (50,), generator=torch.Generator().manual_seed(2))
    logits[0, targets[0]], logits[1, targets[1]] = 300, -300  # certain, and certainly not
    wide = logits.double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none")
    F.cross_entropy(wide, targets, reduction="sum", label_smoothing=smoothing).backward()
    slope = logits.clone()
    torch.testing.assert_close(fused.surprise(slope, targets, smoothing).double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(slope.double(), wide.grad, rtol=TOLERANCE[dtype]["rtol"], atol=1e-6)


def test_what_is_not_finite_stays_so():
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]], requires_grad=True)
    out = fused.RMSNorm.apply(x, torch.ones(2, requires_grad=True), 1e-6)
    assert out[0].isnan().all() and out[1].isfinite().all()
    logits = torch.tensor([[1.0, float("nan"), 0.0], [1.0, float("inf"), 0.0], [1.0, 2.0, 3.0]]).bfloat16()
    losses = fused.surprise(logits, torch.tensor([0, 0, 0]))
    assert not losses[:2].isfinite().any() and losses[2].isfinite()


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_label_that_is_no_token_is_refused(wrong):
    with pytest.raises(MalmoiError, match=f"label {wrong} is outside"):
        fused.surprise(torch.zeros(2, 3), torch.tensor([0, wrong]))


def test_only_tensors_with_memory_are_taken():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert fused.compiled(torch.zeros(2), torch.nn.Parameter(torch.zeros(2)))
    assert not fused.compiled(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))
    assert not fused.compiled(torch.zeros(2, device="meta"))
    with FakeTensorMode():
        assert not fused.compiled(torch.zeros(2))


def test_the_number_of_threads_changes_nothing():
    def everything():
        x, weight = draw(1, 700, 96, dtype=torch.bfloat16), draw(2, 96, dtype=torch.bfloat16)
        normed = fused.RMSNorm.apply(x, weight, 1e-6)
        heads = fused.Heads.apply(
            normed.view(7, 100, 4, 24), weight[:24], 1e-6, *[draw(3, 1, 1, 100, 24).bfloat16()] * 2
        )
        heads.backward(draw(4, *heads.shape, dtype=torch.bfloat16))
        logits = draw(5, 200, 999).detach()
        return [heads.detach(), x.grad, weight.grad, fused.surprise(logits, torch.arange(200)), logits]

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(everything())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))


@pytest.mark.slow
def test_they_can_be_left_out():
    probe = "from malmoi.model import kernels; print(kernels.LIBRARY)"
    answer = subprocess.run(
        [sys.executable, "-c", probe], env={"MALMOI_KERNELS": "0"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "None"


def test_a_library_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "VERSION", kernels.VERSION + 1)
    assert kernels.load() is None
