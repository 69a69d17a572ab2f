"""The average of the weights: an exponential moving average beside the ones that are trained.

With a learning rate that has not decayed, the weights wander around a good place without settling in it. Their moving
average (Polyak & Juditsky 1992) lies nearer to it, costs one multiplication a step, and is what is measured and
exported. Training itself never reads it.

Early averages would be dragged by random weights, so the decay grows with the number of updates n:
min(decay, (1 + n) / (10 + n)).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from malmoi.train.update_rule import UpdateRule

_foreach_lerp_ = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]

AVERAGE, UPDATES = "average", "updates"


class Average(UpdateRule):
    """Averages of parameters in float32. It has the form of an optimizer, so a checkpoint holds it like one's state."""

    def __init__(self, params: Iterable[Tensor], decay: float) -> None:
        super().__init__(list(params), {"decay": decay})

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters and their averages, which begin as the parameters are."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if AVERAGE not in self.state[parameter]:
                self.state[parameter][AVERAGE] = parameter.detach().to(torch.float32, copy=True)
        return parameters, [self.state[parameter][AVERAGE] for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Let the averages follow the parameters by one update."""
        parameters, averages = self._pairs()
        counter = self.state[parameters[0]].setdefault(UPDATES, torch.zeros(()))  # on the CPU: nobody waits for it
        counter += 1
        done = float(counter)
        keep = min(self.param_groups[0]["decay"], (1 + done) / (10 + done))
        _foreach_lerp_(averages, [parameter.detach().float() for parameter in parameters], 1 - keep)

    @torch.no_grad()
    def put_into_model(self) -> None:
        """Replace the parameters by their averages, for good."""
        for parameter, average in zip(*self._pairs(), strict=True):
            parameter.copy_(average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the model holds the averages; afterwards what it held before, bit for bit."""
        parameters, _ = self._pairs()
        trained = [parameter.detach().clone() for parameter in parameters]
        self.put_into_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, tensor in zip(parameters, trained, strict=True):
                    parameter.copy_(tensor)
