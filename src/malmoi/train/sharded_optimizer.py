"""The optimizers of `optimizer.py` over slices: each process updates the numbers that it holds.

AdamW looks at one number at a time, so it runs on a process's own slices as they are. Muon looks at whole matrices: its
momentum is gathered, made orthogonal on every process alike, and each takes its slice of the result. That costs an
exchange of the matrices' size and repeats the orthogonalisation, but it is Muon exactly; experts, which are whole
matrices in a stack, need no exchange where the stack is cut between them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from malmoi.config import TrainConfig
from malmoi.train.average import AVERAGE, UPDATES
from malmoi.train.optimizer import Muon, Optimizers, build, orthogonalize
from malmoi.train.parallel import Parts, local


class ShardedMuon(Muon):
    """Muon on slices; `owners` says which sharded parameter a slice belongs to (none: it is whole)."""

    owners: dict[Tensor, Tensor]

    def _batches(self, parameters: list[Tensor]) -> list[list[int]]:
        return [[index] for index in range(len(parameters))]  # gathered one at a time, in an order that all share

    def _update(self, parameters: list[Tensor], directions: list[Tensor], lr: float) -> None:
        for parameter, direction in zip(parameters, directions, strict=True):
            owner = self.owners[parameter]
            if isinstance(owner, DTensor) and not _cut_between_matrices(owner):
                gathered = DTensor.from_local(
                    direction, owner.device_mesh, owner.placements, shape=owner.shape, stride=owner.stride()
                )
                update = self._orthogonal(gathered.full_tensor())
                whole = [Replicate()] * owner.device_mesh.ndim
                update = DTensor.from_local(update, owner.device_mesh, whole, run_check=False)
                update = update.redistribute(placements=owner.placements).to_local()
            elif direction.numel():
                update = self._orthogonal(direction)
            else:
                continue
            rows, columns = owner.shape[-2:]
            parameter.add_(update.reshape(parameter.shape), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        tall = matrix.shape[-2] > matrix.shape[-1]
        wide = matrix.mT if tall else matrix
        result = orthogonalize(wide.reshape(-1, *wide.shape[-2:]).to(self.compute_dtype)).reshape(wide.shape)
        return (result.mT if tall else result).contiguous()


def _cut_between_matrices(owner: DTensor) -> bool:
    """A stack of matrices of which each process holds some, each whole."""
    return owner.ndim == 3 and all(place.is_replicate() or place.is_shard(0) for place in owner.placements)


class ShardedOptimizers(Optimizers):
    """Optimizers over the slices that this process holds of `parts`' parameters, with the norm over all of them."""

    def __init__(self, whole: Optimizers, parts: Parts) -> None:
        super().__init__(whole.members, {}, whole.average)
        self.parts = parts
        self.owners: dict[Tensor, Tensor] = {}
        self.own_names: dict[Tensor, str] = {}  # on this process; a tied head is saved as the table
        slices: dict[Tensor, Tensor] = {}
        for owner, name in whole.names.items():
            slices[owner] = nn.Parameter(local(owner.detach()))
            self.owners[slices[owner]] = owner
            self.names[slices[owner]] = parts.saved_name(name)
            self.own_names[slices[owner]] = name
        # The average counts its updates beside its first parameter, which is another one on a later pipeline stage.
        told = [next(iter(self.names.values()))]
        dist.broadcast_object_list(told, src=0)
        self.first_name = told[0]
        self.shares = {slices[owner]: parts.share(name, owner) for owner, name in whole.names.items()}
        for member in self._stateful():
            for group in member.param_groups:
                group["params"] = [slices[owner] for owner in group["params"]]
            if isinstance(member, ShardedMuon):
                member.owners = self.owners

    def collect(self) -> None:
        """Take over the gradients of the sharded parameters; after the backward passes and `Parts.sync`."""
        for part, owner in self.owners.items():
            part.grad = None if owner.grad is None else local(owner.grad)

    def grad_norm(self) -> Tensor:
        """Length of the whole model's gradient; a collective call."""
        squares = [
            torch.linalg.vector_norm(part.grad.float()) ** 2 * share
            for part, share in self.shares.items()
            if part.grad is not None
        ]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def zero_grad(self) -> None:
        super().zero_grad()
        for owner in self.owners.values():
            owner.grad = None

    @torch.no_grad()
    def make_state(self, saved: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
        """Make room for a state with these names, of the whole job, as far as it belongs to this process's slices."""
        members = {
            (self.names[part], member is self.average): (member, part)
            for member in self._stateful()
            for group in member.param_groups
            for part in group["params"]
        }
        for member in self._stateful():
            member.state.clear()
        for full_name, (size, dtype) in saved.items():
            name, colon, key = full_name.rpartition(":")
            if key == UPDATES and name == self.first_name:
                name = next(iter(self.names.values()))
            member, part = members.get((name, key in (AVERAGE, UPDATES)), (None, None))
            if not colon or member is None or part is None:
                continue
            member.state[part][key] = torch.zeros_like(part, dtype=dtype) if size else torch.zeros((), dtype=dtype)

    def sharded_state(self) -> dict[str, Tensor]:
        """The state as by `state_tensors`, each tensor as a part of the whole one: what a sharded checkpoint writes."""
        found = {}
        for member in self._stateful():
            for part, entries in member.state.items():
                name, owner = self.own_names[part], self.owners[part]
                for key, value in entries.items():
                    shaped = self.parts.as_sharded(name, owner, value) if value.ndim else value
                    saved = self.first_name if key == UPDATES else self.names[part]
                    found[f"{saved}:{key}"] = shaped
        return found


def build_sharded(parts: Parts, config: TrainConfig, muon_dtype: torch.dtype) -> ShardedOptimizers:
    """`optimizer.build` for a model that was changed by `parallelize`."""
    return ShardedOptimizers(build(parts.model, config, muon_dtype, ShardedMuon), parts)
