"""What a model's matrices are given when it reads: the sums of products that `gptq` rounds by.

The text goes through the model block by block. Each block is first looked at as it is, to sum up what its matrices are
given; then they are rounded, and the text goes on through the rounded block, so that the next one is rounded for the
inputs that it will really have and makes good what the earlier ones lost.

Where there is no text, what the model itself says at temperature 1 serves as well: it is a sample of what it has
learned.

B sequences, T tokens, K inputs, E experts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from malmoi.config import MalmoiError
from malmoi.model.experts import ExpertWeights
from malmoi.native.gptq import lost, round_by_products
from malmoi.native.interface import Kind
from malmoi.native.packed import Packed, pack, unpack
from malmoi.native.rounding import round_int4, round_int8

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel

TOKENS = 32_768  # read for calibration: enough to know a matrix of some thousand inputs
FEWEST = 512  # tokens, below which the sums say more about the text than about the model
_BATCH = 4096  # tokens that go through a block together


@dataclass
class Rounded:
    """The matrices of a model by name, packed; and for each, the share of its outputs' square that rounding lost."""

    matrices: dict[str, Packed] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)


def round_nearest(weight: NDArray[np.float32], kind: Kind) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """Without knowing what comes in: the nearest whole numbers, with the best of several scales."""
    return round_int8(weight) if kind == Kind.INT8 else round_int4(weight)


@torch.no_grad()
def calibrated(
    model: GPT4LMHeadModel, kind: Kind, ids: Tensor, progress: Callable[[int, int], None] = lambda done, total: None
) -> Rounded:
    """Round the matrices of all blocks, int8 or int4, for the sequences `ids` (B, T).

    The model is the same afterwards. `progress(blocks done, blocks)`. Experts are rounded each for the tokens that were
    sent to it. Raises `MalmoiError` for too few tokens.
    """
    if ids.numel() < FEWEST:
        raise MalmoiError(
            f"{ids.numel():,} tokens are too few to round by. Give a text of at least {FEWEST:,} tokens, or none."
        )
    was_training = model.training
    model.eval()
    found = Rounded()
    try:
        with _entered(model, ids) as (stream, rest):
            for number, block in enumerate(model.model.layers):
                _round_block(block, f"model.layers.{number}", kind, stream, rest, found)
                progress(number + 1, len(model.model.layers))
    finally:
        model.train(was_training)
    return found


class _EnteredError(Exception):
    """Raised inside the first block: nothing after it is wanted."""


@contextmanager
def _entered(model: GPT4LMHeadModel, ids: Tensor) -> Iterator[tuple[list[Tensor], list[tuple[Any, ...]]]]:
    """What the first block is given: the streams of some sequences at a time, and its other arguments."""
    stream: list[Tensor] = []
    rest: list[tuple[Any, ...]] = []

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        stream.append(given[0])
        rest.append(given[1:])
        raise _EnteredError

    handle = model.model.layers[0].register_forward_pre_hook(enter)
    try:
        for some in ids.split(max(1, _BATCH // ids.shape[1])):
            try:
                model.hidden_states(some.to(model.device))
            except _EnteredError:
                continue
    finally:
        handle.remove()
    yield stream, rest


def _round_block(
    block: nn.Module, stem: str, kind: Kind, stream: list[Tensor], rest: list[tuple[Any, ...]], found: Rounded
) -> None:
    """Round one block's matrices, and put the stream as it leaves the rounded block in the place of what came in."""
    sums: dict[str, Tensor] = {}
    with _watched(block, sums):
        for x, others in zip(stream, rest, strict=True):
            block(x, *others)
    kept: dict[str, Tensor] = {}
    parameters = {name: parameter for name, parameter in block.named_parameters() if _is_rounded(name, parameter)}
    try:
        for name, parameter in parameters.items():
            weight = parameter.float().cpu().numpy()
            packed, share = _round_one(weight, kind, sums, name)
            found.matrices[f"{stem}.{name}"], found.lost[f"{stem}.{name}"] = packed, share
            kept[name] = parameter.detach().clone()
            parameter.copy_(torch.from_numpy(unpack(packed, weight.shape)))
        for place, (x, others) in enumerate(zip(stream, rest, strict=True)):
            stream[place] = block(x, *others)
    finally:
        for name, own in kept.items():
            parameters[name].copy_(own)


def _is_rounded(name: str, parameter: Tensor) -> bool:
    """The matrices; not the routers of experts (`mlp.gate`), whose near ties would tip."""
    return parameter.ndim >= 2 and name.endswith(("proj.weight", "_proj"))


def _round_one(weight: NDArray[np.float32], kind: Kind, sums: Mapping[str, Tensor], name: str) -> tuple[Packed, float]:
    """A matrix (N, K), or each of experts (E, N, K)."""
    if weight.ndim == 2:
        products = sums[name]
        codes, scales = round_by_products(weight, products, kind)
        packed = pack(kind, codes, scales)
        return packed, lost(weight, unpack(packed, weight.shape), products)
    rounded = []
    for expert, one in enumerate(weight):
        products = sums.get(f"{name}.{expert}")  # an expert that no token was sent to has none
        rounded.append(round_nearest(one, kind) if products is None else round_by_products(one, products, kind))
    packed = pack(kind, np.stack([codes for codes, _ in rounded]), np.stack([scales for _, scales in rounded]))
    numbers = unpack(packed, weight.shape)
    shares = [
        lost(one, numbers[expert], sums[f"{name}.{expert}"])
        for expert, one in enumerate(weight)
        if f"{name}.{expert}" in sums
    ]
    return packed, float(np.mean(shares)) if shares else 0.0


@contextmanager
def _watched(block: nn.Module, sums: dict[str, Tensor]) -> Iterator[None]:
    """Sum the products of the inputs of every matrix, by the name of its parameter."""
    handles = []
    sizes: dict[str, list[int]] = {}  # how many of its rows each expert got

    def add(name: str, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        products = (rows.T @ rows).double()
        sums[name] = sums[name] + products if name in sums else products

    def linear(name: str) -> Callable[..., None]:
        return lambda module, given: add(f"{name}.weight", given[0])

    def experts(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Tensor, list[int]]) -> None:
            rows, sizes[name] = given
            for expert, own in enumerate(rows.split(sizes[name])):
                if len(own):
                    add(f"{name}.up_proj.{expert}", own)
                    sums[f"{name}.gate_proj.{expert}"] = sums[f"{name}.up_proj.{expert}"]

        return see

    def fired(name: str) -> Callable[..., None]:
        def see(tap: nn.Module, given: tuple[Tensor, ...]) -> None:
            for expert, own in enumerate(given[0].split(sizes[name])):
                if len(own):
                    add(f"{name}.down_proj.{expert}", own)

        return see

    try:
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear) and name.endswith("proj"):
                handles.append(module.register_forward_pre_hook(linear(name)))
            elif isinstance(module, ExpertWeights):
                handles.append(module.register_forward_pre_hook(experts(name)))
                handles.append(module.hidden.register_forward_pre_hook(fired(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
