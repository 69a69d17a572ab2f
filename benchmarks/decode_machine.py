"""What the machine is, and what it can do at best: the frame of all figures in decode.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from decode_peers import UnavailableError, run

LIMITS = Path(__file__).with_name("decode_limits.cpp")


def limits(folder: Path, threads: int) -> dict[str, Any]:
    """Bytes a second read, and operations a second of each kind of number (decode_limits.cpp), as good as it gets."""
    program = folder / "limits"
    if not program.is_file() or program.stat().st_mtime < LIMITS.stat().st_mtime:
        options = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
        run([os.environ.get("CXX", "c++"), *options, LIMITS, "-o", program], program.with_suffix(".log"))
    made = subprocess.run([str(program), str(threads)], capture_output=True, text=True)
    if made.returncode:
        raise UnavailableError(f"{LIMITS.name} ended with {made.returncode}")
    return json.loads(made.stdout)


def machine(threads: int) -> dict[str, Any]:
    """What a reader has to know of the machine."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    named = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    flags = next((line for line in facts.splitlines() if line.startswith("flags")), "")
    held = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": named[0] if named else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instructions": " ".join(held),
        "huge pages": pages.read_text(encoding="utf-8").strip() if pages.is_file() else "unknown",
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }
