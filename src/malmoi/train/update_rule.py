"""What an optimizer is: groups of parameters, settings of each group, a memory for each parameter, one `step()`.

The same form as `torch.optim.Optimizer`, without being one: torch's class loads its compiler when the first optimizer
is made, which takes two seconds, as long as a small model learns.

AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization") is torch's own fused kernel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from malmoi.config import MalmoiError


class UpdateRule:
    """`param_groups` is a list of settings, each with its "params"; `state[parameter]` is what is remembered of it."""

    def __init__(self, params: Iterable[Tensor] | Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        given = list(params)
        groups = [dict(group) for group in given if isinstance(group, Mapping)] or [{"params": given}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        everyone = [id(parameter) for group in self.param_groups for parameter in group["params"]]
        if not everyone or len(set(everyone)) < len(everyone):
            raise MalmoiError("An optimizer needs at least one parameter, and each of them once.")

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class AdamW(UpdateRule):
    """Each number of a gradient divided by its own running size; weight decay beside it, not through it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [self._state(parameter) for parameter in parameters]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                self._count(states),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    @staticmethod
    def _count(states: list[dict[str, Tensor]]) -> list[Tensor]:
        for state in states:
            state["step"] += 1
        return [state["step"] for state in states]

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
