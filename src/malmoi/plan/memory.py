"""Bytes on one device of a training, by class: the states of the optimizer, what the backward pass needs, the loss.

Letters: T tokens of a micro-batch on a device, w width, t tensor parallelism, f hidden size, V vocabulary. All 16-bit
numbers have two bytes; the states of AdamW in mixed precision are 2 (weights) + 4 or 2 (gradients) + 12 (fp32 weights
and two moments), sliced over the data axis from ZeRO stage 1 on (Rajbhandari et al., arXiv 1910.02054). Activations
follow Korthikanti et al. (arXiv 2205.05198) tensor by tensor, so that grouped keys, gates and experts count as they
are.
A stage of a pipeline keeps the activations of every micro-batch that has come and not yet gone back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from malmoi.plan.layout import Layout, Training
from malmoi.plan.work import LayerWork, Work

HEADROOM = 0.06  # of a device's memory for what no table counts: the driver, NCCL, fragments
STATES = {"adamw": 12.0, "muon": 12.0}  # bytes a weight beside a 16-bit copy: fp32 weight and moments


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device that holds most, at the moment when it holds most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float

    @property
    def states(self) -> float:
        """What stays between steps."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        return self.states + self.activations + self.logits + self.buffers

    def classes(self) -> dict[str, float]:
        return asdict(self)


def stage_layers(work: Work, layout: Layout, stage: int) -> list[tuple[LayerWork, int]]:
    """The kinds of layers of a stage, each with how many; the first stages have one more where they do not divide."""
    size, more = divmod(work.depth, layout.pipeline)
    start = stage * size + min(stage, more)
    end = start + size + (stage < more)
    found: dict[int, tuple[LayerWork, int]] = {}  # equal layers are one object (`work_of`)
    at = 0
    for layer, number in work.layers:
        inside = min(at + number, end) - max(at, start)
        if inside > 0:
            found[id(layer)] = (layer, inside + found.get(id(layer), (layer, 0))[1])
        at += number
    return list(found.values())


def parameters(work: Work, layout: Layout, stage: int) -> tuple[float, float]:
    """Learned numbers on one device of a stage: (those that all rows share, those of its experts)."""
    dense = expert = 0.0
    for layer, number in stage_layers(work, layout, stage):
        cut = sum(each.size for each in layer.dense if each.cut != "none")
        dense += number * (cut / layout.tensor + layer.dense_parameters - cut)
        expert += number * layer.experts * layer.expert_parameters / layout.expert
    first, last = stage == 0, stage == layout.pipeline - 1
    tables = (1 if first else 0) + (1 if last and not (work.tied and first) else 0)
    dense += tables * work.table / layout.tensor
    dense += (work.input_only if first else 0) + (work.exit_other if last else 0)
    return dense, expert


def adapter(work: Work, layout: Layout, training: Training, stage: int) -> float:
    """Learned numbers of a LoRA adapter on all products of a stage."""
    return sum(
        number * copies * training.lora_rank * (inputs + outputs) / layout.tensor
        for layer, number in stage_layers(work, layout, stage)
        for matmuls, copies in ((layer.dense, 1), (layer.expert, layer.experts))
        for each in matmuls
        if each.name != "router"
        for inputs, outputs in each.matrices
    )


def states(work: Work, layout: Layout, training: Training, stage: int) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer on one device of a stage."""
    dense, expert = parameters(work, layout, stage)
    whole = training.precision == "fp32" or training.recipe == "autocast"
    weight, gradient = (4.0, 4.0) if whole else (2.0, float(training.gradient_bytes))
    moments = 8.0 if whole else STATES[training.optimizer]
    rows = layout.data * layout.context
    shares = ((dense, rows), (expert, max(rows * layout.tensor / layout.expert, 1.0)))
    if training.lora_rank:
        learned = adapter(work, layout, training, stage)
        frozen = sum(weight * number / (over if layout.zero == 3 else 1) for number, over in shares)
        return frozen + weight * learned, gradient * learned, moments * learned
    return (
        sum(weight * number / (over if layout.zero == 3 else 1) for number, over in shares),
        sum(gradient * number / (over if layout.zero >= 2 else 1) for number, over in shares),
        sum(moments * number / (over if layout.zero >= 1 else 1) for number, over in shares),
    )


def kept(layer: LayerWork, work: Work, layout: Layout, training: Training) -> float:
    """Bytes that the backward pass of one layer needs for each token of a micro-batch; full recomputation keeps one."""
    a, t, w = training.bytes, layout.tensor, work.width
    i = 1 if training.precision == "fp8" else a  # bytes of what goes into a product: it is kept as it was multiplied
    between = 2 * w * (a + i) + (2 * w if training.dropout else 0)  # what goes into and out of norms; dropout's masks
    between /= t if layout.sequence_parallel else 1
    heads = layer.heads * (layer.key_dim * a + layer.value_dim * i) / t
    keys = layer.kv_heads * (layer.key_dim + layer.value_dim) / min(t, layer.kv_heads)
    latent = sum(each.outputs for each in layer.dense if each.cut == "none" and each.name != "router")
    repeated = layout.recompute == "selective" and not training.scores
    if repeated:  # what norms and activation functions return is made again, from what went into them
        between -= 2 * w * i / (t if layout.sequence_parallel else 1)
    inside = (2 if layer.gated else 1) * a  # for each of the hidden numbers: before the activation function ...
    inside += 0 if repeated else i  # ... and after it
    total = between + heads + a * (keys + latent) + inside * layer.dense_hidden / t + scores(layer, layout, training)
    if layer.experts:  # the router's weights are applied inside, so that what experts return need not be kept
        share = 1 / t if layout.sequence_parallel else 1.0
        total += layer.per_token * share * (i * w + inside * layer.expert_hidden) + 4 * layer.experts * share
    return total


def scores(layer: LayerWork, layout: Layout, training: Training) -> float:
    """Bytes for each token of a table of attention scores where one is written; else of the rows' norms alone."""
    if not training.scores:
        return 4.0 * layer.heads / layout.tensor
    each = 5 if training.dropout else 2
    return each * training.bytes / 2 * layer.heads / layout.tensor * training.sequence


def in_flight(layout: Layout, stage: int, pieces: int) -> float:
    """How many micro-batches' worth of a stage's layers are kept at once (1F1B; interleaved: Narayanan et al. 2021)."""
    if layout.pipeline == 1:
        return 1.0
    ahead = layout.pipeline - stage
    if layout.interleave == 1:
        return float(min(pieces, ahead))
    turns = 2 * (ahead - 1) + (layout.interleave - 1) * layout.pipeline + 1
    return min(pieces * layout.interleave, turns) / layout.interleave


def activations(work: Work, layout: Layout, training: Training, stage: int) -> float:
    """Bytes of what the backward pass needs on one device of a stage."""
    tokens = layout.micro_batch * training.sequence / layout.context
    layers = stage_layers(work, layout, stage)
    whole = [(kept(layer, work, layout, training), number) for layer, number in layers]
    largest = max((one for one, _ in whole), default=0.0)
    flying = in_flight(layout, stage, layout.pieces(training))
    if layout.recompute == "full":
        entry = work.width * training.bytes / (layout.tensor if layout.sequence_parallel else 1)
        return tokens * (flying * entry * sum(number for _, number in layers) + largest)
    total = flying * sum(one * number for one, number in whole)
    if layout.recompute == "selective" and training.scores:
        table = [(scores(layer, layout, training), number) for layer, number in layers]
        total += max((one for one, _ in table), default=0.0) - flying * sum(one * number for one, number in table)
    return tokens * total


def logits(work: Work, layout: Layout, training: Training) -> float:
    """Bytes at the vocabulary: the scores of each token in the run's precision and in fp32, and the norm before."""
    tokens = layout.micro_batch * training.sequence / layout.context
    size = 8 if training.precision == "fp32" else 6
    before = 2 * work.width * training.bytes / (layout.tensor if layout.sequence_parallel else 1)
    return tokens * (size * work.vocabulary / layout.tensor + before)


def buffers(work: Work, layout: Layout, training: Training, stage: int) -> float:
    """Bytes on their way: gathered weights (ZeRO-3), tokens between stages, experts and tensor-parallel devices."""
    tokens = layout.micro_batch * training.sequence / layout.context
    message = tokens * work.width * training.bytes
    total = 2 * message if layout.pipeline > 1 else 0.0
    if layout.sequence_parallel:
        total += message
    layers = stage_layers(work, layout, stage)
    if layout.expert > 1:
        total += 2 * message * max(layer.per_token for layer, _ in layers)
    if layout.zero == 3 and layout.data > 1:
        largest = max(
            layer.dense_parameters / layout.tensor + layer.experts * layer.expert_parameters / layout.expert
            for layer, _ in layers
        )
        total += largest * (2 * training.bytes + (0 if training.lora_rank else training.gradient_bytes))
    return total


def stage_memory(work: Work, layout: Layout, training: Training, stage: int) -> Memory:
    """Bytes on one device of a stage."""
    last = stage == layout.pipeline - 1
    return Memory(
        *states(work, layout, training, stage),
        activations=activations(work, layout, training, stage),
        logits=logits(work, layout, training) if last else 0.0,
        buffers=buffers(work, layout, training, stage),
    )


def memory(work: Work, layout: Layout, training: Training) -> Memory:
    """Bytes on the device that needs most: one of the first stage, or of the last, which has the vocabulary."""
    ends = {0, layout.pipeline - 1}
    return max((stage_memory(work, layout, training, stage) for stage in ends), key=lambda found: found.peak)


def terms(work: Work, layout: Layout, training: Training) -> dict[str, Any]:
    """What the bytes of the first stage are made of, for `--explain`."""
    dense, expert = parameters(work, layout, 0)
    layers = stage_layers(work, layout, 0)
    number = sum(many for _, many in layers)
    return {
        "tokens_on_device": layout.micro_batch * training.sequence / layout.context,
        "layers_on_stage": number,
        "kept_bytes_per_token": sum(kept(layer, work, layout, training) * many for layer, many in layers) / number,
        "in_flight": in_flight(layout, 0, layout.pieces(training)),
        "dense_parameters": dense,
        "expert_parameters": expert,
    }


def cache(work: Work, sequence: int, size: float = 2.0) -> float:
    """Bytes of the key/value cache of one conversation of `sequence` tokens; windows keep only their width."""
    return sum(layer.cached * size * min(sequence, layer.window or sequence) * number for layer, number in work.layers)
