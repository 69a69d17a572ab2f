"""Expert parallelism: the experts of a layer live on different processes, and tokens travel to them and back.

    own tokens, sorted by expert -> sent to the experts' owners -> computed there -> sent back -> weighted and summed

An expert then sees the tokens of all `expert` processes at once, so its gradient is already the sum over them and is
added up only over the other axes. This file also mends the one thing that a cut batch would change: the balance loss
asks how often each expert was chosen in the *whole* batch, so the counts are added up over all processes that hold
other tokens of it.

C choices of this process's tokens, E experts, D hidden size, P processes that share the experts
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh

from malmoi.model.experts import Experts


def cut(layer: Experts, mesh: DeviceMesh) -> list[nn.Parameter]:
    """Keep only this process's experts in `layer` and send tokens to where the others are; its cut parameters."""
    weights, parts, mine = layer.experts, mesh.size(), mesh.get_local_rank()
    own = []
    for name, parameter in list(weights.named_parameters()):
        part = nn.Parameter(parameter.data.chunk(parts)[mine].clone(), requires_grad=parameter.requires_grad)
        setattr(weights, name, part)
        own.append(part)
    inner, group = weights.forward, mesh.get_group()

    def compute(rows: Tensor, sizes: list[int]) -> Tensor:
        # The experts' weights stay in float32 (FSDP, which rounds all others, does not know of them).
        with torch.autocast(rows.device.type, dtype=rows.dtype, enabled=rows.dtype != torch.float32):
            return inner(rows, sizes)

    def forward(rows: Tensor, sizes: list[int]) -> Tensor:
        return _visit(compute, rows, sizes, group)

    weights.forward = forward
    return own


def _visit(experts: Any, rows: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Send rows (C, D), sorted by expert, to their experts' processes, run `experts` there, and bring results back."""
    parts = group.size()
    sent = torch.tensor(sizes, device=rows.device).view(parts, -1)  # (P, E / P) rows for each expert of each process
    received = torch.empty_like(sent)  # (P, E / P) rows from each process for each of my experts
    dist.all_to_all_single(received, sent, group=group)
    outward, inward = sent.sum(dim=1).tolist(), received.sum(dim=1).tolist()
    arrived = all_to_all_single_autograd(rows.contiguous(), inward, outward, group)
    # They come sorted by sender, then expert; the experts want them by expert.
    kinds = torch.arange(received.numel(), device=rows.device) % received.shape[1]
    order = torch.repeat_interleave(kinds, received.flatten()).argsort(stable=True)
    if len(order):
        results = experts(arrived[order], received.sum(dim=0).tolist())
        results = torch.empty_like(results).index_copy(0, order, results)
    else:  # nobody chose my experts; the way back must still go through this process
        results = arrived
    return all_to_all_single_autograd(results.contiguous(), outward, inward, group)


class _Ask(torch.autograd.Function):
    """Hand `x` through; on the way back let `weight` times the gradient of `balance` join in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, balance: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.dtype = weight, balance.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], gradients[0].new_tensor(ctx.weight, dtype=ctx.dtype), None


class Balance:
    """The balance loss of a batch that is spread over the processes of `group`.

    `weight` is what the next pass's balance loss counts, set before the pass. It joins the gradients where it arises,
    in the layer, so that it also works where a process never sees the loss itself.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.weight = 0.0

    def watch(self, layer: Experts) -> None:
        """Take over the balance loss of a layer."""
        seen: list[Tensor] = []

        def look(_module: nn.Module, _given: Any, probabilities: Any) -> None:
            seen.append(probabilities)

        layer.router.register_forward_hook(look)

        def join(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
            probabilities = seen.pop()
            layer.balance = None
            if not layer.training or not torch.is_grad_enabled():
                return output
            return _Ask.apply(output, self._loss(probabilities.flatten(0, -2), layer.per_token), self.weight)

        layer.register_forward_hook(join)

    def _loss(self, probabilities: Tensor, per_token: int) -> Tensor:
        """This process's part (the mean over the processes is the whole) from its own probabilities (N, E)."""
        number = probabilities.shape[1]
        counts = probabilities.topk(per_token, dim=-1).indices.flatten().bincount(minlength=number)
        dist.all_reduce(counts, group=self.group)
        share = counts.to(probabilities.dtype) / counts.sum()
        return number * (share * probabilities.mean(dim=0)).sum()
