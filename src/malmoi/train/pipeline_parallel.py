"""Pipeline parallelism: the layers cut into consecutive stages that work like an assembly line.

A batch goes through in pieces. While one stage works on a piece, the stage before it works on the next, and the way
back interleaves with the way forward (one forward, one backward: Narayanan et al. 2019 and 2021), so that few
activations wait at any time. The pieces are the micro-batches of `gradient_accumulation_steps`: an assembly line of one
stage *is* gradient accumulation, and the same code path serves both.

A `Stage` is the model's own `Decoder` with the parts that lie elsewhere taken out: the first one embeds, the last one
normalises and scores. `torch.distributed.pipelining` says who works on what, and carries activations and gradients.

B rows, T tokens of a row that this process holds (a part of them under tensor parallelism), D hidden size
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from malmoi.model.attention import Sight
from malmoi.model.block import Block
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train.expert_parallel import Balance
from malmoi.train.layout import Layout, layers_of
from malmoi.train.loss import token_cross_entropy


class Span(nn.ModuleDict):
    """Some of a model's layers, under the numbers that they have in the whole."""

    def __iter__(self) -> Any:  # the decoder goes through its layers, not through their names
        return iter(self.values())


class Stage(nn.Module):
    """Consecutive layers of a model; the first stage also embeds, the last one also scores.

    The parts are those of `model` (not copies). Token ids or activations in; activations (B, T, D) out, or on the last
    stage the sum of the losses over this process's tokens, in nats, as a tensor (1,).
    """

    def __init__(self, model: GPT4LMHeadModel, numbers: range, balance: Balance | None) -> None:
        super().__init__()
        whole = model.model
        self.first, self.last = numbers[0] == 0, numbers[-1] == model.config.num_hidden_layers - 1
        self.decoder = copy.copy(whole)
        span = Span({str(number): whole.layers[number] for number in numbers})
        self.decoder._modules = {**whole._modules, "layers": span}
        if not self.first:
            self.decoder._modules |= {"embed_tokens": nn.Identity(), "dropout": nn.Identity()}
            self.decoder._modules |= {"embed_positions": None, "embed_ngrams": None}
        if not self.last:
            self.decoder._modules["norm"] = nn.Identity()
        self.lm_head = model.lm_head if self.last else None
        self.balance = balance
        self.label_smoothing = 0.0

    def blocks(self) -> list[Block]:
        return list(self.decoder.layers)  # pyright: ignore[reportReturnType]

    def forward(
        self, x: Tensor, position_ids: Tensor, document_ids: Tensor, labels: Tensor, balance_weight: Tensor
    ) -> Tensor:
        if self.balance is not None:
            self.balance.weight = float(balance_weight)
        sight = Sight(position_ids.shape[1], 0, self.decoder.windows, x.device, None, document_ids)
        hidden = self.decoder(x, position_ids, sight, None)
        if self.lm_head is None:
            return hidden
        return torch.stack([token_cross_entropy(hidden, labels, self.lm_head, self.label_smoothing)[0]])


def split(model: GPT4LMHeadModel, grid: Layout, position: int, balance: Balance | None) -> dict[int, Stage]:
    """Cut `model` down to what the process at `position` of the pipeline holds; its stages by their numbers.

    Parameters keep the names that they have in the whole model.
    """
    whole = model.config.num_hidden_layers
    numbers = range(position, grid.stages, grid.pipeline)  # interleaved: every `pipeline`-th stage
    stages = {number: Stage(model, layers_of(number, grid, whole), balance) for number in numbers}
    if grid.pipeline > 1:
        mine = {str(layer): model.model.layers[layer] for number in numbers for layer in layers_of(number, grid, whole)}
        model.model._modules["layers"] = Span(mine)
        if 0 not in stages:
            model.model._modules |= {"embed_tokens": None, "embed_positions": None, "embed_ngrams": None}
        if grid.stages - 1 not in stages:
            model._modules["lm_head"] = None
            model.model._modules["norm"] = None
        elif model.config.tie_word_embeddings and 0 not in stages:
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # a copy, kept equal by its sums
    return stages


class Pipeline:
    """The stages of one process and the plan by which pieces go through them."""

    def __init__(
        self,
        stages: dict[int, Stage],
        grid: Layout,
        mesh: DeviceMesh,
        pieces: int,
        shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`mesh` is the pipeline's axis; `shape` (B, T, D) and `dtype` those of an activation of this process."""
        # Imported here: it brings torch's compiler along, which takes seconds that only a pipeline should pay.
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

        self.stages, self.grid = stages, grid
        self.group, self.shape, self.dtype = mesh.get_group(), shape, dtype
        device = next(next(iter(stages.values())).parameters()).device
        B, T, D = shape
        parts = []
        for number, stage in stages.items():
            hidden = torch.empty(B, T, D, device="meta", dtype=dtype, requires_grad=True)
            ids = torch.empty(B, T * grid.tensor, dtype=torch.long, device="meta")
            out = torch.empty(1, device="meta", requires_grad=True) if stage.last else hidden
            parts.append(
                PipelineStage(
                    stage,
                    number,
                    grid.stages,
                    device,
                    input_args=(ids if stage.first else hidden,),
                    output_args=(out,),
                    group=self.group,
                )
            )
        plan = ScheduleInterleaved1F1B if grid.stages > grid.pipeline else Schedule1F1B
        given: Any = parts if grid.stages > grid.pipeline else parts[0]
        self.targets = 1
        self.schedule = plan(given, pieces, loss_fn=lambda nats, _: nats.sum() / self.targets, scale_grads=False)

    def learn(self, rows: dict[str, Tensor], targets: int) -> Tensor:
        """Forward and backward of all pieces. `rows` hold all pieces' rows after one another, named as for `Stage`.

        Returns the loss of the last stage divided by `targets`, a scalar tensor; zero on the other processes.
        """
        self.targets = targets
        ids = rows["x"]
        named: dict[str, Any] = {name: rows[name] for name in rows if name != "x"}
        losses: list[Tensor] = []
        given = (ids,) if 0 in self.stages else ()
        if self.grid.stages - 1 in self.stages:
            self.schedule.step(*given, target=rows["labels"], losses=losses, return_outputs=False, **named)
        else:
            self.schedule.step(*given, return_outputs=False, **named)
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=ids.device)

    @torch.no_grad()
    def measure(self, batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        """The summed loss (1,) of each batch on the last stage's process; zeros elsewhere. Any number of rows."""
        results = []
        for rows in batches:
            named = {name: rows[name] for name in rows if name != "x"}
            found = torch.zeros(1, device=rows["x"].device)
            for number, stage in self.stages.items():
                x = rows["x"] if stage.first else self._receive(number - 1, len(rows["x"]), rows["x"].device)
                out = stage(x, **named)
                if stage.last:
                    found = out
                else:
                    dist.send(out.contiguous(), group=self.group, group_dst=(number + 1) % self.grid.pipeline)
            results.append(found)
        return results

    def _receive(self, number: int, rows: int, device: torch.device) -> Tensor:
        x = torch.empty(rows, *self.shape[1:], dtype=self.dtype, device=device)
        dist.recv(x, group=self.group, group_src=number % self.grid.pipeline)
        return x
