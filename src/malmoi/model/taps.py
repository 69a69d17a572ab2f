"""Named places where the model's activations can be seen while it works.

A `Tap` is a module that hands its input through unchanged. It costs a function call and holds no parameters, but it has
a name (its path in the model), so anything that PyTorch can do with a module's output can be done with an activation:
read it, replace it, take its gradient. Interpretability thus looks at the production model, never at a second one.
What stands at each tap is written beside it in `block.py`, `attention.py`, `feedforward.py`, `experts.py` and `gpt.py`;
a test freezes the list.

A tap that is dear to compute (the attention pattern, which the fused kernels never write down) is filled only while
somebody watches it; the result that the model goes on with is the same either way, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from malmoi.config import MalmoiError, nearest


class Tap(nn.Module):
    """The identity, with a name."""

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        return activation

    @property
    def watched(self) -> bool:
        """Whether anybody has put a hook here."""
        return bool(self._forward_hooks)


def tap_names(model: nn.Module) -> tuple[str, ...]:
    """Every tap of `model`, in the order in which the parts are built."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Tap))


@contextmanager
def record(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Fill a dictionary with the named activations of each forward pass inside the `with` block (the last pass stays).

    The tensors are the model's own (not copies, not detached), so gradients can be asked of them.
    Raises `MalmoiError` for a name that is not a tap.
    """
    taps = {name: module for name, module in model.named_modules() if isinstance(module, Tap)}
    recorded: dict[str, torch.Tensor] = {}
    handles = []
    try:
        for name in names:
            if name not in taps:
                raise MalmoiError(f"The model has no tap '{name}'.{nearest(name, taps)}")
            handles.append(taps[name].register_forward_hook(_writer(recorded, name)))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _writer(recorded: dict[str, torch.Tensor], name: str):  # noqa: ANN202
    def write(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        recorded[name] = output

    return write
