"""A plan beside the program: the formulas' bytes and operations, and those of our own training, run without memory.

A plan is arithmetic over a table of what a training keeps. The dry run takes the same layout to the training program
itself (`train/rehearsal.py`) and reads what that keeps, computes and sends. Where the program does not do what was
planned, the nearest thing that it does is run, and `not_run` says so; where there is nothing near, nothing is run.

Our program differs from the Megatron-like one that the formulas describe in a few ways that can be counted (`apart`):
what FSDP rounds up, tables that tensor parallelism leaves whole, experts that only their own axis cuts.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from malmoi.config import MalmoiError, ModelConfig, ParallelConfig, TrainConfig
from malmoi.plan.flops import training_flops
from malmoi.plan.layout import Layout, Training, check
from malmoi.plan.memory import Memory, activations, in_flight, parameters, stage_layers, stage_memory
from malmoi.plan.work import LayerWork, Work, work_of

CLASSES = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
STATES = {"weights": 4.0, "gradients": 4.0, "optimizer": 8.0}  # bytes of a number: float32, and AdamW's two moments


def dry_run(config: ModelConfig, layout: Layout, training: Training, ranks: list[int] | None = None) -> dict[str, Any]:
    """Run one step of each of `ranks` (None: one of the first and one of the last pipeline stage).

    Returns `world`, the `layout` that was run, `not_run` (sentences), and for each rank its `stage`, `memory`, `flops`,
    `communication` (bytes of a step), the `formula` for the same, and what sets the two `apart` (class, bytes, why).
    Raises `MalmoiError` for a layout that does not divide, or a rank that does not exist.
    """
    work = work_of(config)
    check(layout, work, training)
    ran, trained, gaps = nearest_run(layout, training)
    world, found = layout.devices, {"world": layout.devices, "not_run": gaps}
    if ran is None:
        return {**found, "layout": None, "ranks": []}
    chosen = ranks if ranks is not None else sorted({0, world - 1} if layout.pipeline > 1 else {0})
    if wrong := [rank for rank in chosen if not 0 <= rank < world]:
        raise MalmoiError(f"There is no process {wrong[0]}: the plan has {world}, numbered from 0.")
    from torch import bfloat16, float32

    from malmoi.train.rehearsal import rehearse_apart

    dtype = float32 if training.precision == "fp32" else bfloat16
    parallel, train = settings(ran, trained)
    entries = []
    for rank in chosen:
        stage = rank // (world // ran.pipeline)
        step = rehearse_apart(config, parallel, train, world, rank, dtype)
        memory = {name: step["memory"].get(name, 0) for name in (*CLASSES, "temporary", "peak")}
        entries.append(
            {
                "rank": rank,
                "stage": stage,
                **step,
                "memory": memory,
                "formula": formula(work, ran, trained, stage),
                "apart": apart(work, ran, trained, stage),
            }
        )
    return {**found, "layout": asdict(ran), "ranks": entries}


def nearest_run(layout: Layout, training: Training) -> tuple[Layout | None, Training, list[str]]:
    """The layout and training that our program runs for a planned one (None: there is none), and each difference."""
    gaps: list[str] = []

    def unless(true: bool, sentence: str) -> None:
        if not true:
            gaps.append(sentence)

    if layout.context > 1:
        return None, training, [f"context = {layout.context}: parallel.py has no context parallelism. Nothing was run."]
    if training.lora_rank:
        return None, training, ["Adapters are trained by one process, not by a job. Nothing was run."]
    if layout.expert > 1 and layout.data % layout.expert:
        return (
            None,
            training,
            [
                f"expert = {layout.expert} does not divide data = {layout.data}: experts borrow the data axis alone in "
                f"parallel.py. Nothing was run."
            ],
        )
    unless(layout.zero in (0, 3), f"ZeRO stage {layout.zero}: parallel.py slices all states or none. Stage 3 was run.")
    unless(layout.interleave <= 2, f"interleave = {layout.interleave}: parallel.py has 1 or 2. 2 was run.")
    unless(layout.tensor == 1 or layout.sequence_parallel, "tensor parallelism was run with tokens cut as well.")
    unless(training.precision != "fp8", "fp8: the program computes in bfloat16 here.")
    unless(not training.scores, "scores: the program never keeps the table of attention scores.")
    ran = replace(
        layout,
        zero=0 if layout.zero == 0 and layout.expert == 1 else 3,
        interleave=min(layout.interleave, 2),
        sequence_parallel=layout.tensor > 1,
    )
    trained = replace(
        training,
        precision="fp32" if training.precision == "fp32" else "bf16",
        recipe="autocast",
        gradient_bytes=4,
        scores=False,
    )
    return ran, trained, gaps


def settings(layout: Layout, training: Training) -> tuple[ParallelConfig, TrainConfig]:
    """The two sections of a recipe that ask for this layout."""
    parallel = ParallelConfig(
        data_parallel_shard=layout.data if layout.zero else 1,
        data_parallel_replicate=1 if layout.zero else layout.data,
        tensor_parallel=layout.tensor,
        pipeline_parallel=layout.pipeline,
        pipeline_schedule="interleaved" if layout.interleave > 1 else "1f1b",
        expert_parallel=layout.expert,
        activation_checkpointing=layout.recompute,
    )
    train = TrainConfig(
        sequence_length=training.sequence,
        per_device_train_batch_size=layout.micro_batch * layout.data,
        gradient_accumulation_steps=layout.pieces(training),
        optimizer=training.optimizer,
        max_steps=1,
    )
    return parallel, train


def formula(work: Work, layout: Layout, training: Training, stage: int) -> dict[str, float]:
    """What the planner says of one device of a stage: bytes by class, `peak`, and `flops` of a step."""
    memory: Memory = stage_memory(work, layout, training, stage)
    counted = training_flops(work, training.sequence, layout.recompute)
    return {**memory.classes(), "peak": memory.peak, "flops": counted.hardware * training.tokens / layout.devices}


def apart(work: Work, layout: Layout, training: Training, stage: int) -> list[dict[str, Any]]:
    """Bytes that our program holds beyond the formula's: (class, bytes, why)."""
    found = [
        {"class": kind, "bytes": size * number, "why": why}
        for number, why in _more_states(work, layout, stage)
        for kind, size in STATES.items()
    ]
    return found + [
        {"class": "activations", "bytes": number, "why": why}
        for number, why in _more_activations(work, layout, training, stage)
    ]


def _more_states(work: Work, layout: Layout, stage: int) -> list[tuple[float, str]]:
    """Numbers of weights that a process holds beyond the formula's."""
    rows = layout.data if layout.zero == 3 else 1
    extra: list[tuple[float, str]] = []
    tables = (stage == 0) + (stage == layout.pipeline - 1 and not (work.tied and stage == 0))
    if layout.tensor > 1 and tables:
        whole = tables * work.table * (1 - 1 / layout.tensor) / rows
        extra.append((whole, "tensor parallelism leaves the tables of the vocabulary whole"))
    experts = parameters(work, layout, stage)[1]
    if layout.expert > 1 and experts:
        over = max(layout.data * layout.tensor / layout.expert, 1.0) if layout.zero == 3 else 1.0
        extra.append((experts * (1 - 1 / over), "experts are cut by their own axis alone, not sliced further"))
    elif experts and layout.tensor > 1 and layout.zero == 3:
        extra.append((experts / layout.data * (1 - 1 / layout.tensor), "tensor parallelism leaves experts whole"))
    return extra


def _more_activations(work: Work, layout: Layout, training: Training, stage: int) -> list[tuple[float, str]]:
    """Bytes of what is kept for the way back beyond the formula's."""
    flying = in_flight(layout, stage, layout.pieces(training))
    rows, size, layers = layout.micro_batch, training.bytes, stage_layers(work, layout, stage)
    windows = len({layer.window for layer, _ in layers})
    found = [
        (
            windows * rows * training.sequence**2 * (flying * size + 1),
            "a row may hold several documents: who sees whom is written down, once for all layers",
        )
    ]
    tokens = rows * training.sequence
    if any(layer.qk_norm for layer, _ in layers) and layout.recompute != "selective":
        each = [(layer.heads + layer.kv_heads) * layer.key_dim * number for layer, number in layers]
        held = max(each) / layers[0][1] if layout.recompute == "full" else flying * sum(each)
        normed = tokens * size * held / layout.tensor
        found.append((normed, "queries and keys are kept as they were before they were turned, for their norms"))
    if stage < layout.pipeline - 1:
        handed = flying * tokens * work.width * size / layout.tensor
        found.append((handed, "what a stage handed on is kept until its gradient comes back"))
    if layout.tensor > 1 and layout.recompute == "full":
        whole = 2 * tokens * work.width * size * (1 - 1 / layout.tensor)
        found.append((whole, "tokens that are gathered before a product, and its result before the sum, of one layer"))
    if work.has_experts:
        found += _expert_copies(work, layout, training, stage)
    if layout.tensor > 1 and layout.recompute == "none":
        gathers = sum(number * (1 if layer.experts else 2) for layer, number in layers)
        kept_whole = flying * gathers * tokens * work.width * size * (1 - 1 / layout.tensor)
        found.append((kept_whole, "tokens that were gathered before a pair of products are kept, not gathered again"))
    if layout.recompute == "selective":
        ours = tokens * size * sum(flying * number * _products(layer, work) for layer, number in layers) / layout.tensor
        ours += tokens * size * max(_made_again(layer, work) for layer, _ in layers) / layout.tensor
        theirs = activations(work, layout, training, stage)
        found.append((ours - theirs, "the results of all products are kept, and all else of one layer is made again"))
    return found


def _expert_copies(work: Work, layout: Layout, training: Training, stage: int) -> list[tuple[float, str]]:
    """Bytes that our mixture of experts keeps beyond the formula's, where nothing or little is computed again."""
    layers, tokens = stage_layers(work, layout, stage), layout.micro_batch * training.sequence
    flying = in_flight(layout, stage, layout.pieces(training))
    if layout.recompute == "full":  # of one layer
        layers, flying = [(max((layer for layer, _ in layers), key=lambda layer: layer.experts), 1)], 1.0
    chosen = tokens * work.width * sum(layer.per_token * number for layer, number in layers)
    copies = 3 if layout.expert > 1 else 1
    rounded = sum(number * layer.experts * layer.expert_parameters for layer, number in layers) / layout.expert
    found = [
        (flying * copies * chosen * training.bytes, "experts' tokens are kept as they came, went and were weighted")
    ]
    if training.bytes == 2:
        found.append((2 * rounded, "experts' weights are rounded for their products, and kept so for the way back"))
    return found


def _products(layer: LayerWork, work: Work) -> float:
    """Numbers for a token that selective recomputation keeps of a layer: what went in, every product, attention."""
    experts = layer.per_token * sum(each.outputs for each in layer.expert)
    return work.width + sum(each.outputs for each in layer.dense) + experts + layer.heads * layer.value_dim


def _made_again(layer: LayerWork, work: Work) -> float:
    """Numbers for a token that the way back makes again, one layer at a time: norms, turned queries, hidden ones."""
    turned = 2 * (layer.heads + layer.kv_heads) * layer.key_dim
    return 2 * work.width + turned + layer.dense_hidden + layer.per_token * layer.expert_hidden
