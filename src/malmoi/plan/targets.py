"""The other way round: for this much money, or time, or on this laptop, which model is worth training?

A budget buys device-hours, device-hours buy operations, and a scaling law splits operations between size and text
(`optimum.best_split`). How many operations a device-hour buys depends on the size that comes out, so the two are found
together: a size of the dial's shape is planned on the machine, its speed gives the budget's operations, these give a
size, until both agree. The loss comes with the law's interval.
"""

from __future__ import annotations

import math
from typing import Any

from malmoi.config import MalmoiError, ModelConfig
from malmoi.plan import bill
from malmoi.plan.hardware import Cluster
from malmoi.plan.layout import Training
from malmoi.plan.optimum import best_split, cost_of
from malmoi.plan.planner import GOODPUT, Question, answer, default_batch
from malmoi.plan.program import program
from malmoi.plan.work import Work, work_of

ROUNDS = 6
ASPECT = 64  # width over depth, as in the published families
VOCABULARY = 65_536
LEAST, MOST = 1e5, 1e15  # parameters
SEQUENCE = 2048
WIDEST = 2000  # times 64


def shape(parameters: float) -> ModelConfig:
    """A model of the modern layout in which a token is multiplied with about so many numbers.

    Depth is width over 64; the table of tokens, tied, is one of the products.
    """
    vocabulary = VOCABULARY if parameters > 1e8 else 4096  # a small model's table must not outweigh it

    def apart(width: int) -> float:
        return abs(math.log((12 * width**2 * max(width // ASPECT, 1) + vocabulary * width) / parameters))

    width = min(range(64, 64 * WIDEST, 64), key=apart)
    return ModelConfig(
        hidden_size=width,
        num_hidden_layers=max(width // ASPECT, 1),
        num_attention_heads=width // 64,
        vocab_size=vocabulary,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
    )


def hours_for(cluster: Cluster, dollars: float) -> tuple[float, dict[str, Any]]:
    """Hours of the whole cluster that a sum buys at the middle price. `MalmoiError` where no price is known."""
    known = bill.money(cluster.device.name, 1.0)
    if known is None:
        raise MalmoiError(
            f"No price is known for {cluster.device.name}: plan with --hours, or a device that has one "
            f"(A100-80GB, H100-80GB, H200-141GB, B200-180GB, RTX4090)."
        )
    middle = (known["low"] * known["high"]) ** 0.5
    return dollars / middle / cluster.count, {**known, "used": middle}


def largest(cluster: Cluster, hours: float, precision: str = "bf16") -> dict[str, Any]:
    """The compute-optimal model that this machine trains in so many hours, and its plan."""
    if not 0 < hours < 1e9:
        raise MalmoiError(f"{hours:g} hours: must be above 0.")
    budget = hours * 3600 * cluster.count * cluster.device.achievable * 0.4 * GOODPUT
    found: dict[str, Any] = {}
    work: Work | None = None
    split, sizes, losses = best_split(budget)
    for _ in range(ROUNDS):
        if not LEAST < split.parameters < MOST:
            raise MalmoiError(
                f"{hours:g} hours of {cluster} are {budget:.3g} FLOPs, worth a model of {split.parameters:.3g} "
                f"parameters; plans reach from {LEAST:g} to {MOST:g}."
            )
        work = work_of(shape(split.parameters), "the model worth training")
        size = float(work.counted.active_without_input_embedding)
        batch = default_batch(work, SEQUENCE, cluster.count)
        training = Training(batch, SEQUENCE, precision, program(cluster.device).optimizer)  # type: ignore[arg-type]
        found = answer(Question(work, cluster, training, tokens=split.tokens))
        if not found["fits"]:
            break
        bought = found["speed"]["tokens_per_second"] * hours * 3600 * GOODPUT * cost_of(size, 1.0)
        if abs(bought / budget - 1) < 0.02:
            break
        budget = bought
        split, sizes, losses = best_split(budget)
    found["worth"] = {
        "hours": hours,
        "flops": budget,
        "parameters": split.parameters,
        "parameters_low": sizes[0],
        "parameters_high": sizes[1],
        "tokens": split.tokens,
        "loss": split.loss,
        "loss_low": losses[0],
        "loss_high": losses[1],
        "config": shape(split.parameters).model_dump(
            include={"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}
        ),
    }
    return found
