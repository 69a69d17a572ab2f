"""Training on a CPU: the same mathematics as the layers beside this file, with gradients written out by hand.

Left to itself, automatic differentiation stores and re-reads a tensor for every `*` and `+`; on a CPU, where a small
model's time goes into moving memory, that costs more than the matrix products. Here a norm, a rotation, a gate and a
short row's attention are one forward and one backward step each. Nothing else changes: in float64 they agree with the
plain formulas to rounding (a test compares them), and where no gradient is asked for, the plain formulas run.

Where the installation has compiled steps (`kernels`), each of them is one pass over memory; without, a few of torch's
operations do the same. Both agree to rounding.

Attention written out as two batched products beats the library's fused kernel on a CPU in bfloat16 for rows of a few
hundred tokens, because the kernel works in small tiles; its memory grows with the square of the row, so long rows keep
the kernel.

B batch, T tokens, H query heads, K key/value heads, G = H / K, D head size
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function

from malmoi.config import MalmoiError
from malmoi.model import kernels

LONGEST_ROW = 512  # beyond it the (T, T) weights cost more memory traffic than they save
SHORT_ROW_DTYPES = (torch.bfloat16,)  # float32 is left to torch's kernel: plan/here.py counts on it


_measuring = False


@contextmanager
def measuring() -> Iterator[None]:
    """Within it, passes without gradients take these steps too: a held-out loss is then that of the training passes."""
    global _measuring
    before, _measuring = _measuring, True
    try:
        yield
    finally:
        _measuring = before


def pays(x: torch.Tensor) -> bool:
    """Whether the hand-written steps are the ones to take for this tensor: on a CPU, on the way to a gradient."""
    return x.device.type == "cpu" and (x.requires_grad or _measuring) and not torch.compiler.is_compiling()


def compiled(*tensors: torch.Tensor) -> bool:
    """Whether the compiled steps can take these: ordinary tensors on a CPU, all bfloat16 or all float32.

    Not ordinary are those without memory of their own to point to: cut over processes (DTensor), or fake.
    """
    first = tensors[0].dtype
    known = first in (torch.bfloat16, torch.float32) and tensors[0].device.type == "cpu"
    alike = all(tensor.dtype == first and type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
    return kernels.LIBRARY is not None and known and alike


def _half(x: torch.Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


class RMSNorm(Function):
    """`x / rms(x) * weight` over the last dimension. The sum of squares is taken in at least float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.compiled = compiled(x, weight)
        if ctx.compiled:
            return _compiled_norm(ctx, x.contiguous(), weight, eps)
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        if ctx.compiled:
            return _compiled_norm_back(ctx, grads[0].contiguous())
        normed, weight, scale = ctx.saved_tensors
        grad = grads[0]
        size = grad.shape[-1]
        product = (grad * normed).reshape(-1, size)
        along = torch.mv(product, weight).div_(-size).view(scale.shape)  # the part that only changes the length
        return torch.addcmul(grad * weight, normed, along).mul_(scale), product.sum(0), None


def _compiled_norm(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    library, size, rows = kernels.LIBRARY, x.shape[-1], x.numel() // x.shape[-1]
    assert library is not None
    out, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32)
    places = (x.data_ptr(), weight.data_ptr(), out.data_ptr(), scale.data_ptr())
    library.malmoi_norm(_half(x), *places, rows, size, eps, torch.get_num_threads())
    ctx.save_for_backward(x, weight, scale)
    return out


def _compiled_norm_back(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    x, weight, scale = ctx.saved_tensors
    library, size, rows = kernels.LIBRARY, x.shape[-1], x.numel() // x.shape[-1]
    assert library is not None
    out, to_weight = torch.empty_like(x), torch.empty(size, dtype=torch.float32)
    shares = _shares(rows, size)
    places = (tensor.data_ptr() for tensor in (grad, x, weight, scale, out, to_weight, shares))
    library.malmoi_norm_back(_half(x), *places, rows, size, torch.get_num_threads())
    return out, to_weight.to(weight.dtype), None


def _shares(rows: int, size: int) -> torch.Tensor:
    """Scratch for sums over rows: one partial sum for each 64 of them."""
    return torch.empty((rows + 63) // 64, size, dtype=torch.float32)


class Heads(Function):
    """Queries or keys as projected (B, T, H, D) -> (B, H, T, D), normed by `weight` and turned; compiled only.

    One pass instead of a norm, a transposition and a rotation. `weight` (D,) may be None: no norm.
    """

    LARGEST = 1024  # D

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, eps: float, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        library, (B, T, H, D) = kernels.LIBRARY, x.shape
        assert library is not None
        x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
        out = x.new_empty(B, H, T, D)
        scale = torch.empty(B * T * H if weight is not None else 0, dtype=torch.float32)
        places = (x.data_ptr(), H * D, _address(weight), cos.data_ptr(), sin.data_ptr(), cos.shape[0], out.data_ptr())
        library.malmoi_heads(_half(x), *places, scale.data_ptr(), B, T, H, D, eps, torch.get_num_threads())
        ctx.save_for_backward(x if weight is not None else None, weight, scale, cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None, None]:
        x, weight, scale, cos, sin = ctx.saved_tensors
        library, grad = kernels.LIBRARY, grads[0].contiguous()
        assert library is not None
        B, H, T, D = grad.shape
        out, to_weight = grad.new_empty(B, T, H, D), torch.empty(D, dtype=torch.float32)
        shares = _shares(B * T, D)
        before = (grad.data_ptr(), _address(x), H * D, _address(weight), cos.data_ptr(), sin.data_ptr(), cos.shape[0])
        after = (scale.data_ptr(), out.data_ptr(), to_weight.data_ptr(), shares.data_ptr())
        library.malmoi_heads_back(_half(grad), *before, *after, B, T, H, D, torch.get_num_threads())
        return out, None if weight is None else to_weight.to(weight.dtype), None, None, None


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Rotate(Function):
    """Rotary positions on (B, H, T, D): `x * cos + (second half, first half) * sin`; see `position.Rotation`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, _swap(x), sin)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return torch.addcmul(_swap(grads[0] * sin), grads[0], cos), None, None


def _swap(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((x[..., half:], x[..., :half]), dim=-1)


class GatedSiLU(Function):
    """`silu(gate) * up`, of any shape."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.compiled = compiled(gate, up)
        if ctx.compiled and kernels.LIBRARY is not None:
            gate, up = gate.contiguous(), up.contiguous()
            ctx.save_for_backward(gate, up)
            out = torch.empty_like(gate)
            places = (gate.data_ptr(), up.data_ptr(), out.data_ptr())
            kernels.LIBRARY.malmoi_gate(_half(gate), *places, gate.numel(), torch.get_num_threads())
            return out
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if ctx.compiled and kernels.LIBRARY is not None:
            gate, up = ctx.saved_tensors
            grad, to_gate, to_up = grads[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
            places = (tensor.data_ptr() for tensor in (grad, gate, up, to_gate, to_up))
            kernels.LIBRARY.malmoi_gate_back(_half(gate), *places, gate.numel(), torch.get_num_threads())
            return to_gate, to_up
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


class Attend(Function):
    """Softmax attention of q (B, H, T, D) over k, v (B, K, T, D), additive mask (B or 1, 1, T, T), no dropout.

    The mask must hide everything after the diagonal. Half of the square of queries and keys is hidden by it, so long
    rows are taken in stretches of queries, each over the keys up to its own end: of four stretches, the first needs a
    quarter of the keys, and three eighths of all the work are never done.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        B, H, T, D = q.shape
        K = k.shape[1]
        # the G queries of a key head lie one after the other
        q, k, v = q.reshape(B * K, -1, T, D), k.reshape(B * K, T, D), v.reshape(B * K, T, D)
        out, kept = q.new_empty(q.shape), []
        for begin, end in _stretches(T):
            asking = q[:, :, begin:end].reshape(B * K, -1, D)  # (B * K, G * (end - begin), D)
            scores = torch.bmm(asking, k[:, :end].mT).view(B, H, end - begin, end)
            weights = _softmax(scores, mask, begin, D**-0.5).view(B * K, -1, end)
            out[:, :, begin:end] = torch.bmm(weights, v[:, :end]).view(B * K, -1, end - begin, D)
            kept += [asking, weights]
        ctx.save_for_backward(k, v, *kept)
        return out.view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        k, v, *kept = ctx.saved_tensors
        B, H, T, D = grads[0].shape
        grad = grads[0].reshape(k.shape[0], -1, T, D)
        to_queries, to_keys, to_values = grad.new_empty(grad.shape), torch.empty_like(k), torch.empty_like(v)
        for index, (begin, end) in reversed(list(enumerate(_stretches(T)))):  # the last one sees all keys
            asking, weights = kept[2 * index : 2 * index + 2]
            part = grad[:, :, begin:end].reshape(k.shape[0], -1, D)
            _gather(to_values, torch.bmm(weights.mT, part), first=end == T)
            to_scores = _softmax_back(torch.bmm(part, v[:, :end].mT), weights, begin, end - begin, D**-0.5)
            to_queries[:, :, begin:end] = torch.bmm(to_scores, k[:, :end]).view(k.shape[0], -1, end - begin, D)
            _gather(to_keys, torch.bmm(to_scores.mT, asking), first=end == T)
        shape = (B, -1, T, D)
        return to_queries.view(B, H, T, D), to_keys.view(shape), to_values.view(shape), None


def _gather(total: torch.Tensor, part: torch.Tensor, first: bool) -> None:
    """Add a part (M, C, D) to the first C of a total (M, T, D); the first part is the total so far."""
    if first:
        total.copy_(part)
    else:
        total[:, : part.shape[1]] += part


STRETCH = 128  # queries; shorter ones make products that are too small to be quick


def _stretches(tokens: int) -> list[tuple[int, int]]:
    """Where stretches of queries begin and end: at most four, of equal length where that is possible."""
    count = max(1, min(4, tokens // STRETCH))
    edges = [tokens * index // count for index in range(count + 1)]
    return list(pairwise(edges))


def _softmax(scores: torch.Tensor, mask: torch.Tensor, first: int, scale: float) -> torch.Tensor:
    """softmax(scale * scores + mask), in place where it can be, of (B, H, R, C): R queries from `first` on, C keys."""
    B, H, R, C = scores.shape
    if not compiled(scores, mask) or kernels.LIBRARY is None:
        return torch.softmax(scores.mul_(scale).add_(mask[:, :, first : first + R, :C]), dim=-1)
    mask = mask.contiguous()
    places = (scores.data_ptr(), mask.data_ptr(), mask.shape[0], B * H, H, R, C, first, mask.shape[-1])
    kernels.LIBRARY.malmoi_softmax(_half(scores), *places, scale, torch.get_num_threads())
    return scores


def _softmax_back(grad: torch.Tensor, weights: torch.Tensor, first: int, queries: int, scale: float) -> torch.Tensor:
    """The gradient of the weights (M, G * queries, C) turned into that of the products, in place."""
    if not compiled(grad, weights) or kernels.LIBRARY is None:
        return torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype).mul_(scale)
    columns = grad.shape[-1]
    places = (grad.data_ptr(), weights.data_ptr(), grad.numel() // (queries * columns), queries, columns, first)
    kernels.LIBRARY.malmoi_softmax_back(_half(grad), *places, scale, torch.get_num_threads())
    return grad


def surprise(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """-log p of the targets (N,) in float32; the logits (N, V) become the gradient of their sum. `compiled` first.

    Raises `MalmoiError` for a target that is no token: what is compiled writes where it is told.
    """
    assert kernels.LIBRARY is not None
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        wrong = int(targets.max()) if int(targets.max()) >= logits.shape[1] else int(targets.min())
        raise MalmoiError(f"The label {wrong} is outside the model's vocabulary, 0 to {logits.shape[1] - 1}.")
    losses = torch.empty(len(targets), dtype=torch.float32)
    places = (logits.data_ptr(), targets.contiguous().data_ptr(), losses.data_ptr())
    kernels.LIBRARY.malmoi_surprise(_half(logits), *places, *logits.shape, smoothing, torch.get_num_threads())
    return losses
