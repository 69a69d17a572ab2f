"""One step of learning, and one measurement, by many processes together: `step.py` and `loss.evaluate` for a cluster.

Every process reads its own rows of the same batches, in the order that one process would read them, and takes part in
every exchange. What a step reports (loss, gradient norm, targets) is that of the whole batch, the same on all of them,
so all come to the same decisions. A signal that one process hears is told to the others in the step's first exchange.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from malmoi import randomness
from malmoi.train.interruption import Interruption
from malmoi.train.loss import HeldOut, bits_per_byte
from malmoi.train.parallel import Parts
from malmoi.train.pipeline_parallel import Pipeline
from malmoi.train.sharded_optimizer import ShardedOptimizers
from malmoi.train.step import StepResult, seed_torch
from malmoi.train.tensor_parallel import own_tokens


class SharedInterruption(Interruption):
    """An interruption that counts when all processes know of it: `requested` changes only in `agree`."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to all and torchrun passes it on, so it comes twice: the second one is the same one.
        self.heard = True


class Team:
    """The processes of a job at work on one model: this one's `parts` of it and the way batches go through them."""

    def __init__(self, parts: Parts, pieces: int, rows: int, tokens: int, dtype: torch.dtype = torch.float32) -> None:
        """`pieces` micro-batches a step, of `rows` rows of `tokens` tokens, all processes together."""
        self.parts, self.grid, self.pieces = parts, parts.grid, pieces
        self.device = next(parts.model.parameters()).device
        config, grid = parts.model.config, parts.grid
        self.pipeline: Pipeline | None = None
        if grid.pipeline > 1:
            shape = (rows // grid.rows, tokens // grid.tensor, config.hidden_size)
            self.pipeline = Pipeline(parts.stages, grid, parts.mesh["pipeline"], pieces, shape, dtype)
        self.interruption = SharedInterruption()

    # ---- learning -------------------------------------------------------------------------------------------------

    def step(
        self,
        model: Any,
        optimizer: ShardedOptimizers,
        micro_batches: Sequence[Any],
        *,
        learning_rate_factor: float,
        max_grad_norm: float,
        precision: Any,
        seed: int,
        step: int,
        loss_limit: float = math.inf,
        label_smoothing: float = 0.0,
    ) -> StepResult:
        """`step.optimizer_step`, with the same signature and the same result, on all processes at once."""
        targets = self._whole_batch([batch.num_target_tokens for batch in micro_batches])
        whole = sum(targets)
        seed_torch(self.device, randomness.key(seed, "dropout", step, dist.get_rank()))
        loss = self._gather_gradients(micro_batches, targets, label_smoothing)
        dist.all_reduce(loss)  # the parts are of different tokens
        self.parts.sync()
        optimizer.collect()
        mean, grad_norm = torch.stack([loss, optimizer.grad_norm()]).tolist()
        applied = math.isfinite(mean) and math.isfinite(grad_norm) and mean <= loss_limit and whole > 0
        if applied:
            if max_grad_norm and grad_norm > max_grad_norm:
                optimizer.scale_gradients(max_grad_norm / (grad_norm + 1e-6))
            optimizer.set_learning_rate_factor(learning_rate_factor)
            optimizer.step()
        optimizer.zero_grad()
        tokens = sum(batch.input_ids.numel() for batch in micro_batches) * self.grid.rows
        return StepResult(mean, grad_norm, whole, tokens, applied)

    def _whole_batch(self, own: list[int]) -> list[int]:
        """The targets of each micro-batch, all processes' rows together; and whether anyone heard a signal."""
        counts = torch.tensor([*own, int(self.interruption.heard)], device=self.device)
        dist.all_reduce(counts)
        *targets, heard = counts.tolist()
        self.interruption.requested = bool(heard)
        again = self.grid.pipeline * self.grid.tensor  # so many processes read the same rows
        return [count // again for count in targets]

    def _gather_gradients(self, micro_batches: Sequence[Any], targets: list[int], label_smoothing: float) -> Tensor:
        """Forward and backward over all micro-batches: this process's part of the mean loss, a scalar tensor."""
        whole = max(sum(targets), 1)
        given = [self._rows(batch, count / whole) for batch, count in zip(micro_batches, targets, strict=True)]
        for stage in self.parts.stages.values():
            stage.label_smoothing = label_smoothing
        if self.pipeline is not None:
            together = {name: torch.cat([rows[name] for rows in given]) for name in given[0]}
            return self.pipeline.learn(together, whole)
        (stage,) = self.parts.stages.values()
        loss = torch.zeros((), device=self.device)
        for rows in given:
            part = stage(**rows).sum() / whole
            part.backward()
            loss += part.detach()
        return loss

    def _rows(self, batch: Any, share: float = 0.0) -> dict[str, Tensor]:
        """What a stage reads of a batch that holds `share` of the step's targets."""
        mesh, config = self.parts.mesh["tensor"], self.parts.model.config
        layers = config.num_hidden_layers
        # A process's balance loss is a mean over its own tokens; the mean over all is what counts.
        weight = config.router_aux_loss_coef * share / (layers * self.grid.rows * self.grid.tensor)
        return {
            "x": batch.input_ids.to(self.device),
            "position_ids": batch.position_ids.to(self.device),
            "document_ids": batch.document_ids.to(self.device),
            "labels": own_tokens(batch.labels.to(self.device), mesh),
            "balance_weight": torch.tensor([weight], dtype=torch.float64),
        }

    # ---- measuring ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Any]) -> HeldOut:
        """`loss.evaluate` over whole batches, dealt out to those who read different rows; the result is everyone's."""
        was_training = self.parts.model.training
        self.parts.model.eval()
        parts, mine = self.grid.rows, self.grid.rows_of(dist.get_rank())
        rounds = -(-len(batches) // parts)
        # All take part in the same number of passes: who has no batch left goes through one again, for nothing.
        chosen = [mine + turn * parts for turn in range(rounds)]
        counts = [float(number < len(batches)) for number in chosen]
        rows = [self._rows(batches[min(number, len(batches) - 1)]) for number in chosen]
        if self.pipeline is not None:
            nats = self.pipeline.measure(rows)
        else:
            (stage,) = self.parts.stages.values()
            nats = [stage(**given) for given in rows]
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        for found, count in zip(nats, counts, strict=True):
            total += found.double() * count
        dist.all_reduce(total)
        self.parts.model.train(was_training)
        self.parts.reshard()
        tokens = sum(batch.num_target_tokens for batch in batches)
        sizes = [getattr(batch, "num_bytes", None) for batch in batches]
        num_bytes = sum(size or 0 for size in sizes)
        loss = float(total) / tokens if tokens else math.nan
        counted = None not in sizes and num_bytes
        return HeldOut(loss, bits_per_byte(float(total), num_bytes) if counted else None, tokens)
