"""What one machine does: the seconds of a matrix product, of bytes, of a collective. A handful of constants for all.

A matrix product takes its operations at a fraction of the fastest rate that anybody measured. Shape decides the rest:
the multipliers fill and empty for every product (`depth`), its last wave of tiles leaves some of them idle (`wave`),
and the bytes that it moves hide behind the operations only in part (`traffic`). So a small or thin product is slow
without a table of efficiencies. A collective takes bytes over links and a latency for every step around its ring.

`constants.json` holds the constants as `benchmarks/planner.py --fit` found them on published runs, with what the fit is
worth for a system that it has not seen. None of them belongs to a paper, a row or a device.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmoi.plan.hardware import Device

REFERENCE = 312e12  # an A100's peak: the machine on which `Physics.depth` is counted
TILE = 128 * 256  # numbers of a product's result that one multiprocessor makes at a time (cuBLAS's largest usual tile)
FP8_ROUNDING = 6.0  # bytes to round a number for an fp8 product: read for the largest, read again, written both ways


@dataclass(frozen=True, slots=True)
class Physics:
    """The constants of the machine model. Fractions are of what a data sheet or a measured ceiling promises."""

    matrix: float = 0.90  # of the achievable bf16 rate, sustained in a training step
    fp8: float = 0.75  # of the same fraction of the fp8 rate
    flash: float = 0.55  # of the achievable rate, in fused attention
    memory: float = 0.85  # of the memory bandwidth
    route: float = 5e-8  # seconds of finding a token's place among an expert's, beside moving it there
    depth: float = 100.0  # of a sum's terms, on an A100: what filling and emptying the multipliers costs
    wave: float = 0.5  # of a wave of tiles, idle at the end of a product
    traffic: float = 0.5  # of a product's bytes that do not hide behind its operations
    intra: float = 0.75  # of the fast link inside a node
    inter: float = 0.85  # of a network card
    hide: float = 0.85  # of communication, where the software overlaps it
    kernel: float = 2e-6  # seconds between two kernels on the device
    launch: float = 6e-6  # seconds in which the host starts one; the slower of host and device sets the pace
    hop: float = 7e-6  # seconds of one step around a ring
    pause: float = 0.010  # seconds between two steps in which nothing is computed: norms, checks, the next batch
    straggle: float = 0.004  # of the time, for every doubling of the nodes


@functools.cache
def constants() -> dict[str, Any]:
    """The fitted constants with what the fit is worth: `values`, `cross_validated`, `date`, `rows`, `systems`."""
    return json.loads(Path(__file__).with_name("constants.json").read_text(encoding="utf-8"))


def physics() -> Physics:
    """The fitted constants."""
    return Physics(**constants()["values"])


def interval() -> tuple[float, float]:
    """The factors between which nine of ten published steps lay, each predicted without its own system's rows."""
    found = constants()["cross_validated"]
    return float(found["low"]), float(found["high"])


@dataclass(frozen=True, slots=True)
class Machine:
    """A device under the constants."""

    device: Device
    physics: Physics

    @property
    def bandwidth(self) -> float:
        """Bytes a second that simple kernels reach."""
        return self.device.bandwidth * (1.0 if self.device.measured else self.physics.memory)

    def rate(self, precision: str) -> float:
        """Operations a second of a large product in a training step."""
        if self.device.measured:  # measured here, in the same library that trains
            return self.device.fp32 if precision == "fp32" and self.device.fp32 else self.device.achievable
        if precision == "fp32" and self.device.fp32:
            return self.device.fp32 * self.physics.matrix
        rate = self.device.achievable * self.physics.matrix
        if precision == "fp8" and self.device.fp8:
            rate *= self.device.fp8 / self.device.bf16 * self.physics.fp8
        return rate

    def product(
        self, rows: float, inputs: float, outputs: float, precision: str, written: float, copies: float = 1.0
    ) -> tuple[float, float]:
        """(seconds of operations, seconds of bytes that do not hide) of `copies` of (rows, inputs) x (inputs, outputs).

        `written` bytes leave for each number of the result. Copies (experts) follow each other without a wait, so only
        their last wave is idle.
        """
        size = 4 if precision == "fp32" else 1 if precision == "fp8" and self.device.fp8 else 2
        moved = copies * (size * (rows * inputs + inputs * outputs) + written * rows * outputs)
        filling = inputs + self.physics.depth * self.device.bf16 / REFERENCE  # faster multipliers, longer to fill
        area = copies * rows * outputs + self.physics.wave * self.device.units * TILE
        return 2.0 * filling * area / self.rate(precision), self.physics.traffic * moved / self.bandwidth

    def rounding(self, numbers: float, precision: str) -> float:
        """Seconds to round what enters fp8 products."""
        return FP8_ROUNDING * numbers / self.bandwidth if precision == "fp8" and self.device.fp8 else 0.0

    def kernels(self, number: float, device_seconds: float) -> float:
        """Seconds that starting kernels adds to the device's own: gaps, or the host where it cannot keep up."""
        gaps = number * (self.device.launch or self.physics.kernel)
        if self.device.launch:
            return gaps
        busy, host = device_seconds + gaps, number * self.physics.launch
        return (busy**4 + host**4) ** 0.25 - device_seconds

    def ring(self, bytes_moved: float, members: int, stride: int, messages: float = 1.0) -> float:
        """Seconds of collectives in which each member receives nearly `bytes_moved` in so many messages.

        Members lie `stride` devices apart. Inside a node bytes take the fast link; between nodes every member's own
        network card carries its share.
        """
        if members <= 1 or not bytes_moved:
            return 0.0
        near = max(min(members, self.device.node // stride), 1)
        nodes = -(-members // near)
        seconds = bytes_moved * (near - 1) / near / (self.device.intra * self.physics.intra)
        if nodes > 1:
            across = bytes_moved * (nodes - 1) / nodes / (self.device.inter * self.physics.inter * near)
            seconds = max(seconds, across)
        return seconds + messages * self.physics.hop * (members - 1)

    def all_to_all(self, tokens: float, bytes_each: float, members: int, chosen: int) -> float:
        """Seconds in which each of `tokens` reaches the devices of its `chosen` experts among `members`.

        A token is sent once to each other node that it needs, and inside a node to every device that needs it.
        """
        if members <= 1:
            return 0.0
        near = min(members, self.device.node)
        nodes = members / near
        away = nodes * (1 - (1 - 1 / nodes) ** chosen) * (nodes - 1) / nodes
        inside = chosen * (near - 1) / near
        seconds = tokens * bytes_each * inside / (self.device.intra * self.physics.intra)
        seconds += tokens * bytes_each * away / (self.device.inter * self.physics.inter)
        return seconds + self.physics.hop * math.log2(members)
