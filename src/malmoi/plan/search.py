"""The best layout for a model on a cluster: every sensible one is tried, the losers say why they lost.

"fastest" takes the least time, "smallest" the fewest devices of the cluster that still hold the training, "cheapest"
the fewest device-hours. A layout is only ever returned when its memory fits, with a margin for what no table counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from malmoi.config import MalmoiError
from malmoi.plan.hardware import Cluster
from malmoi.plan.layout import Layout, Training, check, divisors
from malmoi.plan.memory import HEADROOM
from malmoi.plan.program import Program, program
from malmoi.plan.step_time import Step
from malmoi.plan.work import Work

Goal = Literal["fastest", "cheapest", "smallest"]
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
MOST_STAGES, MOST_TURNS = 64, 8
RUNNERS_UP = 5
GROWTH = (1, 1.1, 1.25, 1.5, 2, 3, 4, 8, 16, 64)


@dataclass(frozen=True, slots=True)
class Found:
    """A layout that fits, its time, and its peak of memory in bytes."""

    layout: Layout
    step: Step
    peak: float

    @property
    def device_seconds(self) -> float:
        return self.step.total * self.layout.devices


@dataclass(frozen=True, slots=True)
class Result:
    """The winner, the next best of other kinds, and the best that did not fit, if it would have been faster."""

    winner: Found
    runners_up: tuple[tuple[Found, str], ...]
    tried: int
    too_large: int


def room(cluster: Cluster) -> float:
    """Bytes of a device that a plan may fill."""
    return cluster.device.memory * (1 - HEADROOM)


def candidates(
    work: Work, count: int, node: int, training: Training, micros: tuple[int, ...] = MICRO_BATCHES
) -> Iterator[Layout]:
    """Layouts that divide what they cut; recomputation and ZeRO stage are still the lightest."""
    layer = work.layers[-1][0]
    for tensor in (size for size in divisors(count) if size <= min(node, 64)):
        if tensor & (tensor - 1) or layer.heads % tensor or (layer.kv_heads % tensor and tensor % layer.kv_heads):
            continue
        for pipeline in (size for size in divisors(count // tensor) if size <= min(work.depth, MOST_STAGES)):
            for context in _contexts(count // (tensor * pipeline), training):
                data = count // (tensor * pipeline * context)
                if training.batch % data:
                    continue
                for expert in _experts(work, data * context * tensor):
                    for micro in (size for size in micros if training.batch // data % size == 0):
                        for turns in _turns(work.depth, pipeline, training.batch // (data * micro)):
                            yield Layout(
                                data=data,
                                tensor=tensor,
                                pipeline=pipeline,
                                interleave=turns,
                                context=context,
                                expert=expert,
                                micro_batch=micro,
                                sequence_parallel=tensor > 1,
                            )


def _contexts(rest: int, training: Training) -> list[int]:
    """Cutting rows pays where they are long: at least 4,096 tokens stay on a device."""
    return [size for size in divisors(rest) if size == 1 or training.sequence / size >= 4096][:5]


def _experts(work: Work, group: int) -> list[int]:
    if not work.has_experts:
        return [1]
    experts = work.layers[-1][0].experts
    fitting = [size for size in divisors(experts) if group % size == 0]
    return fitting if len(fitting) <= 4 else [fitting[0], *fitting[-3:]]


def _turns(depth: int, pipeline: int, pieces: int) -> list[int]:
    if pipeline == 1 or depth % pipeline or pieces % pipeline:
        return [1]
    return [size for size in divisors(depth // pipeline) if size <= MOST_TURNS]


def _lightest(
    trainer: Program, work: Work, layout: Layout, training: Training, limit: float
) -> tuple[Layout, float] | None:
    """The layout with the least recomputation and slicing that fits, or None."""
    for zero in (1, 3) if layout.pipeline == 1 and layout.data > 1 else (1,):
        for recompute in trainer.recomputes(training):
            tried = replace(layout, zero=zero if layout.data > 1 else 0, recompute=recompute)
            peak = trainer.memory(work, tried, training).peak
            if peak <= limit:
                return tried, peak
    return None


def fitting(work: Work, cluster: Cluster, training: Training) -> tuple[list[Found], int, int]:
    """All layouts that fit with their times, how many were tried and how many were too large."""
    found, tried, large, trainer = [], 0, 0, program(cluster.device)
    hopeless: set[tuple[int, int, int, int]] = set()
    for layout in candidates(work, cluster.count, cluster.device.node, training):
        key = (layout.tensor, layout.pipeline, layout.context, layout.expert)
        tried += 1
        if key in hopeless:
            large += 1
            continue
        lightest = _lightest(trainer, work, layout, training, room(cluster))
        if lightest is None:
            large += 1
            if layout.micro_batch == 1 and layout.interleave == 1 and not cluster.device.cpu:
                hopeless.add(key)  # more rows at a time or more pieces only add to it
            continue
        chosen, peak = lightest
        found.append(Found(chosen, trainer.step(work, cluster.device, training, chosen), peak))
    return found, tried, large


def search(work: Work, cluster: Cluster, training: Training, goal: Goal = "fastest") -> Result:
    """The best layout. Raises `MalmoiError` where none fits, saying how many devices would do."""
    sizes = [cluster.count] if goal == "fastest" else divisors(cluster.count)
    found: list[Found] = []
    tried = large = 0
    for count in sizes:
        part = Cluster(count, cluster.device)
        more, some, lost = fitting(work, part, training)
        found, tried, large = found + more, tried + some, large + lost
        if goal == "smallest" and more:
            break
    if not tried:
        raise MalmoiError(
            f"No layout deals {training.batch:,} rows of {work.name} out to {cluster}: nothing that can be cut (rows, "
            f"heads, {work.depth} layers, rows of 8,192 tokens and more) divides by so many. Take more rows (--batch), "
            f"or fewer devices."
        )
    if not found:
        raise too_small(work, cluster, training)
    measure = (lambda each: each.device_seconds) if goal == "cheapest" else (lambda each: each.step.total)
    ranked = sorted(found, key=measure)
    winner = ranked[0]
    check(winner.layout, work, training)
    return Result(winner, tuple(_runners_up(ranked, goal)), tried, large)


def too_small(work: Work, cluster: Cluster, training: Training) -> MalmoiError:
    """The error where no layout fits: what would do."""
    if cluster.device.measured:
        least = min((peak for _, peak in _bare(work, cluster, training, 1)), default=0.0)
        return MalmoiError(
            f"{work.name} does not fit on {cluster.device.name}: with the least that can be kept a step needs "
            f"{least / 2**30:,.2f} GiB, and a plan may fill {room(cluster) / 2**30:,.2f} GiB. Take fewer tokens a row "
            f"(--seq), a smaller model (malmoi plan --laptop finds the largest), or another machine (--on RTX4090)."
        )
    enough = devices_needed(work, cluster, training)
    words = f"about {enough:,} of them would do" if enough else "no number of them was found that would"
    return MalmoiError(
        f"{work.name} does not fit on {cluster}: no layout leaves its states and activations within "
        f"{room(cluster) / 2**30:,.0f} GiB of each device; {words}."
    )


def _runners_up(ranked: list[Found], goal: Goal) -> Iterator[tuple[Found, str]]:
    """The best layouts of other kinds (not the winner with another micro-batch), and the reason for each."""
    winner = ranked[0]
    seen = {_kind(winner.layout)}
    for other in ranked[1:]:
        if _kind(other.layout) in seen:
            continue
        seen.add(_kind(other.layout))
        yield other, why(other, winner, goal)
        if len(seen) > RUNNERS_UP:
            return


def _kind(layout: Layout) -> tuple[int, ...]:
    return layout.tensor, layout.pipeline, layout.context, layout.expert, layout.devices


def why(loser: Found, winner: Found, goal: Goal = "fastest") -> str:
    """The part of the step in which a layout loses most to the winner: seconds, or device-seconds of the cheapest."""
    names = {
        "matrix": "matrix products (recomputed or of awkward shape)",
        "memory": "memory traffic",
        "kernels": "many small kernels",
        "tensor": "tensor-parallel exchange",
        "expert": "sending tokens to experts",
        "context": "context-parallel exchange",
        "pipeline": "handing activations between stages",
        "data": "exchanging gradients or gathering weights",
        "bubble": "waiting in the pipeline",
        "optimizer": "the optimizer's pass over memory",
        "straggling": "waiting for the slowest node",
    }
    unit, measured = ("device-seconds", True) if goal == "cheapest" else ("s", False)
    mine, best = (found.layout.devices if measured else 1 for found in (loser, winner))
    lost = {key: mine * getattr(loser.step, key) - best * getattr(winner.step, key) for key in names}
    worst = max(lost, key=lambda key: lost[key])
    more = mine * loser.step.total / (best * winner.step.total) - 1
    return f"{more:+.1%} {'cost' if measured else 'time'}: loses {lost[worst]:.3g} {unit} a step in {names[worst]}"


def devices_needed(work: Work, cluster: Cluster, training: Training) -> int | None:
    """The smallest number of devices, in whole nodes, that holds the training; None where 64 times the least does not.

    There is one this-machine: for it, None. Experts are dealt out in equal hands, so numbers are tried that share a
    factor with the number of experts.
    """
    if cluster.device.measured:
        return None
    node = cluster.device.node
    states = training.gradient_bytes + 14 if not training.lora_rank else 2
    least = max(1, int(work.counted.total * states / room(cluster)))
    experts = work.layers[-1][0].experts
    units = {node * size for size in divisors(experts or 1) if node * size <= 4 * least or size == 1}
    counts = {-(-round(least * factor) // unit) * unit for unit in units for factor in GROWTH}
    for count in sorted(counts):
        rows = replace(training, batch=max(training.batch // count, 1) * count)
        if any(peak <= room(cluster) for _, peak in _bare(work, cluster, rows, count)):
            return count
    return None


def _bare(work: Work, cluster: Cluster, training: Training, count: int) -> Iterator[tuple[Layout, float]]:
    """Layouts with the least that a device can be given (a row at a time, all recomputed), and their bytes."""
    trainer = program(cluster.device)
    for layout in candidates(work, count, cluster.device.node, training, (1,)):
        if layout.interleave == 1:
            tried = replace(layout, recompute="full", zero=(3 if layout.pipeline == 1 else 1) if layout.data > 1 else 0)
            yield tried, trainer.memory(work, tried, training).peak
