"""Seconds of one update: what each device computes, moves, sends and waits for.

One model of the hardware for every machine and every publication. A matrix product takes its operations at a fraction
of the fastest measured rate, plus the bytes that it moves at the memory's rate (small or ragged products are slow
because they move much for what they compute, so efficiency follows from the shape). Everything between products is
bytes. Collectives take bytes over a link and a latency for each step around the ring. A pipeline waits (p - 1) / v
micro-batches' time (Narayanan et al., arXiv 2104.04473), the slowest stage sets its pace. The few constants in
`constants.json` were fitted by `benchmarks/planner.py --fit` on published runs; none belongs to one paper or one row.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from malmoi.plan.hardware import Device
from malmoi.plan.layout import Layout, Overlap, Training
from malmoi.plan.memory import parameters, stage_layers, states
from malmoi.plan.work import LayerWork, Matmul, Work

REFERENCE = 312e12  # an A100's peak: the machine on which `Physics.depth` is counted
BACKWARD = 1.5  # bytes of the elementwise backward pass, for each of the forward pass
FLASH_BACKWARD = 2.5  # five products where the forward pass has two


@dataclass(frozen=True, slots=True)
class Physics:
    """The constants of the machine model. Fractions are of what a data sheet or a measured ceiling promises."""

    matrix: float = 0.90  # of the achievable bf16 rate, sustained in a training step
    fp8: float = 0.70  # of the same fraction of the fp8 rate
    flash: float = 0.55  # of the achievable rate, in fused attention
    memory: float = 0.85  # of the memory bandwidth
    depth: float = 100.0  # of a sum's terms, on an A100: what filling and emptying the multipliers costs
    traffic: float = 0.5  # of a product's bytes that do not hide behind its operations
    intra: float = 0.75  # of the fast link inside a node
    inter: float = 0.88  # of a network card
    rails: float = 0.1  # of the other network cards that a collective over whole nodes could use, and does
    hide: float = 0.85  # of communication, where the software overlaps it
    kernel: float = 4e-6  # seconds between two kernels
    hop: float = 4e-6  # seconds of one step around a ring
    route: float = 2e-7  # seconds of sorting and placing for each token that an expert gets, forward and backward
    straggle: float = 0.004  # of the time, for every doubling of the nodes


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of an update on the critical path, by cause, and the interval of the total."""

    matrix: float
    memory: float
    kernels: float
    tensor: float
    expert: float
    context: float
    pipeline: float
    data: float
    bubble: float
    optimizer: float
    straggling: float

    @property
    def communication(self) -> float:
        """What is not hidden behind computing."""
        return self.tensor + self.expert + self.context + self.pipeline + self.data

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(slots=True)
class _Tally:
    """Seconds of a pass through a layer or a stage."""

    matrix: float = 0.0
    memory: float = 0.0
    kernels: float = 0.0
    tensor: float = 0.0
    expert: float = 0.0
    context: float = 0.0

    def add(self, other: _Tally, times: float = 1.0) -> None:
        for field in fields(_Tally):
            setattr(self, field.name, getattr(self, field.name) + times * getattr(other, field.name))

    @property
    def total(self) -> float:
        return self.matrix + self.memory + self.kernels + self.tensor + self.expert + self.context


@functools.cache
def constants() -> dict[str, object]:
    """The fitted constants with what the fit is worth: `values`, `error` (cross-validated), `date`, `rows`."""
    return json.loads(Path(__file__).with_name("constants.json").read_text(encoding="utf-8"))


def physics() -> Physics:
    values = constants()["values"]
    assert isinstance(values, dict)
    return Physics(**values)


@dataclass(frozen=True, slots=True)
class Clock:
    """Times a training on a device; holds what every part of the sum needs."""

    work: Work
    device: Device
    training: Training
    layout: Layout
    physics: Physics

    # ---- the parts of a layer -------------------------------------------------------------------------------------

    @property
    def tokens(self) -> float:
        """Of a micro-batch on one device."""
        return self.layout.micro_batch * self.training.sequence / self.layout.context

    def visible(self, kind: Overlap) -> float:
        """The part of this communication that nothing hides."""
        return 1 - self.physics.hide if self.training.hides(kind) else 1.0

    @property
    def bandwidth(self) -> float:
        return self.device.bandwidth * self.physics.memory

    @property
    def rate(self) -> float:
        """Sustained operations a second of large products outside fp8."""
        if self.training.precision == "fp32" and self.device.fp32:
            return self.device.fp32 * self.physics.matrix
        return self.device.achievable * self.physics.matrix

    def product(self, rows: float, inputs: float, outputs: float, accumulate: bool = False) -> tuple[float, float]:
        """(seconds of operations, seconds of bytes that do not hide) of (rows, inputs) x (inputs, outputs)."""
        a = self.training.bytes
        rate, rounding = self.rate, 0.0
        if self.training.precision == "fp8" and self.device.fp8:
            rate = self.device.achievable * self.device.fp8 / self.device.bf16 * self.physics.matrix * self.physics.fp8
            rounding = 4.0 * rows * inputs  # read in 16 bits, written twice (as it is and transposed) in 8
        moved = a * (rows * inputs + inputs * outputs + rows * outputs)
        if accumulate:  # a gradient of weights is added to a sum in fp32
            moved += (2 * self.training.gradient_bytes - a) * rows * outputs
        filling = self.physics.depth * self.device.bf16 / REFERENCE  # faster multipliers, longer to fill
        seconds = 2.0 * rows * (inputs + filling) * outputs / rate
        return seconds, (self.physics.traffic * moved + rounding) / self.bandwidth

    def products(self, matmuls: tuple[Matmul, ...], rows: float, cut: int, backward: bool, copies: int = 1) -> _Tally:
        found = _Tally()
        learns = not self.training.lora_rank
        for each in matmuls:
            inputs = each.inputs / (cut if each.cut == "in" else 1)
            outputs = each.outputs / (cut if each.cut == "out" else 1)
            if not backward:
                times = [self.product(rows, inputs, outputs)]
            else:
                times = [self.product(rows, outputs, inputs)]
                times += [self.product(inputs, rows, outputs, True)] if learns else []
            found.matrix += copies * sum(time[0] for time in times)
            found.memory += copies * sum(time[1] for time in times)
            rounding = 1 if self.training.precision == "fp8" else 0
            found.kernels += copies * len(times) * (1 + rounding)
        return found

    def attention(self, layer: LayerWork, backward: bool) -> _Tally:
        """Scores and values. Fused: operations at a lower rate. Written out: two products and the table's bytes."""
        cut, sequence = self.layout.tensor, self.training.sequence
        found = _Tally()
        if not self.training.scores:
            flops = self.tokens * layer.attention_flops(sequence) / cut * (FLASH_BACKWARD if backward else 1.0)
            found.matrix = flops / (self.device.achievable * self.physics.flash)
            if self.training.precision == "fp32":
                found.matrix = flops / self.rate
            found.kernels = 3 if backward else 1
            return found
        table = self.tokens * layer.heads / cut * sequence
        moved = (8 + 6 if backward else 4 + 4) + (5 if self.training.dropout else 0)
        flops = self.tokens * layer.attention_flops(sequence, causal=False) / cut
        found.matrix = flops * (2 if backward else 1) / self.rate
        found.memory = moved * self.training.bytes / 2 * table / self.bandwidth
        found.kernels = 6 if backward else 4
        return found

    def between(self, layer: LayerWork) -> _Tally:
        """Norms, residual sums, dropout, activations, rotations: bytes of the forward pass."""
        w, a, cut, layout = self.work.width, self.training.bytes, self.layout.tensor, self.layout
        wide = 2 * 2 * w * a + 2 * (3 * w * a + (w if self.training.dropout else 0))
        wide /= cut if layout.sequence_parallel else 1
        vectors = 3 if layer.gated else 2
        numbers = wide + vectors * layer.dense_hidden * a / cut
        kernels = 9
        if not self.work.input_only:  # rotary: queries and keys are read and written once more
            numbers += 2 * a * layer.heads * layer.key_dim / cut
            kernels += 2
        if layer.experts:
            share = 1 / cut if layout.sequence_parallel else 1.0
            # tokens are copied into the experts' order and back, weighed and summed
            numbers += share * layer.per_token * a * (6 * w + vectors * layer.expert_hidden)
            kernels += 16
        return _Tally(memory=self.tokens * numbers / self.bandwidth, kernels=kernels)

    def experts(self, layer: LayerWork, backward: bool) -> _Tally:
        """The experts on one device, one product after the other, and the tokens' way to them and back."""
        layout, a = self.layout, self.training.bytes
        here = layer.experts / layout.expert
        tokens = self.tokens / (layout.tensor if layout.sequence_parallel else 1)
        rows = tokens * layer.per_token / here
        found = self.products(layer.expert, rows, 1, backward, copies=math.ceil(here))
        found.expert = self.physics.route / 2 * rows * here
        if layout.expert > 1:
            near = min(layout.expert, self.device.node)
            nodes = layout.expert / near
            # a token is sent once to each other node that it needs, and from there to the devices in it
            away = nodes * (1 - (1 - 1 / nodes) ** layer.per_token) * (nodes - 1) / nodes
            inside = layer.per_token * (near - 1) / near
            message = tokens * self.work.width * a
            seconds = message * inside / (self.device.intra * self.physics.intra)
            seconds += message * away / (self.device.inter * self.physics.inter)
            found.expert += 2 * (seconds + self.physics.hop * math.log2(layout.expert)) * self.visible("expert")
        return found

    def exchange(self, layer: LayerWork, backward: bool) -> _Tally:
        """Tensor parallelism's sums (two in each direction) and context parallelism's keys and values."""
        layout, a = self.layout, self.training.bytes
        found = _Tally()
        visible = self.visible("tensor")
        if layout.tensor > 1:
            message = self.tokens * self.work.width * a
            found.tensor = visible * 2 * self.ring(2 * message, layout.tensor, 1)
            if backward and layout.sequence_parallel:  # gathered once more, behind the products of the backward pass
                found.tensor += (1 - self.physics.hide) * 2 * self.ring(message, layout.tensor, 1)
        if layout.context > 1:
            cut = min(layout.tensor, layer.kv_heads)
            rows = layout.micro_batch * self.training.sequence
            message = rows * layer.kv_heads * (layer.key_dim + layer.value_dim) / cut * a
            times = 2 if backward else 1
            found.context = visible * times * self.ring(message, layout.context, layout.tensor)
        return found

    def ring(self, bytes_moved: float, members: int, stride: int) -> float:
        """Seconds of a collective in which each member receives nearly `bytes_moved`; members lie `stride` apart."""
        if members <= 1 or not bytes_moved:
            return 0.0
        near = max(min(members, self.device.node // stride), 1)
        nodes = -(-members // near)
        fast = self.device.intra * self.physics.intra
        seconds = bytes_moved * (near - 1) / near / fast + self.physics.hop * (near - 1)
        if nodes > 1:
            cards = 1 + (near - 1) * self.physics.rails
            slow = self.device.inter * self.physics.inter * cards
            across = bytes_moved * (nodes - 1) / nodes / slow
            seconds = max(seconds, across) + self.physics.hop * 2 * math.log2(nodes)
        return seconds

    # ---- a layer, a stage, an update ------------------------------------------------------------------------------

    def layer(self, layer: LayerWork, backward: bool) -> _Tally:
        found = self.products(layer.dense, self.tokens, self.layout.tensor, backward)
        found.add(self.attention(layer, backward))
        found.add(self.between(layer), BACKWARD if backward else 1.0)
        if layer.experts:
            found.add(self.experts(layer, backward))
        found.add(self.exchange(layer, backward))
        return found

    def both_ways(self, layer: LayerWork) -> _Tally:
        """Forward, backward, and what is computed again between them."""
        found = self.layer(layer, False)
        again = self.layer(layer, False) if self.layout.recompute == "full" else _Tally()
        if self.layout.recompute == "selective" and self.training.scores:
            again = self.attention(layer, False)
        found.add(again)
        found.add(self.layer(layer, True))
        return found

    def stage(self, number: int) -> _Tally:
        """One micro-batch forward and backward through a stage."""
        found, seen = _Tally(), {}
        for layer in stage_layers(self.work, self.layout, number):
            seen[layer] = seen.get(layer, 0) + 1
        for layer, times in seen.items():
            found.add(self.both_ways(layer), times)
        if number == self.layout.pipeline - 1:
            head = (Matmul("vocabulary", self.work.width, self.work.vocabulary),)
            plain = Clock(self.work, self.device, _without_fp8(self.training), self.layout, self.physics)
            for backward in (False, True):
                found.add(plain.products(head, self.tokens, self.layout.tensor, backward))
            scores = self.tokens * self.work.vocabulary / self.layout.tensor
            found.memory += scores * (2 * self.training.bytes + 5 * 4) / self.bandwidth
        found.kernels *= self.physics.kernel
        return found

    def step(self) -> Step:
        layout, training = self.layout, self.training
        pieces = layout.pieces(training)
        last = self.stage(layout.pipeline - 1)
        first = self.stage(0) if layout.pipeline > 1 else last
        slowest = max(first, last, key=lambda found: found.total)
        turns = (layout.pipeline - 1) / layout.interleave
        bubble = turns * ((layout.pipeline - 1) * first.total + last.total) / layout.pipeline
        handed = self._between_stages() * (pieces + turns)
        data, spread = self._data(slowest, pieces)
        dense, expert = parameters(self.work, layout, 0)
        optimizer = self._optimizer()
        busy = pieces * slowest.total + bubble + handed + data + optimizer
        return Step(
            matrix=pieces * slowest.matrix,
            memory=pieces * slowest.memory,
            kernels=pieces * slowest.kernels,
            tensor=pieces * slowest.tensor,
            expert=pieces * slowest.expert,
            context=pieces * slowest.context,
            pipeline=handed,
            data=data,
            bubble=bubble,
            optimizer=optimizer,
            straggling=busy * self.physics.straggle * math.log2(max(spread, 1)),
        )

    def _between_stages(self) -> float:
        """Seconds in which a device sends a micro-batch's vectors on, forward and backward, and nothing else."""
        layout = self.layout
        if layout.pipeline == 1:
            return 0.0
        message = self.tokens * self.work.width * self.training.bytes / layout.tensor
        far = layout.devices > self.device.node
        link = self.device.inter * self.physics.inter if far else self.device.intra * self.physics.intra
        visible = self.visible("data")
        return 2 * layout.interleave * (message / link + self.physics.hop) * visible

    def _data(self, slowest: _Tally, pieces: int) -> tuple[float, float]:
        """(seconds in which gradients and sliced weights travel and nothing is computed, nodes of the job)."""
        layout, training = self.layout, self.training
        weight = training.bytes
        dense, expert = parameters(self.work, layout, 0)
        rows = layout.data * layout.context
        stride = layout.tensor
        nodes = max(layout.devices / self.device.node, 1)
        gradient = 4 if training.precision == "fp32" else training.gradient_bytes
        if training.lora_rank:
            return 0.0, nodes
        total = 0.0
        for number, members, apart in (
            (dense, rows, stride),
            (expert, max(rows * layout.tensor // layout.expert, 1), min(layout.expert, self.device.node)),
        ):
            if layout.zero == 3:
                passes = (3 if layout.recompute == "full" else 2) * weight + gradient
                total += pieces * self.ring(number * passes, members, apart)
            else:
                both = gradient + (weight if layout.zero else gradient)
                total += self.ring(number * both, members, apart)
        if layout.zero == 3:
            computing = pieces * slowest.total
            return max(total - computing, 0) + (1 - self.physics.hide) * min(total, computing), nodes
        if training.hides("data"):  # behind the last micro-batch's backward pass and the first one's forward pass
            room = slowest.total / layout.interleave
            return max(total - room * self.physics.hide, (1 - self.physics.hide) * total), nodes
        return total, nodes

    def _optimizer(self) -> float:
        """Every state is read and written once, gradients are read twice (their norm first)."""
        weights, gradients, moments = states(self.work, self.layout, self.training, 0)
        return (weights + 2 * gradients + 2 * moments) / self.bandwidth


def _without_fp8(training: Training) -> Training:
    from dataclasses import replace

    return replace(training, precision="bf16") if training.precision == "fp8" else training


def step_time(
    work: Work, device: Device, training: Training, layout: Layout, constants: Physics | None = None
) -> Step:
    """Seconds of one update, by cause."""
    return Clock(work, device, training, layout, constants or physics()).step()
