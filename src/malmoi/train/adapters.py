"""Teaching a finished model something new without changing it: LoRA, and frozen parameters.

Fine-tuning moves every weight a little. Hu et al. (2021, https://arxiv.org/abs/2106.09685) found that the movement of a
matrix needs only a few directions, so it may be written as a product of two thin ones:

    y = W x  +  scale * B (A x)        A: (r, in), B: (out, r), r far smaller than either side

`W` is frozen; `A` starts random and `B` at zero, so that the adapted model begins as exactly the old one. Afterwards
`merge_adapter` adds `scale * B A` to `W`, and the model is an ordinary one again.

All of this is surgery from outside: `add_lora` puts a `LoraLinear` in the place of chosen `nn.Linear`s, and the model,
the training loop and its checkpoints notice nothing.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from malmoi import randomness
from malmoi.config import LoraConfig, MalmoiError, nearest
from malmoi.model.gpt import GPT4LMHeadModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MERGE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of logits, beside the largest of them; others: rounding
ROUNDED_TOLERANCE = 5e-2
CHECKED_TOKENS = 64


WHOLE = "learns_whole"  # an attribute of the modules of modules_to_save


class LoraLinear(nn.Linear):
    """An `nn.Linear` (the same weight, the same name) with a learned addition of rank `r`; any leading shape.

    `lora_A` (r, in) reads, `lora_B` (out, r) writes; `scale` multiplies the addition: alpha / r (Hu et al.), or
    alpha / sqrt(r), with which a large rank keeps learning (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732).
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float, use_rslora: bool = False, dropout: float = 0.0) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias = base.weight, base.bias
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Linear(base.in_features, r, bias=False, **like)
        self.lora_B = nn.Linear(r, base.out_features, bias=False, **like)
        nn.init.zeros_(self.lora_B.weight)
        self.r, self.alpha, self.use_rslora = r, alpha, use_rslora
        self.scale = alpha / (math.sqrt(r) if use_rslora else r)
        self.lora_dropout = nn.Dropout(dropout)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        addition = self.lora_B(self.lora_A(self.lora_dropout(input)))
        return F.linear(input, self.weight, self.bias) + addition * self.scale

    def merged(self) -> nn.Linear:
        """An ordinary layer that computes the same; the product is taken in at least float32."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.no_grad():
            moved = self.lora_B.weight.to(wide) @ self.lora_A.weight.to(wide) * self.scale
            weight = (self.weight.to(wide) + moved).to(self.weight.dtype)
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain


def add_lora(model: GPT4LMHeadModel, config: LoraConfig, seed: int = 0) -> list[str]:
    """Give `model` an adapter, in place, and freeze everything else; returns the names of the adapted layers.

    `config.target_modules` are ends of names (`q_proj`), whole names or patterns (`*.layers.0.*`); empty: every
    projection of attention and dense feed-forward networks. Experts and their routers stay as they are: they are no
    `nn.Linear`s in other libraries, so an adapter for them would not travel. The first `A` of each layer is a function
    of the seed and of its name. Raises `MalmoiError` for a target that names no such layer, with the nearest name.
    """
    if adapted(model):
        raise MalmoiError("The model has an adapter already. Merge it first (merge_adapter), then add another one.")
    layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    names = _targets(model, layers, config.target_modules)
    whole = whole_modules(model, config.modules_to_save)
    for name in names:
        if any(f"{name}.".startswith(f"{module}.") for module in whole):
            raise MalmoiError(
                f"modules_to_save and target_modules both name {name}; a layer learns one way or another."
            )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in names:
        layer = put_lora(model, name, config.r, config.lora_alpha, config.use_rslora, config.lora_dropout)
        _initialize(layer.lora_A, seed, f"{name}.lora_A.weight")
    let_learn_whole(model, whole)
    return names


def put_lora(
    model: nn.Module, name: str, r: int, alpha: float, use_rslora: bool = False, dropout: float = 0.0
) -> LoraLinear:
    """Replace the `nn.Linear` called `name` by a `LoraLinear` around it."""
    base = model.get_submodule(name)
    assert isinstance(base, nn.Linear)
    layer = LoraLinear(base, r, alpha, use_rslora, dropout).train(base.training)
    layer.weight.requires_grad_(False)
    _replace(model, name, layer)
    return layer


def let_learn_whole(model: nn.Module, names: Iterable[str]) -> None:
    """Mark modules as learned with all their numbers, so that they are saved with the adapter."""
    for name in names:
        module = model.get_submodule(name)
        setattr(module, WHOLE, True)
        module.requires_grad_(True)


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by name; empty for an ordinary model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def whole_modules(model: nn.Module, ends: Iterable[str]) -> list[str]:
    """The modules whose names are, or end with, one of `ends` (PEFT's rule for modules_to_save, at whole words)."""
    names = [name for name, module in model.named_modules() if name and next(module.parameters(), None) is not None]
    found: list[str] = []
    for end in ends:
        fitting = [name for name in names if f".{name}".endswith(f".{end}")]
        if not fitting:
            short = {name.rpartition(".")[2] for name in names}
            raise MalmoiError(f"modules_to_save: the model has no module '{end}'.{nearest(end, [*names, *short])}")
        found += [name for name in fitting if name not in found]
    return found


def learning(model: nn.Module) -> int:
    """How many of a model's numbers learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def freeze(model: nn.Module, patterns: Iterable[str]) -> int:
    """Keep parameters as they are: those whose name, or the name of a module around them, fits a pattern.

    `*`, `?` and `[...]` as in file names: `model.embed_tokens`, `model.layers.0.*`, `*.mlp`. Tied embeddings have both
    names. Returns how many numbers still learn. Raises `MalmoiError` for a pattern that fits nothing.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        fitting = [p for name, p in named if any(fnmatch.fnmatchcase(part, pattern) for part in _around(name))]
        if not fitting:
            known = {part for name, _ in named for part in _around(name)}
            raise MalmoiError(f"freeze: no parameter fits '{pattern}'.{nearest(pattern, sorted(known))}")
        for parameter in fitting:
            parameter.requires_grad_(False)
    return learning(model)


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """How far the merged model's logits were from the adapted one's, and how far they might have been."""

    difference: float
    tolerance: float
    tokens: int


@torch.no_grad()
def merge_adapter(
    model: GPT4LMHeadModel, input_ids: torch.Tensor | None = None, tolerance: float | None = None
) -> MergeCheck:
    """Fold the adapter into the weights, in place; the model is then an ordinary one, as fast as before.

    The logits of both models are compared on `input_ids` (B, T), by default 64 random tokens. If any differs by more
    than `tolerance` times the largest (float32: 1e-4; half precision, whose rounding swallows small additions: 5e-2),
    the model is left as it was and `MalmoiError` tells the numbers.
    """
    layers = adapted(model)
    if not layers:
        raise MalmoiError("The model has no adapter to merge.")
    plain = {name: layer.merged().train(layer.training) for name, layer in layers.items()}
    for name, layer in plain.items():
        if not bool(layer.weight.isfinite().all()):  # attention may swallow what a NaN does to the logits
            raise MalmoiError(f"The adapter cannot be merged: with it, {name} holds NaN or infinity.")
    ids = _random_ids(model) if input_ids is None else input_ids
    was_training = model.training
    model.eval()
    before = model(ids).logits.double()
    for name, layer in plain.items():
        _replace(model, name, layer)
    after = model(ids).logits.double()
    model.train(was_training)
    if tolerance is None:
        tolerance = MERGE_TOLERANCE.get(model.dtype, ROUNDED_TOLERANCE)
    difference, allowed = float((after - before).abs().max()), tolerance * max(1.0, float(before.abs().max()))
    if not difference <= allowed:  # NaN is no agreement either
        for name, layer in layers.items():
            _replace(model, name, layer)
        raise MalmoiError(
            f"The adapter cannot be merged: on {ids.numel()} tokens the merged model's logits differ by up to "
            f"{difference:.3g}, more than the {allowed:.3g} that rounding explains ({str(model.dtype)[6:]} weights). "
            f"The model is unchanged; load it in float32 and merge again, or keep the adapter beside it."
        )
    for module in model.modules():
        module.__dict__.pop(WHOLE, None)
    model.requires_grad_(True)
    return MergeCheck(difference, allowed, ids.numel())


def _targets(model: GPT4LMHeadModel, layers: dict[str, nn.Linear], asked: tuple[str, ...]) -> list[str]:
    """The layers that targets name, in the model's order."""
    chosen: set[str] = set()
    for target in asked or PROJECTIONS:
        fitting = [name for name in layers if f".{name}".endswith(f".{target}") or fnmatch.fnmatchcase(name, target)]
        if asked and not fitting:
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise MalmoiError(
                f"target_modules: the model has no linear layer '{target}'.{nearest(target, [*known, *layers])} "
                f"Layers that can be adapted: {', '.join(known)}."
            )
        chosen.update(fitting)
    if "lm_head" in chosen and model.lm_head.weight is model.model.embed_tokens.weight:
        raise MalmoiError(
            "target_modules: lm_head shares its table with the embeddings (tie_word_embeddings), and an addition to "
            "one would change the other at merging. Leave lm_head out."
        )
    routers = [name for name in chosen if name.endswith(".mlp.gate")]
    if routers:
        raise MalmoiError(f"target_modules: {routers[0]} routes tokens to experts; routers cannot be adapted.")
    return [name for name in layers if name in chosen]


def _initialize(matrix: nn.Linear, seed: int, name: str) -> None:
    """Uniform within 1 / sqrt(in): `nn.Linear`'s own spread, which PEFT takes too, but drawn by name."""
    bound = matrix.in_features**-0.5
    generator = torch.Generator().manual_seed(randomness.key(seed, f"initialize {name}"))
    with torch.no_grad():
        drawn = torch.rand(matrix.weight.shape, generator=generator) * 2 - 1
        matrix.weight.copy_(drawn * bound)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _around(name: str) -> list[str]:
    """A parameter's name and those of the modules around it: a.b.weight, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _random_ids(model: GPT4LMHeadModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(randomness.key(0, "merge check"))
    length = min(CHECKED_TOKENS, model.config.max_position_embeddings)
    return torch.randint(model.config.vocab_size, (1, length), generator=generator).to(model.device)
