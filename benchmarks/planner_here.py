"""Is the planner right about this machine? Our own training runs, each a process of its own, beside what was planned.

    flock LOCK env OMP_NUM_THREADS=1 python benchmarks/planner_here.py --out docs/results/planner_here.json
    python benchmarks/planner_here.py --report docs/results/planner_here.json

Each run makes some steps of `train/step.py` on one thread. Its memory is the peak of the process (resident set) above
what the process held before the model was made; its time is the median step in seconds of the core (CPU time), which
another program on the machine lengthens little. The planner knows the machine by `malmoi doctor`'s measurements of the
same minutes alone, and a few constants of CPUs (`plan/here.py`). Rows marked *fit* were looked at when those were
chosen; the others were not, and the errors that count are theirs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

# hidden size, layers, heads, sequence, rows of a micro-batch, micro-batches of a step, recomputation, optimizer
GRID: list[tuple[int, int, int, int, int, int, str, str]] = [
    (192, 4, 3, 256, 4, 1, "none", "adamw"),
    (256, 4, 4, 256, 4, 1, "none", "adamw"),
    (256, 6, 4, 512, 2, 1, "none", "adamw"),
    (384, 4, 6, 256, 4, 1, "none", "adamw"),
    (384, 6, 6, 256, 2, 2, "none", "adamw"),
    (256, 4, 4, 256, 8, 1, "none", "adamw"),
    (256, 4, 4, 256, 4, 2, "none", "muon"),
    (256, 6, 4, 256, 4, 1, "full", "adamw"),
    (384, 4, 6, 512, 2, 1, "selective", "adamw"),
    (512, 4, 8, 256, 2, 1, "none", "adamw"),
    (192, 8, 3, 256, 8, 1, "none", "adamw"),
    (256, 8, 4, 512, 1, 2, "none", "adamw"),
    (384, 4, 6, 256, 4, 1, "full", "adamw"),
    (512, 4, 8, 256, 2, 1, "selective", "adamw"),
]
FITTED = frozenset({0, 1, 2})  # the runs that had been made when the constants of plan/here.py were chosen
VOCABULARY = 8192
STEPS = 5
NAMES = ("hidden", "layers", "heads", "sequence", "rows", "accumulation", "recompute", "optimizer")


def model_settings(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": row["hidden"],
        "num_hidden_layers": row["layers"],
        "num_attention_heads": row["heads"],
        "max_position_embeddings": row["sequence"],
    }


# ---- a run, in a process of its own ---------------------------------------------------------------------------------


def run(row: dict[str, Any], settings: dict[str, Any], steps: int) -> list[float]:
    """CPU seconds of each of some steps of learning."""
    import torch

    from malmoi.config import ModelConfig, TrainConfig
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train.memory import Piece
    from malmoi.train.optimizer import build
    from malmoi.train.parallel import recompute
    from malmoi.train.precision import resolve
    from malmoi.train.step import optimizer_step

    length, seconds = settings["max_position_embeddings"], []
    model = GPT4LMHeadModel(ModelConfig(**settings)).train()
    for block in model.model.layers:
        recompute(block, row["recompute"])
    config = TrainConfig(optimizer=row["optimizer"], dtype="float32")
    precise = resolve(config, torch.device("cpu"))
    owner = build(model, config, precise.muon)
    ids = torch.randint(0, settings["vocab_size"], (row["rows"], length))
    positions = torch.arange(length).repeat(row["rows"], 1)
    batch = Piece(ids, ids.roll(-1, 1), positions, torch.zeros_like(ids), ids.numel())
    for step in range(steps):
        start = time.process_time()
        optimizer_step(
            model,
            owner,
            [batch] * row["accumulation"],
            learning_rate_factor=1.0,
            max_grad_norm=1.0,
            precision=precise,
            seed=0,
            step=step,
        )
        seconds.append(time.process_time() - start)
    return seconds


def held(row: dict[str, Any], channel: Any) -> None:
    """Bytes that a run takes beyond what the process holds already: libraries, and what they keep for themselves.

    Large pieces are given back to the system when they are freed (M_MMAP_THRESHOLD): what is held is measured, not what
    the C library keeps for later.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 16)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    run(row, model_settings(row), 2)
    channel.send(_status("VmHWM") - before)


def timed(row: dict[str, Any], channel: Any) -> None:
    """Seconds of the core for a step; the first one is not counted."""
    channel.send(statistics.median(run(row, model_settings(row), STEPS)[1:]))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def warm() -> None:
    """Load and start everything that a run needs, in the process from which the runs are forked."""
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for how in ("none", "full", "selective"):
        for optimizer in ("adamw", "muon"):
            row = {"recompute": how, "optimizer": optimizer, "rows": 1, "accumulation": 1}
            run(row, {**small, "max_position_embeddings": 16}, 2)


def in_a_process(work: Any, row: dict[str, Any]) -> Any:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(row, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def predicted(row: dict[str, Any], cpu: dict[str, Any]) -> tuple[float, float]:
    """(bytes, seconds) that the planner says of a row, knowing the machine by `malmoi doctor`'s rates alone."""
    from malmoi.config import ModelConfig
    from malmoi.plan.hardware import Device
    from malmoi.plan.here import memory_here, step_here
    from malmoi.plan.layout import Layout, Training

    rate, config = cpu["matmul"]["float32"], ModelConfig(**model_settings(row))
    device = Device(
        name="this-machine",
        bf16=rate,
        achievable=rate,
        memory=1.0,
        bandwidth=cpu["bandwidth"]["copy"],
        node=1,
        intra=1.0,
        inter=1.0,
        watts=0.0,
        fp32=rate,
        launch=cpu["launch"],
        status="measured",
    )
    batch = row["rows"] * row["accumulation"]
    training = Training(batch, row["sequence"], precision="fp32", optimizer=row["optimizer"])
    layout = Layout(micro_batch=row["rows"], zero=0, recompute=row["recompute"])
    return memory_here(config, training, layout).peak, step_here(config, device, training, layout).total


def page(found: dict[str, Any]) -> str:
    cpu, errors, lines = found["cpu"], {True: [], False: []}, []
    for row in found["rows"]:
        memory, seconds = predicted(row, cpu)
        off = (memory / row["memory"] - 1, seconds / row["seconds"] - 1)
        errors[row["fit"]].append(off)
        what = f"{row['hidden']} x {row['layers']} | {row['rows']} x {row['sequence']} x {row['accumulation']}"
        lines.append(
            f"| {what} | {row['recompute']} | {row['optimizer']} | {memory / 1e6:.0f} | {row['memory'] / 1e6:.0f} "
            f"| {off[0]:+.1%} | {seconds:.3f} | {row['seconds']:.3f} | {off[1]:+.1%} | {'fit' if row['fit'] else ''} |"
        )
    medians = []
    for fit, words in ((False, "runs that were not looked at"), (True, "runs that constants were chosen on")):
        if errors[fit]:
            memory, seconds = (statistics.median(abs(off[part]) for off in errors[fit]) for part in (0, 1))
            medians.append(f"- {words} ({len(errors[fit])}): memory {memory:.1%}, step time {seconds:.1%}")
    return "\n".join(
        [
            "# The planner about this machine",
            "",
            "Written by `benchmarks/planner_here.py`, which says how each figure is measured.",
            "",
            f"{cpu['name']}, one thread. Measured first: {cpu['matmul']['float32'] / 1e9:.1f} GFLOP/s (float32), "
            f"{cpu['bandwidth']['copy'] / 1e9:.1f} GB/s (copy), {cpu['launch'] * 1e6:.2f} us for a small operation. "
            f"Other programs ran beside it. This processor has no bfloat16 instructions, so all runs are float32. "
            f"{len(found['rows'])} of {len(GRID)} runs of the grid were made.",
            "",
            "Median of the errors without their sign:",
            "",
            *medians,
            "",
            "| model: width x layers | rows x tokens x micro-batches | recomputed | optimizer | memory, MB: planned "
            "| measured | error | step, s: planned | measured | error | |",
            "|---|---|---|---|---:|---:|---:|---:|---:|---:|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="measure, and write the rows here")
    parser.add_argument("--report", type=Path, help="rows measured before: write the page beside them")
    given = parser.parse_args()
    if given.report:
        text = page(json.loads(given.report.read_text(encoding="utf-8")))
        given.report.with_suffix(".md").write_text(text, encoding="utf-8")
    elif given.out:
        from malmoi.plan import doctor

        doctor.CLOCK = time.process_time  # as the steps are timed
        found: dict[str, Any] = {"cpu": {"name": doctor.cpu_name(), **doctor.rates("cpu", doctor.SIDE)}, "rows": []}
        warm()
        for index, values in enumerate(GRID):
            row = dict(zip(NAMES, values, strict=True))
            row |= {"fit": index in FITTED, "memory": in_a_process(held, row), "seconds": in_a_process(timed, row)}
            found["rows"].append(row)
            print(row, flush=True)
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
