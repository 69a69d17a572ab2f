"""Serving a model to many people at once: does it fit, how many can talk, how fast does each read.

Writing one token reads every weight that it passes and its own conversation's keys and values; the weights are read
once for all who write at the same moment. So a device's memory bandwidth sets the pace, its memory the number of
conversations, and long conversations cost both.
"""

from __future__ import annotations

import math
from typing import Any

from malmoi.config import MalmoiError
from malmoi.plan.flops import forward
from malmoi.plan.hardware import Cluster
from malmoi.plan.memory import HEADROOM, cache
from malmoi.plan.physics import Machine, physics
from malmoi.plan.planner import machine
from malmoi.plan.work import Work

WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0625, "int4": 0.5625}
KERNELS_A_LAYER = 12


def touched(work: Work, together: float) -> float:
    """Weights that `together` tokens of one moment read: of experts, those that at least one is sent to."""
    total = float(work.table)  # the output table
    for layer, number in work.layers:
        met = layer.experts * (1 - (1 - layer.per_token / layer.experts) ** together) if layer.experts else 0.0
        total += number * (layer.dense_parameters + met * layer.expert_parameters)
    return total


def serve(work: Work, cluster: Cluster, users: int, context: int, precision: str = "bf16") -> dict[str, Any]:
    """Memory and speed of `users` conversations of `context` tokens each, on every device of the cluster together."""
    if precision not in WEIGHT_BYTES:
        raise MalmoiError(f"--precision {precision}: one of {', '.join(WEIGHT_BYTES)}.")
    if users < 1:
        raise MalmoiError(f"--users {users}: must be at least 1.")
    if not 1 <= context <= work.context:
        raise MalmoiError(f"--context {context}: {work.name} has places for 1 to {work.context:,} tokens.")
    device, constants = cluster.device, physics()
    clock = Machine(device, constants)
    rate = clock.rate("fp32" if precision == "fp32" else "bf16")
    weights = work.counted.total * WEIGHT_BYTES[precision]
    each = cache(work, context, 4.0 if precision == "fp32" else 2.0)
    room = device.memory * (1 - HEADROOM)
    together = cluster.count * room
    most = max(math.floor((together - weights) / each), 0)
    needed = math.ceil((weights + users * each) / room)
    found: dict[str, Any] = {
        "model": {"name": work.name, "parameters": work.counted.total, "kv_bytes_per_token": 2 * work.cached},
        "machine": machine(cluster),
        "memory": {"weights": weights, "kv_cache": users * each, "kv_cache_per_user": each, "of": together},
        "fits": users <= most,
        "users": users,
        "most_users": most,
        "devices_needed": needed,
        "precision": precision,
        "context": context,
    }
    if users > most:
        found["verdict"] = f"{users} conversations of {context:,} tokens need {needed} devices; {most} fit on these"
        return found
    bytes_read = touched(work, users) * WEIGHT_BYTES[precision] + users * each / 2  # a conversation is half full
    moving = bytes_read / cluster.count / clock.bandwidth
    computing = users * forward(work, context) / cluster.count / rate
    waiting = work.depth * KERNELS_A_LAYER * (device.launch or constants.kernel)
    if cluster.count > 1:
        waiting += work.depth * 2 * constants.hop * math.log2(cluster.count)
    seconds = max(moving, computing) + waiting
    prompt = max(context // 2, 1)
    found["speed"] = {
        "tokens_per_second_per_user": 1 / seconds,
        "tokens_per_second": users / seconds,
        "first_token_seconds": prompt * forward(work, prompt) / cluster.count / rate + waiting,
    }
    return found
