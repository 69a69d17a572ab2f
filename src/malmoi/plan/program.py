"""Which program a plan is about: what trains on a machine, and so whose bytes and seconds are counted.

On GPUs that is software like Megatron's (`memory`, `step_time`). On this machine's processor it is our own training
loop in one process (`here`). Whoever plans asks `program(device)`, and nobody else makes the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from malmoi.plan import here
from malmoi.plan.hardware import Device
from malmoi.plan.layout import Layout, Recompute, Training
from malmoi.plan.memory import Memory, memory, terms
from malmoi.plan.physics import interval
from malmoi.plan.step_time import Step, step_time
from malmoi.plan.work import Work


@dataclass(frozen=True, slots=True)
class Program:
    """Bytes and seconds of a training program, and what is usual with it.

    `recomputes`: the ways to keep fewer activations, the cheapest first. `interval`: the factors between which real
    step times lie around a planned one, and `interval_of` says which.
    """

    memory: Callable[[Work, Layout, Training], Memory]
    step: Callable[[Work, Device, Training, Layout], Step]
    terms: Callable[[Work, Layout, Training], dict[str, Any]]
    recomputes: Callable[[Training], tuple[Recompute, ...]]
    optimizer: Literal["adamw", "muon"]
    interval: tuple[float, float]
    interval_of: str


def program(device: Device) -> Program:
    """The program that trains on this device."""
    if device.cpu:
        return Program(
            memory=here.memory_here,
            step=here.step_here,
            terms=here.terms_here,
            recomputes=lambda _training: ("none", "selective", "full"),
            optimizer="muon",
            interval=here.INTERVAL,
            interval_of="all measured runs lay that near (docs/results/planner_here.md)",
        )
    return Program(
        memory=memory,
        step=step_time,
        terms=terms,
        recomputes=lambda training: ("none", "selective", "full") if training.scores else ("none", "full"),
        optimizer="adamw",
        interval=interval(),
        interval_of="nine of ten published steps, each system unseen, lay that near",
    )
