"""The same numbers under other names: how a tensor of theirs and the ones of ours hold each other.

Families keep what we keep apart in one tensor (GPT-2's queries, keys and values; gpt-oss's gate and up), or apart what
we keep in one (an expert each), and some keep matrices turned. A `Rename` says so as data. From it this file makes, for
each tensor of theirs, *views* of ours that have their layout: copying out of the views writes their tensor, copying
into them reads it. Both directions follow from one description, and what is read goes straight into its place.

E experts, D hidden size, M intermediate size
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Index = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Rename:
    """One tensor of theirs and the ones of ours that it holds.

    `{i}` stands for the number of a layer, `{e}` for that of an expert: theirs is then one expert of our stack.
    Several tensors of ours lie one after another along the output dimension, or, `interleaved`, take turns there.
    `transposed`: theirs is (in, out), as GPT-2's Conv1D keeps it. `stacked`: theirs holds all experts, too: (E, ...).
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    interleaved: bool = False
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor of theirs, by its full name, and where its numbers lie in ours."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rename
    expert: int | None = None  # None: all of ours

    @property
    def axis(self) -> int:
        """The output dimension in their layout."""
        return int(self.rule.stacked) + int(self.rule.transposed)

    def views(self, state: Mapping[str, torch.Tensor]) -> list[tuple[Index, torch.Tensor]]:
        """Which part of their tensor is which view of ours; every view has their order of dimensions."""
        parts = [state[name] if self.expert is None else state[name][self.expert] for name in self.ours]
        if self.rule.transposed:
            parts = [part.transpose(self.axis - 1, self.axis) for part in parts]
        if len(parts) == 1:
            return [((), parts[0])]
        before, found, begin = (slice(None),) * self.axis, [], 0
        for number, part in enumerate(parts):
            end = begin + part.shape[self.axis]
            chosen = slice(number, None, len(parts)) if self.rule.interleaved else slice(begin, end)
            found.append(((*before, chosen), part))
            begin = end
        return found

    def whole(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Their tensor, made from ours: a view where one is enough. On the meta device this tells names and shapes."""
        views = self.views(state)
        if len(views) == 1:
            return views[0][1]
        first = views[0][1]
        shape = list(first.shape)
        shape[self.axis] = sum(view.shape[self.axis] for _, view in views)
        whole = first.new_empty(shape)
        for index, view in views:
            whole[index].copy_(view)
        return whole


def places(rules: Sequence[Rename], state: Mapping[str, torch.Tensor], layers: int) -> Iterator[Place]:
    """Every tensor of theirs for a model with the state dictionary `state`; without a rule the name is the same."""
    covered: set[str] = set()
    for rule in rules:
        for i in range(layers) if "{i}" in rule.theirs else range(1):
            ours = tuple(name.format(i=i) for name in rule.ours)
            if all(name in state for name in ours):
                covered.update(ours)
                experts: Iterable[int | None] = range(len(state[ours[0]])) if "{e}" in rule.theirs else (None,)
                for e in experts:
                    yield Place(rule.theirs.format(i=i, e=e), ours, rule, e)
    for name in state:
        if name not in covered:
            yield Place(name, (name,), Rename(name, (name,)))
