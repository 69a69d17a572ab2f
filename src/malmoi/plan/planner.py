"""A training before it costs anything: parameters, operations, bytes, seconds, days, energy, money, expected loss.

`Question` is what is asked, `answer` says everything about it as plain data (what `malmoi plan --json` prints). Every
number of the answer has its formula and source in `explanations.yaml`, under the same name.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from malmoi.config import MalmoiError
from malmoi.plan import bill, flops, optimum
from malmoi.plan.hardware import Cluster
from malmoi.plan.layout import MOST_TOKENS, Layout, Training, check, divisors
from malmoi.plan.memory import HEADROOM, Memory
from malmoi.plan.program import Program, program
from malmoi.plan.search import Goal, Result, devices_needed, search
from malmoi.plan.step_time import Step
from malmoi.plan.work import Work

GOODPUT = 0.9  # of a run's hours are steps that count; the rest restarts, saves, waits (Llama 3: "over 90 %")
BATCH_125M, BATCH_POWER = 0.5e6, 0.257  # tokens of an update: GPT-3's choices (arXiv 2005.14165, table 2.1) on a line


@dataclass(frozen=True, slots=True)
class Question:
    """A training that somebody considers. `tokens` None: compute-optimal."""

    work: Work
    cluster: Cluster
    training: Training
    tokens: float | None = None
    layout: Layout | None = None  # None: searched
    goal: Goal = "fastest"
    goodput: float = GOODPUT
    pue: float = bill.PUE
    grid: float = bill.GRID


def default_batch(work: Work, sequence: int, count: int) -> int:
    """Rows of an update, as GPT-3 chose them for its sizes, in a number that so many devices can share."""
    tokens = BATCH_125M * max(work.counted.active / 125e6, 1e-3) ** BATCH_POWER
    rows = max(round(tokens / sequence), 1)
    unit = max(size for size in divisors(count) if size <= max(rows, 1))
    even = 2 ** max(round(math.log2(rows / unit)), 0) if unit < rows else 1
    return unit * even


def answer(question: Question) -> dict[str, Any]:
    """Everything, as plain data. What the machine cannot do is said in `fits` and `verdict`, not raised."""
    work, training = question.work, question.training
    tokens = question.tokens if question.tokens is not None else float(optimum.advice(_scaling_size(work))["tokens"])  # type: ignore[arg-type]
    _check_tokens(tokens)
    found: dict[str, Any] = {
        "model": _model(work, training),
        "tokens": _tokens(work, tokens, question.tokens is None),
        "batch": {"rows": training.batch, "sequence": training.sequence, "tokens": training.tokens},
        "machine": machine(question.cluster),
    }
    try:
        layout, result = _layout(question)
    except MalmoiError as error:
        if question.layout is not None:
            raise
        lightest = flops.training_flops(work, training.sequence)
        needed = devices_needed(work, question.cluster, training)
        found |= {"flops": _flops(lightest, tokens, training), "fits": False, "verdict": str(error)}
        found["devices_needed"] = needed
        if needed:
            larger = Cluster(needed, question.cluster.device)
            rows = max(training.batch // needed, 1) * needed
            with contextlib.suppress(MalmoiError):
                found["enough"] = answer(
                    replace(question, cluster=larger, tokens=tokens, training=replace(training, batch=rows))
                )
        return found
    counted = flops.training_flops(work, training.sequence, layout.recompute)
    trainer = program(question.cluster.device)
    bytes_of = trainer.memory(work, layout, training)
    step = trainer.step(work, question.cluster.device, training, layout)
    cluster = Cluster(layout.devices, question.cluster.device)
    fits = bytes_of.peak <= cluster.device.memory * (1 - HEADROOM)
    found |= {
        "flops": _flops(counted, tokens, training),
        "layout": {**asdict(layout), "accumulation": layout.pieces(training), "words": str(layout)},
        "memory": memory_answer(bytes_of, cluster.device.memory),
        "fits": fits,
        "verdict": "" if fits else f"needs {bytes_of.peak / 2**30:,.1f} GiB of each device: {too_large(layout)}",
        "terms": trainer.terms(work, layout, training),
        "step": step_answer(step, trainer),
        "speed": speed(counted, step, cluster, training),
        "run": run(question, cluster, step, tokens, trainer),
        "loss": optimum.expected_loss(_scaling_size(work), tokens) if not training.lora_rank else None,
    }
    if result is not None:
        found["search"] = search_answer(result, question.goal)
    return found


def _layout(question: Question) -> tuple[Layout, Result | None]:
    if question.layout is not None:
        check(question.layout, question.work, question.training, question.cluster.count)
        return question.layout, None
    result = search(question.work, question.cluster, question.training, question.goal)
    return result.winner.layout, result


def too_large(layout: Layout) -> str:
    """What to change in a layout that does not fit."""
    if layout.recompute != "full":
        return "recompute activations (--recompute full), or a smaller micro-batch"
    return "more tensor or pipeline parallelism, a higher ZeRO stage, or more devices"


def _check_tokens(tokens: float) -> None:
    if not (math.isfinite(tokens) and 0 < tokens <= MOST_TOKENS):
        raise MalmoiError(f"--tokens {tokens:g}: must be above 0 and at most {MOST_TOKENS:g}.")


def _scaling_size(work: Work) -> float:
    """The N of a scaling law: what a token is multiplied with."""
    return float(work.counted.active_without_input_embedding)


def _model(work: Work, training: Training) -> dict[str, Any]:
    count = work.counted
    return {
        "name": work.name,
        "parameters": count.total,
        "by_kind": dict(work.by_kind),
        "active": count.active,
        "active_without_input_embedding": count.active_without_input_embedding,
        "layers": work.depth,
        "width": work.width,
        "vocabulary": work.vocabulary,
        "kv_bytes_per_token": 2 * work.cached,
        "checkpoint_bytes": 2 * count.total,
        "precision": training.precision,
        "optimizer": training.optimizer,
        "lora_rank": training.lora_rank,
    }


def _tokens(work: Work, tokens: float, chosen: bool) -> dict[str, Any]:
    size = _scaling_size(work)
    return {"planned": tokens, "compute_optimal": optimum.advice(size), "optimal_chosen": chosen}


def _flops(counted: flops.Flops, tokens: float, training: Training) -> dict[str, Any]:
    # An adapter's run computes no gradients of the frozen weights: two passes' worth instead of three.
    share = 2 / 3 if training.lora_rank else 1.0
    return {
        "per_token_full": counted.model_full * share,
        "per_token_causal": counted.model_causal * share,
        "per_token_hardware": counted.hardware * share,
        "total": counted.model_causal * share * tokens,
    }


def machine(cluster: Cluster) -> dict[str, Any]:
    device = cluster.device
    return {
        "devices": cluster.count,
        "device": device.name,
        "nodes": cluster.nodes,
        "memory_bytes": device.memory,
        "peak_flops": device.bf16,
        "achievable_flops": device.achievable,
        "cpu": device.cpu,
        "status": device.status,
        "doubt": device.doubtful,
        "source": device.source,
    }


def memory_answer(found: Memory, whole: float) -> dict[str, Any]:
    return {**found.classes(), "peak": found.peak, "of": whole, "share": found.peak / whole, "headroom": HEADROOM}


def step_answer(step: Step, trainer: Program) -> dict[str, Any]:
    low, high = trainer.interval
    parts = asdict(step)
    return {
        "seconds": step.total,
        "low": step.total * low,
        "high": step.total * high,
        "interval_of": trainer.interval_of,
        **parts,
        "communication": step.communication,
    }


def speed(counted: flops.Flops, step: Step, cluster: Cluster, training: Training) -> dict[str, Any]:
    each = training.tokens / step.total / cluster.count
    peak = cluster.device.fp32 if training.precision == "fp32" and cluster.device.fp32 else cluster.device.bf16
    share = 2 / 3 if training.lora_rank else 1.0
    return {
        "tokens_per_second": training.tokens / step.total,
        "tokens_per_second_per_device": each,
        "mfu_full": each * counted.model_full * share / peak,
        "mfu_causal": each * counted.model_causal * share / peak,
        "hfu": each * counted.hardware * share / peak,
        "peak_is": "fp32" if peak == cluster.device.fp32 else "bf16, dense (also where fp8 is computed with)",
    }


def run(question: Question, cluster: Cluster, step: Step, tokens: float, trainer: Program) -> dict[str, Any]:
    """The whole training: steps, days, energy, carbon dioxide, money."""
    steps = math.ceil(tokens / question.training.tokens)
    seconds = steps * step.total / question.goodput
    hours = seconds / 3600 * cluster.count
    kwh = bill.energy_kwh(hours, cluster.device.watts, question.pue) if cluster.device.watts else None
    low, high = trainer.interval
    return {
        "steps": steps,
        "seconds": seconds,
        "days": seconds / 86400,
        "days_low": seconds / 86400 * low,
        "days_high": seconds / 86400 * high,
        "device_hours": hours,
        "goodput": question.goodput,
        "kwh": kwh,
        "watts": cluster.device.watts,
        "pue": question.pue,
        "co2_tonnes": None if kwh is None else bill.carbon_tonnes(kwh, question.grid),
        "grid_kg_per_kwh": question.grid,
        "usd": bill.money(cluster.device.name, hours),
    }


def search_answer(result: Result, goal: str) -> dict[str, Any]:
    return {
        "goal": goal,
        "tried": result.tried,
        "too_large": result.too_large,
        "runners_up": [
            {"layout": str(found.layout), "devices": found.layout.devices, "seconds": found.step.total, "why": reason}
            for found, reason in result.runners_up
        ],
    }
