"""From gradients to new weights: Muon for the hidden matrices, AdamW for everything else.

AdamW (Loshchilov & Hutter 2019) scales each number of a gradient by its own running size. Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/) treats a hidden matrix as what it is, a linear map: the momentum matrix is
replaced by the nearest orthogonal one, so that every direction of the update has the same size and rare directions
learn as fast as common ones. Embeddings, head, norms and biases are not such maps and stay with AdamW.

Weight decay is decoupled (`w -= lr * weight_decay * w`) and touches the hidden matrices only.

G matrices of one shape, R rows <= C columns after transposition of the tall ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.average import AVERAGE, UPDATES, Average
from malmoi.train.update_rule import AdamW, UpdateRule

# One call for many tensors: torch exports them with an underscore only, but its own optimizers stand on them.
_foreach_lerp_ = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
_foreach_mul_ = torch._foreach_mul_  # pyright: ignore[reportPrivateImportUsage]
_foreach_norm = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]

# Quintic whose iteration drives every singular value of a matrix of norm <= 1 into about [0.7, 1.2] within five rounds.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Rounds on the squares R x R alone, where these are large enough to be worth more calls and the matrix is wide enough.
FEWEST_ROWS, WIDE = 128, 2
STRIPE = 192  # rows of a symmetric product that are computed together; what lies below its diagonal is copied


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearest-orthogonal matrices (roughly U V^T of the singular value decomposition) of a (G, R, C) batch, R <= C.

    Five Newton-Schulz rounds of products only: no decomposition, so it runs at the speed of matrix multiplication and
    half-precision is enough. A zero matrix stays zero.

    A round multiplies X by a polynomial of X X^T. All these polynomials are symmetric and commute, so in float32 a wide
    matrix is looked at twice only: once for X X^T, and once to be multiplied by the product of all five polynomials,
    which is found among squares; and of large symmetric products one half is computed. Half-precision keeps to the
    rounds as written: small singular values lie deeper in X X^T than it has digits, and halves were not timed there.
    """
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    exact, (_, rows, columns) = x.element_size() >= 4, x.shape
    if exact and rows >= FEWEST_ROWS and columns >= WIDE * rows:
        return torch.bmm(_all_rounds(_symmetric(x, x.mT)), x)
    a, b, c = QUINTIC
    product = _symmetric if exact else _product
    for _ in range(ROUNDS):
        gram = product(x, x.mT)  # (G, R, R)
        polynomial = product(gram, gram, gram, b, c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _all_rounds(gram: Tensor) -> Tensor:
    """What all rounds together multiply X by, from X X^T (G, R, R)."""
    a, b, c = QUINTIC
    whole = None
    for last in (*[False] * (ROUNDS - 1), True):
        polynomial = _symmetric(gram, gram, gram, b, c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        whole = polynomial if whole is None else _symmetric(polynomial, whole)
        if not last:
            gram = _symmetric(_symmetric(polynomial, gram), polynomial)
    assert whole is not None
    return whole


def _product(left: Tensor, right: Tensor, plus: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """`beta * plus + alpha * left @ right`."""
    return torch.bmm(left, right) if plus is None else torch.baddbmm(plus, left, right, beta=beta, alpha=alpha)


def _symmetric(
    left: Tensor, right: Tensor, plus: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """The same where the result is known to be symmetric: of a large one half is computed, stripe by stripe."""
    rows = left.shape[1]
    stripes = rows // STRIPE
    if stripes < 2:
        return _product(left, right, plus, beta, alpha)
    found = left.new_empty(left.shape[0], rows, rows)
    edges = [rows * number // stripes for number in range(stripes + 1)]
    for begin, end in pairwise(edges):
        above = None if plus is None else plus[:, begin:end, begin:]
        stripe = _product(left[:, begin:end], right[:, :, begin:], above, beta, alpha)
        found[:, begin:end, begin:] = stripe
        found[:, end:, begin:end] = stripe[:, :, end - begin :].mT
    return found


class Muon(UpdateRule):
    """Momentum, orthogonalised by Newton-Schulz, for matrices (R, C) or stacks of matrices (E, R, C).

    The update of a matrix with r rows (outputs) and c columns (inputs) is scaled by sqrt(max(1, r / c)), Jordan's rule:
    a step of learning rate `lr` changes the map's output by about `lr` whatever the shape, so one
    `matrix_learning_rate` serves every layer and width. (The other common rule, 0.2 * sqrt(max(r, c)), imitates AdamW's
    step size and wants AdamW's learning rate instead.)

    Matrices of equal shape (up to transposition) are orthogonalised in one batch.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.compute_dtype = compute_dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim not in (2, 3):
                    raise MalmoiError(f"Muon is for matrices, not for a parameter of shape {tuple(parameter.shape)}.")

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient. Gradients are used up (overwritten)."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients: list[Tensor] = [parameter.grad for parameter in parameters]
            momenta = [self._momentum(parameter) for parameter in parameters]
            _foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            _foreach_lerp_(gradients, momenta, group["momentum"])  # Nesterov: look ahead along the momentum
            if group["weight_decay"]:
                _foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for members in self._batches(parameters):
                self._update([parameters[i] for i in members], [gradients[i] for i in members], group["lr"])

    def _batches(self, parameters: list[Tensor]) -> list[list[int]]:
        """Which parameters are updated together."""
        return _by_shape(parameters)

    def _update(self, parameters: list[Tensor], directions: list[Tensor], lr: float) -> None:
        wide = [direction.mT if direction.shape[-2] > direction.shape[-1] else direction for direction in directions]
        # (G, R, C): a stack of experts contributes each of its matrices.
        batch = torch.cat([matrix.reshape(-1, *matrix.shape[-2:]).to(self.compute_dtype) for matrix in wide])
        counts = [math.prod(matrix.shape[:-2]) for matrix in wide]
        for parameter, update in zip(parameters, orthogonalize(batch).split(counts), strict=True):
            rows, columns = parameter.shape[-2:]
            update = update.mT if rows > columns else update
            parameter.add_(update.reshape(parameter.shape), alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return state["momentum_buffer"]


def _by_shape(parameters: list[Tensor]) -> list[list[int]]:
    """Indices of the parameters, gathered by their last two dimensions without regard to order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, parameter in enumerate(parameters):
        groups.setdefault(tuple(sorted(parameter.shape[-2:])), []).append(index)
    return list(groups.values())


class Optimizers:
    """Several torch optimizers that together own every trainable parameter, each parameter once.

    Learning rates are set from outside for each step (`base * factor`), so they are no part of the state.
    """

    def __init__(self, members: list[UpdateRule], names: dict[Tensor, str], average: Average | None = None) -> None:
        self.members = members
        self.names = names  # parameter -> its name in the model
        self.average = average  # of the weights; part of the state, but of no update

    def parameters(self) -> Iterator[Tensor]:
        for member in self.members:
            for group in member.param_groups:
                yield from group["params"]

    def set_learning_rate_factor(self, factor: float) -> None:
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = group["base_lr"] * factor

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters() if parameter.grad is not None]

    def grad_norm(self) -> Tensor:
        """Length of all gradients laid end to end: a scalar tensor, so that the caller chooses when to wait for it."""
        return torch.linalg.vector_norm(torch.stack([norm.float() for norm in _foreach_norm(self.gradients())]))

    def scale_gradients(self, factor: float) -> None:
        _foreach_mul_(self.gradients(), factor)

    def step(self) -> None:
        for member in self._stateful():
            member.step()

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    def _stateful(self) -> list[UpdateRule]:
        return [*self.members, *([self.average] if self.average is not None else [])]

    def expected_bytes(self) -> int:
        """What the whole state will take once the first step is done: one float32 tensor for Muon, two for AdamW."""
        kinds = {Muon: 1, Average: 1}
        return sum(
            4 * parameter.numel() * kinds.get(type(member), 2)
            for member in self._stateful()
            for group in member.param_groups
            for parameter in group["params"]
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors, `<parameter>:<state>`: what a checkpoint writes, without pickle."""
        return {
            f"{self.names[parameter]}:{key}": value
            for member in self._stateful()
            for parameter, entries in member.state.items()
            for key, value in entries.items()
            if isinstance(value, Tensor)
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take the state back, bit for bit. Raises `MalmoiError` if it belongs to other parameters."""
        owner = {
            (self.names[parameter], member is self.average): (member, parameter)
            for member in self._stateful()
            for group in member.param_groups
            for parameter in group["params"]
        }
        for member in self._stateful():
            member.state.clear()
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition(":")
            place = (name, key in (AVERAGE, UPDATES))
            if place not in owner:
                missing = "no average is kept (ema_decay: 0)" if place[1] else f"the model has no parameter '{name}'"
                raise MalmoiError(f"The optimizer state holds '{full_name}', but {missing}.")
            member, parameter = owner[place]
            if tensor.ndim and tensor.shape != parameter.shape:
                raise MalmoiError(
                    f"The optimizer state '{full_name}' has shape {tuple(tensor.shape)}, but the parameter has "
                    f"{tuple(parameter.shape)}."
                )
            on_cpu = key == UPDATES  # a counter that nobody waits for
            device = torch.device("cpu") if on_cpu else parameter.device
            member.state[parameter][key] = tensor.to(device, copy=True)


def is_hidden_matrix(model: nn.Module) -> dict[str, bool]:
    """For each trainable parameter: is it a matrix between hidden activations (Muon, weight decay) or not?

    Not: whatever an `nn.Embedding` owns (looked up, not multiplied), the head `lm_head` (its outputs are separate
    words), and vectors (norms, biases; the biases of a layer's experts are a stack of vectors).
    """
    embedded = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    return {
        name: parameter.ndim >= 2
        and id(parameter) not in embedded
        and not name.startswith("lm_head.")
        and not name.endswith("bias")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def build(
    model: nn.Module, config: TrainConfig, muon_dtype: torch.dtype = torch.float32, muon: type[Muon] = Muon
) -> Optimizers:
    """The optimizers of a run: `config.optimizer` for the hidden matrices, AdamW for the rest.

    `muon_dtype` is what the orthogonalisation computes in; momentum and weights stay as they are.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not named:
        raise MalmoiError("The model has no trainable parameter: every one has requires_grad=False.")
    hidden = is_hidden_matrix(model)
    matrices = [parameter for name, parameter in named.items() if hidden[name]]
    others = [parameter for name, parameter in named.items() if not hidden[name]]
    members: list[UpdateRule] = []
    adamw_groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if config.optimizer == "muon" and matrices:
        members.append(
            muon(
                matrices,
                lr=config.matrix_learning_rate,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                compute_dtype=muon_dtype,
            )
        )
    else:
        adamw_groups.append({"params": matrices, "weight_decay": config.weight_decay})
    adamw_groups = [group for group in adamw_groups if group["params"]]
    if adamw_groups:
        members.append(
            AdamW(
                adamw_groups,
                lr=config.learning_rate,
                betas=(config.adam_beta1, config.adam_beta2),
                eps=config.adam_epsilon,
            )
        )
    for member in members:
        for group in member.param_groups:
            group["base_lr"] = group["lr"]
    average = Average(named.values(), config.ema_decay) if config.ema_decay else None
    return Optimizers(members, {parameter: name for name, parameter in named.items()}, average)
