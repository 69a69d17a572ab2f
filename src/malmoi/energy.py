"""What a run or an answer costs in joules: measured where the machine allows it, else estimated; always said which.

    meter = Meter.here()
    meter.start()
    ...
    meter.joules()   so far
    meter.method     "measured (RAPL)", "estimated (12 W assumed for a busy core)", ...
    meter.stop()

Processors of Intel and AMD count the energy of each package (cores, caches, memory controller) in a register that Linux
shows under /sys/class/powercap; NVIDIA's driver counts that of each card. Both counters see everything that runs on the
machine, and not the fans, disks, main memory or the power supply's losses. Where there is no counter, or it may not be
read (Linux keeps RAPL for root since it was found to betray secrets: Lipp et al., "PLATYPUS", 2021), the processor time
of this process is multiplied by an assumed power of a busy core.

Of a job of several processes, the first one measures its own machine (or estimates itself), and takes the others to be
like it. Reading costs microseconds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")
ASSUMED_WATTS = 12.0  # of a busy core of an unknown processor: "Any" in Green Algorithms' TDP_cpu.csv, v3.0
OFTEN = 60.0  # seconds: a counter that overflows must be read more often than it does (262 kJ: 22 minutes at 200 W)
WATT_HOUR = 3600.0  # joules


class Source(Protocol):
    """A part of the machine whose energy is known: a label, and joules since the first call."""

    label: str

    def joules(self) -> float:
        """Joules since the source was made."""
        ...


class Rapl:
    """The energy counters of the processor packages. Each counts microjoules up to a limit and begins again at 0."""

    label = "measured (RAPL)"

    def __init__(self, packages: Sequence[Path], times: float = 1.0) -> None:
        self.counters = [package / "energy_uj" for package in packages]
        self.limits = [_number(package / "max_energy_range_uj") for package in packages]
        self.times = times
        self.last = [_number(counter) for counter in self.counters]
        self.total = 0

    @classmethod
    def find(cls, times: float = 1.0, place: Path = POWERCAP) -> Rapl | None:
        """None where there are no counters or they may not be read, as is usual for anybody but root.

        Only whole packages are counted: their cores (`core`, `uncore`) are part of them, `psys` contains them, and
        `intel-rapl-mmio` is a second window on the same counter.
        """
        packages: dict[str, Path] = {}
        try:
            for path in sorted(place.glob("intel-rapl:*")):
                name = (path / "name").read_text(encoding="ascii").strip()
                if path.name.count(":") == 1 and name.startswith("package"):
                    packages.setdefault(name, path)
            return cls(list(packages.values()), times) if packages else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        for number, counter in enumerate(self.counters):
            with contextlib.suppress(OSError, ValueError):  # a counter that has gone away keeps what it had counted
                now = _number(counter)
                gained = now - self.last[number]
                self.total += gained if gained >= 0 else gained + self.limits[number]
                self.last[number] = now
        return self.total * 1e-6 * self.times


class Nvml:
    """What the cards in use have counted, through NVIDIA's own library (`pynvml`, extra `energy`). Volta or newer."""

    label = "measured (NVML)"

    def __init__(self, library: Any, cards: Sequence[Any], times: float = 1.0) -> None:
        self.library, self.cards, self.times = library, cards, times
        self.first = self._millijoules()

    @classmethod
    def find(cls, times: float = 1.0) -> Nvml | None:
        """The cards that torch uses now in this process; in a job, all that its processes on this machine use."""
        try:
            torch: Any = importlib.import_module("torch")
            library: Any = importlib.import_module("pynvml")
            library.nvmlInit()
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            numbers = range(local) if local > 1 else [torch.cuda.current_device()]
            names = [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in numbers]
            return cls(library, [library.nvmlDeviceGetHandleByUUID(name) for name in names], times)
        except Exception:  # not installed, no driver, a card that does not count: whatever it is, there is no number
            return None

    def _millijoules(self) -> int:
        return sum(self.library.nvmlDeviceGetTotalEnergyConsumption(card) for card in self.cards)

    def joules(self) -> float:
        return (self._millijoules() - self.first) * 1e-3 * self.times


class ProcessorTime:
    """An estimate: seconds that this process kept cores busy, all its threads added up, times the watts of a core."""

    def __init__(self, watts: float, label: str, times: float = 1.0) -> None:
        self.watts, self.label, self.times = watts, label, times
        self.first = time.process_time()

    @classmethod
    def here(cls, times: float = 1.0) -> ProcessorTime:
        found = codecarbon_watts()
        if found is not None:
            return cls(*found, times)
        return cls(ASSUMED_WATTS, f"estimated ({ASSUMED_WATTS:g} W assumed for a busy core)", times)

    def joules(self) -> float:
        return (time.process_time() - self.first) * self.watts * self.times


class Meter:
    """The joules of everything that a run uses: the sum of its sources."""

    def __init__(self, sources: Sequence[Source], note: str = "") -> None:
        self.sources = list(sources)
        self.method = " + ".join(source.label for source in self.sources) + note
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = self._ended = 0.0
        self._running = False

    @classmethod
    def here(cls) -> Meter:
        """What this machine offers."""
        processes, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        machines = max(processes // max(local, 1), 1)
        sources: list[Source] = [Rapl.find(machines) or ProcessorTime.here(processes)]
        note = f"; {processes} processes taken to be alike" if processes > 1 else ""
        torch = sys.modules.get("torch")  # whose cards cannot be in use before it is
        if torch is not None and torch.cuda.is_initialized():
            cards = Nvml.find(machines)
            if cards is not None:
                sources.append(cards)
            else:
                note += "; without the GPU, which cannot be read"
        return cls(sources, note)

    def start(self) -> None:
        """Count from now on (again, after a `stop`)."""
        self._began += self._read() - self._ended
        self._running = True
        self._over.clear()
        if any(isinstance(source, Rapl) for source in self.sources):
            threading.Thread(target=self._keep_up, daemon=True, name="energy").start()

    def stop(self) -> None:
        if self._running:
            self._ended = self._read()
            self._running = False
            self._over.set()

    def joules(self) -> float:
        """Since `start`, without the time between a `stop` and the next `start`."""
        return (self._read() if self._running else self._ended) - self._began

    def _read(self) -> float:
        with self._lock:
            return sum(source.joules() for source in self.sources)

    def _keep_up(self) -> None:
        while not self._over.wait(OFTEN):
            self._read()


@functools.cache
def codecarbon_watts() -> tuple[float, str] | None:
    """Watts of a busy core by codecarbon's table of processors (extra `energy`), with the label; None without it.

    Its rule for one process is used: the processor's TDP, divided by its cores. Only the table is asked, not its
    tracker, which would write files and reach for the network. A virtual machine cannot know how many cores its
    processor has, so that there, as for an unknown processor, codecarbon's default for a core is taken.
    """
    if importlib.util.find_spec("codecarbon") is None:
        return None
    name, virtual = processor()
    silenced = logging.getLogger("codecarbon")
    was, silenced.disabled = silenced.disabled, True
    try:
        cpu: Any = importlib.import_module("codecarbon.core.cpu")
        said = f"estimated (codecarbon {importlib.metadata.version('codecarbon')}"
        # not TDP(): it looks for the processor's name, which takes five seconds and starts processes
        tdp = None if virtual else cpu.TDP._get_cpu_power_from_registry(cpu.TDP.__new__(cpu.TDP), name)
        if tdp:
            return float(tdp) / (os.cpu_count() or 1), f"{said}: {tdp:g} W for {name})"
        watts = float(cpu.DEFAULT_POWER_PER_CORE)
        return watts, f"{said}: {watts:g} W for a busy core)"
    except Exception:  # another version's insides: our own assumption is still there
        return None
    finally:
        silenced.disabled = was


def processor() -> tuple[str, bool]:
    """The processor's name, and whether this is a virtual machine."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor(), False
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts.get("model name") or platform.processor(), "hypervisor" in facts.get("flags", "").split()


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
