"""Our own training loop in one process on this machine's CPU: bytes and seconds.

On a GPU a plan asks what Megatron-like software does. Here the software is known to the last tensor: `train/step.py`
with the compiled steps of `model/fused.py`. A norm keeps what went in, and its result serves the products after it;
queries and keys are kept before and after they are turned, the result of attention as the kernel left it and as the
next product reads it; the loss never holds more than a chunk of scores. A step is fullest at one of two moments. When
the loss is taken everything is kept, and of this pass's gradients only the head's exists; when weights are updated
nothing is kept any more, but every gradient is there, and Muon's copies of the matrices of one shape.

Seconds follow `step_time` with the rates that `malmoi doctor` measured and the constants below, which were chosen on
the first three runs of the grid in docs/results/planner_here.md; the others were made afterwards. Muon's products are
counted one by one. In bfloat16, on processors that multiply it faster, the same tensors have two bytes, beside a
rounded copy of the weights; and attention over short rows writes its table of weights, in stretches of queries. What is
of bfloat16 or of Muon in the constants comes from a few runs that are not of the grid.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from malmoi.plan.hardware import Device
from malmoi.plan.layout import Layout, Training
from malmoi.plan.memory import Memory, adapter, parameters
from malmoi.plan.physics import Machine, Physics
from malmoi.plan.step_time import Clock, Step, step_time
from malmoi.plan.work import LayerWork, Work

SIZE = 4  # bytes of a weight, a gradient that is added to, a moment, a score
CHUNK = 1 << 25  # scores worked on at a time (train/loss.py, CHUNK_IN_PLACE) ...
FEWEST_ROWS = 256  # ... but never fewer tokens than these
SHORT, STRETCH = 512, 128  # rows whose table bfloat16 writes, and the queries of a stretch (model/fused.py)
SHARE = 0.77  # of the large product's rate, in a training step's products ...
SHARE_MUON = 0.87  # ... and in Muon's rounds, products alone (chosen on two runs that are not of the grid)
WORKSPACE = {4: 27e6, 2: 42e6}  # bytes that the library of products keeps for itself, by a number's size
ROUNDS = 5  # of Muon's iteration (train/optimizer.py)
FEWEST_SQUARE, WIDE, STRIPE = 128, 2, 192  # of its short cuts in float32 (there too)
CPU = Physics(matrix=1.0, flash=0.5, traffic=0.5, depth=0.0)
LONG_BF16 = 0.25  # in place of CPU.flash, where the library's kernel attends in bfloat16 (timed by itself)
INTERVAL = (0.85, 1.1)  # measured over planned seconds: the whole grid lay within it (docs/results/planner_here.md)


def memory_here(work: Work, layout: Layout, training: Training) -> Memory:
    """Bytes at the fullest moment of a step; `layout` of one device."""
    return max(_at_the_loss(work, layout, training), _at_the_update(work, layout, training), key=lambda each: each.peak)


def _at_the_loss(work: Work, layout: Layout, training: Training) -> Memory:
    tokens, size = layout.micro_batch * training.sequence, training.bytes
    kept = sum(number * _kept_by(layer, work, layout, training) for layer, number in work.layers)
    again = max(_kept(layer, work, training) for layer, _ in work.layers) if layout.recompute != "none" else 0.0
    scores = size * min(tokens, max(FEWEST_ROWS, CHUNK // work.vocabulary)) * work.vocabulary
    if size == 2:  # the head's table rounded, and its gradient before it is widened
        scores += 2 * size * work.table
    weights, optimizer = _states(work, layout, training)
    accumulated = _learned(work, layout, training) if layout.pieces(training) > 1 else 0.0
    return Memory(
        weights=weights,
        gradients=SIZE * (accumulated + (0 if training.lora_rank else work.table)),
        optimizer=optimizer,
        activations=size * tokens * (kept + _ends(work)) + _mask(work, layout, training),
        logits=float(max(scores, size * tokens * again)),  # a layer is made again when the scores are gone
        buffers=WORKSPACE[size],
    )


def _at_the_update(work: Work, layout: Layout, training: Training) -> Memory:
    weights, optimizer = _states(work, layout, training)
    copies = 0.0
    if training.optimizer == "muon" and not training.lora_rank:
        copies = max(number * _copies(*shape, training) for shape, number in _matrices(work).items())
    return Memory(
        weights=weights,
        gradients=SIZE * _learned(work, layout, training),
        optimizer=optimizer,
        activations=0.0,
        logits=0.0,
        buffers=WORKSPACE[training.bytes] + training.bytes * copies,
    )


# ---- what these are made of -----------------------------------------------------------------------------------------


def _learned(work: Work, layout: Layout, training: Training) -> float:
    """Numbers that have a gradient."""
    return adapter(work, layout, training, 0) if training.lora_rank else float(work.counted.total)


def _states(work: Work, layout: Layout, training: Training) -> tuple[float, float]:
    """Bytes of weights and of the optimizer's moments: two for AdamW's numbers, one for Muon's matrices."""
    learned, total = _learned(work, layout, training), work.counted.total
    weights = total + (learned if training.lora_rank else 0.0)
    with_muon = 0.0
    if training.optimizer == "muon":
        with_muon = learned if training.lora_rank else sum(r * c * many for (r, c), many in _matrices(work).items())
    rounded = 2 * (weights - work.table) if training.bytes == 2 else 0.0
    return SIZE * weights + rounded, SIZE * (2 * learned - with_muon)


def _copies(rows: int, columns: int, training: Training) -> float:
    """Numbers that Muon holds of a matrix made orthogonal: as gathered, of length one, and what a round needs."""
    area, square = rows * columns, rows * rows
    if _squares_alone(rows, columns, training):
        return max(2 * area + 5 * square, 3 * area + square)  # between the rounds; at the product that ends them
    return 3 * area + 2 * square


def _squares_alone(rows: int, columns: int, training: Training) -> bool:
    """Are the rounds of such a matrix made on squares (train/optimizer.py)?"""
    return training.bytes == 4 and rows >= FEWEST_SQUARE and columns >= WIDE * rows


def _matrices(work: Work) -> Counter[tuple[int, int]]:
    """(rows, columns) of the hidden matrices, the shorter side first, and how many there are."""
    found: Counter[tuple[int, int]] = Counter()
    for layer, number in work.layers:
        for products, copies in ((layer.dense, 1), (layer.expert, layer.experts)):
            for shape in (shape for each in products for shape in each.matrices):
                found[min(shape), max(shape)] += number * copies
    return found


def _mask(work: Work, layout: Layout, training: Training) -> float:
    """Bytes that say who sees whom in a row that may hold several documents: one table for each width of window."""
    if _written(training):
        return 0.0  # it went into the weights
    windows = len({layer.window for layer, _ in work.layers})
    return float(windows * layout.micro_batch * training.sequence**2 * training.bytes)


def _ends(work: Work) -> int:
    """Numbers for a token: what the last norm kept, what it returned, the gradient of that."""
    return 3 * work.width


def _kept_by(layer: LayerWork, work: Work, layout: Layout, training: Training) -> float:
    """Numbers for a token that a layer keeps until the way back reaches it."""
    match layout.recompute:
        case "none":
            return _kept(layer, work, training)
        case "selective":
            return _products(layer, work, training)
        case "full":
            return float(work.width)


def _kept(layer: LayerWork, work: Work, training: Training) -> float:
    """Numbers for a token that a layer's way back needs."""
    heads, keys = layer.heads * layer.key_dim, layer.kv_heads * layer.key_dim
    attention = (2 if layer.qk_norm else 1) * (heads + keys) + layer.kv_heads * layer.value_dim
    attention += layer.heads * (layer.value_dim * (1 if _written(training) else 2) + _weights_kept(training))
    hidden = layer.dense_hidden + layer.per_token * layer.expert_hidden
    return 4 * work.width + attention + (3 if layer.gated else 2) * hidden + layer.per_token * 2 * work.width


def _products(layer: LayerWork, work: Work, training: Training) -> float:
    """... that selective recomputation keeps: what went in, the products' results, and what one kernel attended to."""
    found = work.width + sum(each.outputs for each in layer.dense)
    return found if _written(training) else found + layer.heads * (layer.value_dim + _weights_kept(training))


def _written(training: Training) -> bool:
    """Does attention write its table of weights?"""
    return training.bytes == 2 and training.sequence <= SHORT


def _weights_kept(training: Training) -> float:
    """Numbers for a token and head: its row of weights, an average over the stretches; else the row's float32 norm."""
    if not _written(training):
        return SIZE / training.bytes
    stretches = max(1, min(4, training.sequence // STRETCH))
    return training.sequence * (stretches + 1) / (2 * stretches)


def terms_here(work: Work, layout: Layout, training: Training) -> dict[str, float]:
    """What the bytes are made of, for `--explain`."""
    dense, expert = parameters(work, layout, 0)
    return {
        "tokens_on_device": layout.micro_batch * training.sequence,
        "layers_on_stage": work.depth,
        "kept_bytes_per_token": training.bytes
        * sum(number * _kept_by(layer, work, layout, training) for layer, number in work.layers)
        / work.depth,
        "end_bytes_per_token": training.bytes * _ends(work),
        "mask_bytes": _mask(work, layout, training),
        "in_flight": 1.0,
        "workspace_bytes": WORKSPACE[training.bytes],
        "dense_parameters": dense,
        "expert_parameters": expert,
        "learned_parameters": _learned(work, layout, training),
    }


# ---- seconds --------------------------------------------------------------------------------------------------------


def step_here(work: Work, device: Device, training: Training, layout: Layout) -> Step:
    """Seconds of a step, by cause, on a measured CPU."""
    constants = CPU if training.bytes == 4 or _written(training) else replace(CPU, flash=LONG_BF16)
    slower, run = _slower(device, SHARE), replace(training, recipe="autocast")
    step = step_time(work, slower, run, layout, constants)
    if layout.recompute == "selective" and _written(training):  # no kernel's result is there to be kept
        clock = Clock(work, Machine(slower, constants), run, layout)
        again = sum(number * clock.attention(layer, backward=False).matrix for layer, number in work.layers)
        step = replace(step, matrix=step.matrix + layout.pieces(training) * again)
    if training.optimizer == "muon" and not training.lora_rank:
        rounds = _orthogonal(work, Machine(_slower(device, SHARE_MUON), CPU), training)
        return replace(step, optimizer=step.optimizer + rounds)
    return step


def _slower(device: Device, share: float) -> Device:
    return replace(device, fp32=share * device.fp32, achievable=share * device.achievable)


def _orthogonal(work: Work, machine: Machine, training: Training) -> float:
    """Seconds of Muon's rounds, counted as `train/optimizer.py` makes them.

    Products are of a matrix and its transpose, of squares of its shorter side, of a square and the matrix. In float32
    symmetric results are computed by half, where they are large, and rounds of wide matrices are made on squares alone.
    """
    total, exact = 0.0, training.bytes == 4
    for (rows, columns), number in _matrices(work).items():
        stripes = max(1, rows // STRIPE) if exact else 1
        rounds = (1, 4 * ROUNDS - 3, 1) if _squares_alone(rows, columns, training) else (ROUNDS, ROUNDS, ROUNDS)
        shares = ((stripes + 1) / (2 * stripes),) * 2 + (1.0,)
        sizes = ((columns, rows), (rows, rows), (rows, columns))
        for times, share, (inputs, outputs) in zip(rounds, shares, sizes, strict=True):
            product = machine.product(rows, inputs, outputs, training.precision, training.bytes, copies=number)
            total += times * share * sum(product)
    return total
