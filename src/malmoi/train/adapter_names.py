"""Which layer is which: an adapter speaks Hugging Face's names, a model has ours.

For most families the two are the same. GPT-2 calls the feed-forward's first layer `mlp.c_fc` and keeps queries, keys
and values in one, `attn.c_attn`. The table is the one that model folders are read by (`malmoi.formats.families`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from malmoi.formats import families
from malmoi.formats.renaming import Place, places
from malmoi.model.gpt import GPT4LMHeadModel


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer by their name, and ours that it consists of, in order along the output dimension."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool  # Conv1D: its weight is (in, out); an adapter's matrices are not


def base_state(model: GPT4LMHeadModel) -> dict[str, torch.Tensor]:
    """The model's own tensors, without the adapter's; a tied table once."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def places_of(model: GPT4LMHeadModel) -> list[Place]:
    """Where each tensor of theirs lies in the model."""
    rules = families.family_of(model.config).tensors
    return list(places(rules, base_state(model), model.config.num_hidden_layers))


def layers_of(model: GPT4LMHeadModel) -> list[Layer]:
    """Every linear layer that an adapter could name."""
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = []
    for place in places_of(model):
        ours = tuple(name.removesuffix(".weight") for name in place.ours)
        if place.theirs.endswith(".weight") and linear.issuperset(ours) and not place.rule.interleaved:
            found.append(Layer(place.theirs.removesuffix(".weight"), ours, place.rule.transposed))
    return found


def shortest(chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names as people write target_modules: the last part alone where it means exactly the chosen layers."""
    found = set()
    for name in chosen:
        end = name.rpartition(".")[2]
        alike = {other for other in known if other.rpartition(".")[2] == end}
        found.add(end if alike <= set(chosen) else name)
    return sorted(found)


def promised(said: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The layers that `target_modules` of an adapter's settings promises; none where others narrow them down."""
    targets = said.get("target_modules")
    if any(said.get(key) for key in ("exclude_modules", "layers_to_transform")) or not targets:
        return []
    if isinstance(targets, str):
        return [name for name in names if re.fullmatch(targets, name)]
    return [name for name in names if any(f".{name}".endswith(f".{target}") for target in targets)]


def by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that is the name, or the end of it from a dot on."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
