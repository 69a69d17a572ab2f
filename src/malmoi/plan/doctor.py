"""What this machine can do, measured: matrix products, memory, disk; and what stands in the way of more.

Each rate is the best of short runs, because what disturbs a measurement only ever makes it slower. A product counts
2 x rows x inputs x outputs operations; a copy counts what is read and what is written. Torch is imported when something
is measured, so that a plan, which only reads the results, stays quick.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from malmoi.plan import machine

SIDE = 1024  # of the square matrices of a product on a CPU
SIDE_CUDA = 8192
BUFFER = 256 << 20  # bytes that are read or copied: far more than caches hold
DISK = 128 << 20
ENOUGH = 1.0  # seconds for a measurement
CLOCK = time.perf_counter
KINDS = ("float32", "bfloat16", "int8")
FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
)


def examine(libraries: dict[str, str | None], folder: Path | None = None) -> dict[str, Any]:
    """Measure everything; a record for `machine.save`. Takes 10 to 30 seconds.

    `libraries`: compiled parts by name, each with the reason why it is not used, or None. `folder`: whose disk is
    measured (None: that of the record).
    """
    import numpy
    import torch

    folder = folder or machine.path().parent
    memory = memory_now()
    record: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "system": {"os": platform.platform(), "python": platform.python_version()},
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__},
        "libraries": libraries,
        "cpu": {"name": cpu_name(), "cores": cores(), "threads": torch.get_num_threads(), "flags": instructions()},
        "memory": memory,
        "disk": disk(folder),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    record["cpu"] |= rates("cpu", SIDE)
    record["cpu"]["speedup"] = speedup()
    record["cuda"] = [_cuda(number) for number in range(torch.cuda.device_count())]
    record["advice"] = advice(record)
    return record


# ---- what is there --------------------------------------------------------------------------------------------------


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _proc(file: str) -> dict[str, str]:
    """`name : value` lines of a file of Linux; the first of each name. Empty elsewhere."""
    found: dict[str, str] = {}
    try:
        lines = Path("/proc", file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def cpu_name() -> str:
    return _proc("cpuinfo").get("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The vector instruction sets that matter here, as Linux names them; elsewhere what torch sees."""
    import torch

    there = _proc("cpuinfo")
    words = (there.get("flags") or there.get("Features") or "").split()
    return [flag for flag in FLAGS if flag in words] or [torch.backends.cpu.get_cpu_capability().lower()]


def memory_now() -> dict[str, int | None]:
    """Bytes of memory: all, and what a new program could have. None where the system does not say."""
    there = _proc("meminfo")
    if "MemAvailable" in there:
        total, available = (int(there[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return {"total": total, "available": min(available, _allowance() or available)}
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return {"total": None, "available": None}
    return {"total": total, "available": total}


def _allowance() -> int | None:
    """What a container may still take (cgroup v2); None without a limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return max(int(limit) - int(used), 0) if limit.isdigit() else None


# ---- measuring ------------------------------------------------------------------------------------------------------


def fastest(work: Callable[[], Any], enough: float = ENOUGH) -> float:
    """Seconds of the quickest of as many runs as fit into `enough` seconds; three at least, unless one takes longer."""
    best, begin, runs = float("inf"), CLOCK(), 0
    while CLOCK() - begin < enough or (runs < 3 and best < enough):
        start = CLOCK()
        work()
        best, runs = min(best, CLOCK() - start), runs + 1
    return best


def rates(device: str, side: int) -> dict[str, Any]:
    """Operations a second of products, bytes a second of memory, seconds of a small operation, on a torch device."""
    import torch

    def done(work: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (work(), torch.cuda.synchronize(device)) if device.startswith("cuda") else work()

    wide = torch.rand(BUFFER // 4, device=device)
    other = torch.empty_like(wide)
    reading = fastest(done(wide.sum))
    copying = fastest(done(lambda: other.copy_(wide)))
    return {
        "matmul": {kind: matmul(kind, side, device, done) for kind in KINDS},
        "side": side,
        "bandwidth": {"read": BUFFER / reading, "copy": 2 * BUFFER / copying},
        "launch": launch(device, done),
    }


def matmul(kind: str, side: int, device: str, done: Callable[..., Any] = lambda work: work) -> float | None:
    """Operations a second of a square product; None where torch has no such product here."""
    import torch

    if kind == "int8":
        numbers = torch.ones(side, side, dtype=torch.int8, device=device)
        work = done(lambda: torch._int_mm(numbers, numbers))  # pyright: ignore[reportPrivateImportUsage]
    else:
        matrix = torch.rand(side, side, device=device).to(getattr(torch, kind))
        result = torch.empty_like(matrix)
        work = done(lambda: torch.mm(matrix, matrix, out=result))
    try:
        return 2.0 * side**3 / fastest(work)
    except RuntimeError:
        return None


def launch(device: str, done: Callable[..., Any], operations: int = 200) -> float:
    """Seconds that one small operation of a training step takes, its way back included, however little it computes."""
    import torch

    x = torch.ones(16, device=device, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(operations):
            y = y * 1.0
        y.sum().backward()

    return fastest(done(chain), 0.3) / (2 * operations)


def speedup() -> float:
    """How much faster a product is with all threads than with one: near their number when nothing else runs."""
    import torch

    matrix, threads = torch.rand(SIDE, SIDE), torch.get_num_threads()
    try:
        together = statistics.median(fastest(lambda: matrix @ matrix, 0.1) for _ in range(3))
        torch.set_num_threads(1)
        alone = fastest(lambda: matrix @ matrix, 0.3)
    finally:
        torch.set_num_threads(threads)
    return alone / together


def disk(folder: Path) -> dict[str, Any]:
    """Bytes a second written (until they lie on the disk) and read back, and what is free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _disk(folder)
    except OSError as error:
        raise machine.refused(folder, error) from None


def _disk(folder: Path) -> dict[str, Any]:
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".malmoi-doctor-") as file:
        start = time.perf_counter()
        for _ in range(DISK // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        forgotten = hasattr(os, "posix_fadvise")
        if forgotten:  # else the system would read its own memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        while file.read(1 << 20):
            pass
        read = time.perf_counter() - start
    return {
        "write": DISK / written,
        "read": DISK / read if forgotten else None,
        "free": shutil.disk_usage(folder).free,
    }


def _cuda(number: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(number)
    found = rates(f"cuda:{number}", SIDE_CUDA)
    return {"name": properties.name, "memory": properties.total_memory, **found}


# ---- what it means --------------------------------------------------------------------------------------------------


def advice(record: dict[str, Any]) -> list[dict[str, str]]:
    """What stands in the way, each with what to do: `{"problem", "do"}`. Empty: nothing does."""
    cpu, found = record["cpu"], []

    def say(problem: str, do: str) -> None:
        found.append({"problem": problem, "do": do})

    for name, reason in record["libraries"].items():
        if reason is not None:
            say(
                f"The compiled {name} is not used: {reason}",
                "Everything works without it, slower. Install a C++ compiler and install Malmoi again.",
            )
    products = cpu["matmul"]
    slow = products.get("bfloat16") is None or products["bfloat16"] < products["float32"]
    if not record["cuda"] and slow:
        say(
            "This processor multiplies bfloat16 more slowly than float32.",
            "Train in float32, which dtype: auto chooses here. To generate faster: malmoi quantise.",
        )
    if cpu["threads"] < cpu["cores"]:
        say(
            f"torch uses {cpu['threads']} of {cpu['cores']} cores.",
            "Unset OMP_NUM_THREADS, or set train.num_threads, unless that is meant.",
        )
    if cpu["threads"] > 1 and cpu["speedup"] < 0.75 * cpu["threads"]:
        say(
            f"With {cpu['threads']} threads a product is only {cpu['speedup']:.1f} times as fast as with one: another "
            f"program uses a core, and torch's threads wait for each other at every step.",
            f"Stop the other program, or train with num_threads {cpu['threads'] - 1}. Measure again afterwards: the "
            f"rates below are lower than this machine's.",
        )
    memory = record["memory"]["available"]
    if memory is not None and memory < 2 << 30:
        say(
            f"Only {memory / 2**30:.1f} GiB of memory are free.",
            "Close other programs; train the size nano or micro; lower per_device_train_batch_size.",
        )
    if record["disk"]["free"] < 5 << 30:
        say(
            f"Only {record['disk']['free'] / 2**30:.1f} GiB of disk are free.",
            "Checkpoints of a run take three times its weights, twice. Make room, or lower save_total_limit.",
        )
    return found
