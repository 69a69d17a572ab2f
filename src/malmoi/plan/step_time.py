"""Seconds of one update: what each device computes, moves, sends and waits for.

One model for every machine and every publication. A layer is its matrix products, its attention, the bytes of
everything between them, and what it sends; `malmoi.plan.physics` says what each takes on a device. A pipeline's stage
is its layers, an update so many micro-batches of the slowest stage, the wait of (p - 1) / v micro-batches'
time (Narayanan et al., arXiv 2104.04473), the gradients' way over the data axis and the optimizer's pass over memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from malmoi.plan.hardware import Device
from malmoi.plan.layout import Layout, Overlap, Training
from malmoi.plan.memory import parameters, stage_layers, states
from malmoi.plan.physics import Machine, Physics, physics
from malmoi.plan.work import LayerWork, Matmul, Work

BACKWARD = 1.5  # bytes of the elementwise backward pass, for each of the forward pass
FLASH_BACKWARD = 2.5  # five products where the forward pass has two
LOSS = 48  # bytes for each score: to fp32, largest, difference, exponential, sum, quotient, gradient, back to 16 bits
TENSORS = 3  # learned tensors for each product: its matrix, its bias, half a norm's two


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of an update on the critical path, by cause."""

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
        computing = self.matrix + self.memory + self.kernels + self.optimizer
        return computing + self.communication + self.bubble + self.straggling


@dataclass(slots=True)
class _Tally:
    """Seconds of a pass through a layer or a stage; `kernels` is a number until the stage is summed."""

    matrix: float = 0.0
    memory: float = 0.0
    kernels: float = 0.0
    tensor: float = 0.0
    expert: float = 0.0
    context: float = 0.0

    def add(self, other: _Tally, times: float = 1.0) -> None:
        self.matrix += times * other.matrix
        self.memory += times * other.memory
        self.kernels += times * other.kernels
        self.tensor += times * other.tensor
        self.expert += times * other.expert
        self.context += times * other.context

    @property
    def total(self) -> float:
        return self.matrix + self.memory + self.kernels + self.tensor + self.expert + self.context


@dataclass(frozen=True, slots=True)
class Clock:
    """Times a training on a device; holds what every part of the sum needs."""

    work: Work
    machine: Machine
    training: Training
    layout: Layout

    @property
    def device(self) -> Device:
        return self.machine.device

    @property
    def physics(self) -> Physics:
        return self.machine.physics

    @property
    def tokens(self) -> float:
        """Of a micro-batch on one device."""
        return self.layout.micro_batch * self.training.sequence / self.layout.context

    def visible(self, kind: Overlap) -> float:
        """The part of this communication that nothing hides."""
        return 1 - self.physics.hide if self.training.hides(kind) else 1.0

    # ---- the parts of a layer -------------------------------------------------------------------------------------

    def products(
        self, matmuls: tuple[Matmul, ...], rows: float, cut: int, backward: bool, copies: float = 1, precision: str = ""
    ) -> _Tally:
        """Products that `rows` tokens pass, in `copies` (experts); backward also those of the weights' gradients."""
        machine, found, how = self.machine, _Tally(), precision or self.training.precision
        a, whole = self.training.bytes, 2 * self.training.gradient_bytes  # a gradient is added to a sum
        for each in matmuls:
            inputs = each.inputs / (cut if each.cut == "in" else 1)
            outputs = each.outputs / (cut if each.cut == "out" else 1)
            if not backward:
                times = [machine.product(rows, inputs, outputs, how, a, copies)]
            else:
                times = [machine.product(rows, outputs, inputs, how, a, copies)]
                if not self.training.lora_rank:
                    times.append(machine.product(inputs, rows, outputs, how, whole, copies))
            found.matrix += sum(time[0] for time in times)
            found.memory += sum(time[1] for time in times)
            found.memory += machine.rounding(copies * rows * (outputs if backward else inputs), how)
            found.kernels += copies * (len(times) + (2 if how == "fp8" else 0))
        return found

    def attention(self, layer: LayerWork, backward: bool) -> _Tally:
        """Scores and values. Fused: operations at a lower rate. Written out: two products and the table's bytes."""
        cut, sequence, machine = self.layout.tensor, self.training.sequence, self.machine
        how = "bf16" if self.training.precision == "fp8" else self.training.precision
        found = _Tally()
        if not self.training.scores:
            flops = self.tokens * layer.attention_flops(sequence) / cut * (FLASH_BACKWARD if backward else 1.0)
            found.matrix = flops / (machine.rate(how) / self.physics.matrix * self.physics.flash)
            found.kernels = 3 if backward else 1
            return found
        table = self.tokens * layer.heads / cut * sequence
        moved = (8 + 6 if backward else 4 + 4) + (5 if self.training.dropout else 0)
        flops = self.tokens * layer.attention_flops(sequence, causal=False) / cut
        found.matrix = flops * (2 if backward else 1) / machine.rate(how)
        found.memory = moved * self.training.bytes / 2 * table / machine.bandwidth
        found.kernels = 6 if backward else 4
        return found

    def light(self, layer: LayerWork) -> _Tally:
        """Norms and activation functions: bytes and kernels of the forward pass that are cheap to repeat."""
        w, a, cut = self.work.width, self.training.bytes, self.layout.tensor
        vectors = 3 if layer.gated else 2
        numbers = 2 * 2 * w * a / (cut if self.layout.sequence_parallel else 1)
        numbers += vectors * layer.dense_hidden * a / cut
        numbers += layer.per_token * vectors * layer.expert_hidden * a / cut
        return _Tally(memory=self.tokens * numbers / self.machine.bandwidth, kernels=4)

    def between(self, layer: LayerWork) -> _Tally:
        """All that is neither product nor attention: `light`, residual sums, dropout, rotations, the experts' order."""
        w, a, cut = self.work.width, self.training.bytes, self.layout.tensor
        share = 1 / cut if self.layout.sequence_parallel else 1.0
        numbers = share * 2 * (3 * w * a + (w if self.training.dropout else 0))
        found = self.light(layer)
        found.kernels += 5
        if not self.work.input_only:  # rotary: queries and keys are read and written once more
            numbers += 2 * a * layer.heads * layer.key_dim / cut
            found.kernels += 2
        found.memory += self.tokens * numbers / self.machine.bandwidth
        if layer.experts:
            # copied into the order of devices, sorted by expert there, and both undone: each reads and writes a vector
            copies = self.tokens * share * layer.per_token
            placed = copies * (8 * a * w / self.machine.bandwidth + self.physics.route)
            found.expert = placed * self.visible("expert")
            found.kernels += 30
        return found

    def experts(self, layer: LayerWork, backward: bool) -> _Tally:
        """The experts on one device, one product after the other, and the tokens' way to them and back."""
        layout = self.layout
        here = layer.experts / layout.expert
        tokens = self.tokens / (layout.tensor if layout.sequence_parallel else 1)
        found = self.products(layer.expert, tokens * layer.per_token / here, 1, backward, here)
        way = self.machine.all_to_all(tokens, self.work.width * self.training.bytes, layout.expert, layer.per_token)
        found.expert = 2 * way * self.visible("expert")
        return found

    def exchange(self, layer: LayerWork, backward: bool) -> _Tally:
        """Tensor parallelism's sums (two in each direction) and context parallelism's keys and values."""
        layout, a, ring = self.layout, self.training.bytes, self.machine.ring
        found = _Tally()
        visible = self.visible("tensor")
        if layout.tensor > 1:
            message = self.tokens * self.work.width * a
            found.tensor = visible * 2 * ring(2 * message, layout.tensor, 1)
            if backward and layout.sequence_parallel:  # gathered once more, behind the products of the backward pass
                found.tensor += (1 - self.physics.hide) * 2 * ring(message, layout.tensor, 1)
        if layout.context > 1:
            cut = min(layout.tensor, layer.kv_heads)
            rows = layout.micro_batch * self.training.sequence
            message = rows * layer.kv_heads * (layer.key_dim + layer.value_dim) / cut * a
            times = 2 if backward else 1
            found.context = visible * times * ring(message, layout.context, layout.tensor)
        return found

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
        if self.layout.recompute == "full":
            found.add(found)
        elif self.layout.recompute == "selective":
            found.add(self.attention(layer, False) if self.training.scores else self.light(layer))
        found.add(self.layer(layer, True))
        return found

    def stage(self, number: int) -> _Tally:
        """One micro-batch forward and backward through a stage."""
        found = _Tally()
        for layer, times in stage_layers(self.work, self.layout, number):
            found.add(self.both_ways(layer), times)
        if number == self.layout.pipeline - 1:
            head = (Matmul("vocabulary", self.work.width, self.work.vocabulary),)
            plain = "bf16" if self.training.precision == "fp8" else self.training.precision
            for backward in (False, True):
                found.add(self.products(head, self.tokens, self.layout.tensor, backward, precision=plain))
            scores = self.tokens * self.work.vocabulary / self.layout.tensor
            found.memory += scores * (2 * self.training.bytes + LOSS) / self.machine.bandwidth
        number_of_kernels, found.kernels = found.kernels, 0.0
        found.kernels = self.machine.kernels(number_of_kernels, found.total)
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
        data = self._data(slowest, pieces)
        optimizer = self._optimizer()
        busy = pieces * slowest.total + bubble + handed + data + optimizer
        nodes = max(layout.devices / self.device.node, 1)
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
            straggling=busy * self.physics.straggle * math.log2(nodes),
        )

    def _between_stages(self) -> float:
        """Seconds in which a device sends a micro-batch's vectors on, forward and backward, and nothing else."""
        layout = self.layout
        if layout.pipeline == 1:
            return 0.0
        message = self.tokens * self.work.width * self.training.bytes / layout.tensor
        far = layout.devices > self.device.node
        link = self.device.inter * self.physics.inter if far else self.device.intra * self.physics.intra
        return 2 * layout.interleave * (message / link + self.physics.hop) * self.visible("data")

    def _data(self, slowest: _Tally, pieces: int) -> float:
        """Seconds in which gradients and sliced weights travel and nothing is computed."""
        layout, training, ring = self.layout, self.training, self.machine.ring
        if training.lora_rank:
            return 0.0
        weight = training.bytes
        gradient = 4 if training.precision == "fp32" else training.gradient_bytes
        dense, expert = parameters(self.work, layout, 0)
        rows = layout.data * layout.context
        total = 0.0
        for number, members, apart in (
            (dense, rows, layout.tensor),
            (expert, max(rows * layout.tensor // layout.expert, 1), min(layout.expert, self.device.node)),
        ):
            if layout.zero == 3:
                passes = 3 if layout.recompute == "full" else 2
                messages = (passes + 1) * self._units()
                total += pieces * ring(number * (passes * weight + gradient), members, apart, messages)
            else:
                both = gradient + (weight if layout.zero else gradient)
                total += ring(number * both, members, apart)
        if not training.hides("data"):
            return total
        # sliced weights travel behind the layers before; gradients behind the last backward and the next forward pass:
        # of one micro-batch, or, interleaved, of the pipeline's last round, which ends with one piece after another
        turn = 1 / layout.interleave
        room = slowest.total * (pieces if layout.zero == 3 else turn + min(layout.pipeline, pieces) * (1 - turn))
        return max(total - room * self.physics.hide, (1 - self.physics.hide) * total)

    def _units(self) -> int:
        """Messages in which a stage's weights are gathered: a layer at a time, or (nothing overlapped) each tensor."""
        layers = stage_layers(self.work, self.layout, 0)
        each_tensor = not self.training.hides("data")
        return sum(number * (TENSORS * len(layer.dense) if each_tensor else 1) for layer, number in layers)

    def _optimizer(self) -> float:
        """Every state is read and written once, gradients are read twice (their norm first)."""
        weights, gradients, moments = states(self.work, self.layout, self.training, 0)
        moved = (weights + 2 * gradients + 2 * moments) / self.machine.bandwidth
        return moved + (0.0 if self.device.measured else self.physics.pause)


def step_time(work: Work, device: Device, training: Training, layout: Layout, constants: Physics | None = None) -> Step:
    """Seconds of one update, by cause."""
    return Clock(work, Machine(device, constants or physics()), training, layout).step()
