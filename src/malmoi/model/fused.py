"""Training on a CPU: the same mathematics as the layers beside this file, with gradients written out by hand.

Left to itself, automatic differentiation stores and re-reads a tensor for every `*` and `+`; on a CPU, where a small
model's time goes into moving memory, that costs more than the matrix products. Here a norm, a rotation, a gate and a
short row's attention are one forward and one backward step each. Nothing else changes: in float64 they agree with the
plain formulas to rounding (a test compares them), and where no gradient is asked for, the plain formulas run.

Attention written out as two batched products beats the library's fused kernel on a CPU in bfloat16 for rows of a few
hundred tokens, because the kernel works in small tiles; its memory grows with the square of the row, so long rows keep
the kernel.

B batch, T tokens, H query heads, K key/value heads, G = H / K, D head size
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function

LONGEST_ROW = 512  # beyond it the (T, T) weights cost more memory traffic than they save
SHORT_ROW_DTYPES = (torch.bfloat16,)  # in float32 the library's kernel is the faster one


def pays(x: torch.Tensor) -> bool:
    """Whether the hand-written steps are the faster ones for this tensor: on a CPU, on the way to a gradient."""
    return x.device.type == "cpu" and x.requires_grad and not torch.compiler.is_compiling()


class RMSNorm(Function):
    """`x / rms(x) * weight` over the last dimension. The sum of squares is taken in at least float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        normed, weight, scale = ctx.saved_tensors
        grad = grads[0]
        size = grad.shape[-1]
        product = (grad * normed).reshape(-1, size)
        along = torch.mv(product, weight).div_(-size).view(scale.shape)  # the part that only changes the length
        return torch.addcmul(grad * weight, normed, along).mul_(scale), product.sum(0), None


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
        opened = F.silu(gate)
        ctx.save_for_backward(gate, up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up, opened = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * opened


class Attend(Function):
    """Softmax attention of q (B, H, T, D) over k, v (B, K, T, D), additive mask (B or 1, 1, T, T), no dropout."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        B, H, T, D = q.shape
        K = k.shape[1]
        q, k, v = (q * D**-0.5).reshape(B * K, -1, D), k.reshape(B * K, T, D), v.reshape(B * K, T, D)
        scores = torch.bmm(q, k.mT).view(B, H, T, T)  # the G queries of a key head lie one after the other
        scores += mask
        weights = torch.softmax(scores, dim=-1).view(B * K, -1, T)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v).view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        B, H, T, D = grads[0].shape
        K = q.shape[0] // B
        grad = grads[0].reshape(B * K, -1, D)
        to_values = torch.bmm(weights.mT, grad)
        to_weights = torch.bmm(grad, v.mT)
        to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_queries = torch.bmm(to_scores, k).mul_(D**-0.5)
        to_keys = torch.bmm(to_scores.mT, q)  # q carries the scale already
        shape = (B, K, T, D)
        return to_queries.view(B, H, T, D), to_keys.view(shape), to_values.view(shape), None
