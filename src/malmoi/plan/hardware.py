"""The machines: what each device can do, how devices are joined, what an hour costs, and where each number is from.

The facts stand in `hardware.yaml`, one line a device. A *cluster* is so many equal devices, in nodes whose devices
talk over a fast link (NVLink) while nodes talk over a network. `cluster("1024xA100-80GB")` reads what a person writes;
`this-machine` is the one at hand, as `malmoi doctor` measured it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError, nearest

THIS_MACHINE = "this-machine"
MOST_DEVICES = 10_000_000
ACHIEVABLE = 0.81  # of the printed peak, where nobody has published a measurement: the median of the rows that have one


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator. Rates are floating-point operations or bytes a second, `memory` bytes, links one direction."""

    name: str
    bf16: float
    achievable: float  # the fastest measured bf16 product
    memory: float
    bandwidth: float
    node: int  # devices that share a fast link
    intra: float
    inter: float
    watts: float
    fp8: float = 0.0  # 0: it has no such units
    fp32: float = 0.0  # 0: not known, training in fp32 is not planned
    units: int = 0  # multiprocessors, each with a tile of a product; 0: not known, no wave is counted
    launch: float = 0.0  # seconds between two small operations, where they were measured
    cpu: bool = False  # a processor, on which our own program trains
    status: str = "verified"
    source: str = ""
    note: str = ""

    @property
    def measured(self) -> bool:
        """Are its rates what `malmoi doctor` saw, rather than what a data sheet promises?"""
        return self.status == "measured"

    @property
    def doubtful(self) -> str:
        """Why a number of this row is not to be trusted fully; empty where all are verified."""
        return "" if self.status in ("verified", "measured") else f"{self.status}: {self.note or self.source}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """`count` equal devices."""

    count: int
    device: Device

    @property
    def nodes(self) -> int:
        return -(-self.count // self.device.node)

    def __str__(self) -> str:
        return f"{self.count} x {self.device.name}"


@dataclass(frozen=True, slots=True)
class Price:
    """What somebody asked for an hour of one device on a day."""

    dollars: float
    vendor: str
    date: str
    source: str


@functools.cache
def _table() -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(Path(__file__).with_name("hardware.yaml").read_text(encoding="utf-8"), Loader=loader)


def names() -> list[str]:
    """Every device that has a line, and the racks."""
    return [*_table()["devices"], *_table()["racks"], THIS_MACHINE]


def device(name: str) -> Device:
    """A device by its name or a usual other spelling. Raises `MalmoiError` with the nearest known names."""
    if _plain(name) == _plain(THIS_MACHINE):
        from malmoi.plan.machine import this_machine

        return this_machine()
    known = {_plain(other): key for key, row in _table()["devices"].items() for other in (key, *row["aliases"])}
    if _plain(name) not in known:
        raise MalmoiError(
            f"There is no device '{name}' in the table.{nearest(name, names())} All: {', '.join(names())}."
        )
    key = known[_plain(name)]
    row = {field: value for field, value in _table()["devices"][key].items() if field != "aliases"}
    tera, giga = ("bf16", "fp8", "achievable", "bandwidth"), ("memory", "intra", "inter")
    scaled = {field: value * (1e12 if field in tera else 1e9 if field in giga else 1) for field, value in row.items()}
    scaled.setdefault("achievable", ACHIEVABLE * scaled["bf16"])
    scaled["memory"] = row["memory"] * 2**30  # what a data sheet calls a GB of memory is a GiB
    scaled["source"] = _table()["sources"][row["source"]]
    return Device(name=key, **scaled)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def cluster(text: str) -> Cluster:
    """`1024xA100-80GB`, `96xNVL72` (racks count as all their devices), `H100`, `this-machine`.

    Raises `MalmoiError` for what is no such thing.
    """
    found = re.fullmatch(r"\s*(?:([\d_,]+)\s*[x×*]\s*)?(.+?)\s*", text, flags=re.IGNORECASE)
    if not found:
        raise MalmoiError("--on needs a machine, such as 8xH100 or this-machine.")
    count = int((found[1] or "1").replace(",", "").replace("_", "") or 0)
    racks = {_plain(key): value for key, value in _table()["racks"].items()}
    name, each = racks.get(_plain(found[2]), (found[2], 1))
    total = count * each
    if not 1 <= total <= MOST_DEVICES:
        raise MalmoiError(f"'{text}' is {total:,} devices; a cluster has between 1 and {MOST_DEVICES:,}.")
    one = device(name)
    if one.name == THIS_MACHINE and total > 1:
        raise MalmoiError(f"There is one {THIS_MACHINE}, not {total}.")
    return Cluster(total, replace(one, node=min(one.node, total)))


def prices(name: str) -> tuple[Price, ...]:
    """What was asked for an hour of this device, the lowest first; empty where no price is known."""
    found = [Price(row[1], row[2], str(row[3]), row[4]) for row in _table()["prices"] if row[0] == name]
    return tuple(sorted(found, key=lambda price: price.dollars))
