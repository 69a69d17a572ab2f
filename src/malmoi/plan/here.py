"""Our own training loop in one process on this machine's CPU: bytes and seconds.

On a GPU a plan asks what Megatron-like software does. Here the software is known to the last tensor: `train/step.py` in
float32 with the compiled steps of `model/fused.py`. A norm keeps what went in and its result serves the products after
it; queries and keys are kept before and after they are turned; the loss never holds more than a chunk of scores. The
fullest moment is when the loss is taken: everything is kept, and of this pass's gradients only the head's exists.

Seconds follow `step_time` with the rates that `malmoi doctor` measured and the constants below, which were chosen on
the first three runs in docs/results/planner_here.md; the others were made afterwards.
"""

from __future__ import annotations

from dataclasses import replace

from malmoi.config import ModelConfig
from malmoi.plan.hardware import Device
from malmoi.plan.layout import Layout, Training
from malmoi.plan.memory import Memory
from malmoi.plan.physics import Physics
from malmoi.plan.step_time import Step, step_time
from malmoi.plan.work import LayerWork, work_of

SIZE = 4  # bytes of a number
CHUNK = 1 << 25  # scores worked on at a time (train/loss.py, CHUNK_IN_PLACE) ...
FEWEST_ROWS = 256  # ... but never fewer tokens than these
SHARE = 0.77  # of the large product's rate, in a training step's products
WORKSPACE = 30e6  # bytes that the library of products keeps for itself once it has made large ones
CPU = Physics(matrix=1.0, flash=0.5, traffic=0.5, depth=0.0)


def memory_here(config: ModelConfig, training: Training, layout: Layout) -> Memory:
    """Bytes at the fullest moment of a step; `training` in fp32, `layout` of one device."""
    work = work_of(config)
    total, tokens = work.counted.total, layout.micro_batch * training.sequence
    layers = [(layer, number) for layer, number in work.layers]
    matrices = sum(number * sum(each.size for each in layer.dense) for layer, number in layers)
    moments = 2 * total - (matrices if training.optimizer == "muon" else 0)
    windows = len({layer.window for layer, _ in layers})
    mask = windows * layout.micro_batch * training.sequence**2 * (SIZE + 1)
    most = max(_kept(layer, work.width, config.qk_norm) for layer, _ in layers)
    each = {
        "none": lambda layer: _kept(layer, work.width, config.qk_norm),
        "selective": lambda layer: _products(layer, work.width),
        "full": lambda _layer: float(work.width),
    }[layout.recompute]
    ends = 3 * work.width  # what the last norm kept, what it returned, the gradient of that
    kept = sum(number * each(layer) for layer, number in layers)
    scores = min(tokens, max(FEWEST_ROWS, CHUNK // work.vocabulary)) * work.vocabulary
    again = most if layout.recompute != "none" else 0.0
    accumulated = total if layout.pieces(training) > 1 else 0
    return Memory(
        weights=SIZE * total,
        gradients=SIZE * (accumulated + work.table),
        optimizer=SIZE * moments,
        activations=SIZE * tokens * (kept + ends) + mask,
        logits=float(SIZE * max(scores, tokens * again)),  # a layer is made again when the scores are gone
        buffers=WORKSPACE,
    )


def _kept(layer: LayerWork, width: int, qk_norm: bool) -> float:
    """Numbers for a token that a layer's way back needs."""
    heads, keys = layer.heads * layer.key_dim, layer.kv_heads * layer.key_dim
    attention = (2 if qk_norm else 1) * (heads + keys) + layer.kv_heads * layer.value_dim
    attention += layer.heads * layer.value_dim + layer.heads
    hidden = layer.dense_hidden + layer.per_token * layer.expert_hidden
    return 4 * width + attention + (3 if layer.gated else 2) * hidden + layer.per_token * 2 * width


def _products(layer: LayerWork, width: int) -> float:
    """... that selective recomputation keeps: what went in, the products' results, attention's."""
    return width + sum(each.outputs for each in layer.dense) + layer.heads * (layer.value_dim + 1)


def step_here(config: ModelConfig, device: Device, training: Training, layout: Layout) -> Step:
    """Seconds of a step, by cause, on a measured CPU."""
    slower = replace(device, fp32=SHARE * device.fp32, achievable=SHARE * device.achievable)
    return step_time(work_of(config), slower, replace(training, recipe="autocast"), layout, CPU)
