"""Is the planner right about this machine? Our own training runs, each a process of its own, beside what was planned.

    OMP_NUM_THREADS=1 python benchmarks/planner_here.py --out docs/results/planner_here.json      (about five minutes)
    python benchmarks/planner_here.py --report docs/results/planner_here.json                     (the page once more)

Each run makes some steps of `train/step.py` on one thread. Its memory is the peak of the process (resident set) above
what the process held before the model was made; its time is the median step in seconds of the core (CPU time), which
another program on the machine lengthens little. The planner knows the machine by `malmoi doctor`'s measurements of the
same minutes alone, and a few constants of CPUs (`plan/here.py`). Rows marked *fit* were looked at when those were
chosen; the others were not, and the errors that count are theirs. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

# hidden size, layers, heads, sequence, rows of a micro-batch, micro-batches of a step, recomputation, optimizer, dtype
GRID: list[tuple[Any, ...]] = [
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
    # only where the processor multiplies bfloat16 itself
    (256, 4, 4, 256, 4, 1, "none", "adamw", "bfloat16"),
    (384, 6, 6, 512, 2, 1, "none", "muon", "bfloat16"),
    (256, 6, 4, 1024, 1, 2, "none", "adamw", "bfloat16"),
    (384, 4, 6, 256, 4, 1, "full", "adamw", "bfloat16"),
    (512, 4, 8, 512, 2, 1, "selective", "muon", "bfloat16"),
]
FITTED = frozenset({0, 1, 2})  # of GRID: the runs that had been made when the constants of plan/here.py were chosen
VOCABULARY = 8192
STEPS = 5
NAMES = ("hidden", "layers", "heads", "sequence", "rows", "accumulation", "recompute", "optimizer", "dtype")


def row_of(values: tuple[Any, ...]) -> dict[str, Any]:
    return {"dtype": "float32", **dict(zip(NAMES, values, strict=False))}


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
    config = TrainConfig(optimizer=row["optimizer"], dtype=row["dtype"])
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


def dtypes() -> tuple[str, ...]:
    """What this processor multiplies itself."""
    import torch

    from malmoi.train.precision import has_fast_bfloat16

    return ("float32", "bfloat16") if has_fast_bfloat16(torch.device("cpu")) else ("float32",)


def warm() -> None:
    """Load and start everything that a run needs, in the process from which the runs are forked."""
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for how in ("none", "full", "selective"):
        for optimizer in ("adamw", "muon"):
            for dtype in dtypes():
                row = {"recompute": how, "optimizer": optimizer, "rows": 1, "accumulation": 1, "dtype": dtype}
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
    from malmoi.plan.layout import Layout, Training
    from malmoi.plan.program import program
    from malmoi.plan.work import work_of

    rate, work = cpu["matmul"]["float32"], work_of(ModelConfig(**model_settings(row)))
    half = cpu["matmul"].get("bfloat16") or rate
    device = Device(
        name="this-machine",
        bf16=half,
        achievable=max(rate, half),
        memory=1.0,
        bandwidth=cpu["bandwidth"]["copy"],
        node=1,
        intra=1.0,
        inter=1.0,
        watts=0.0,
        fp32=rate,
        launch=cpu["launch"],
        cpu=True,
        status="measured",
    )
    batch, ours = row["rows"] * row["accumulation"], program(device)
    precision = "bf16" if dtype(row) == "bfloat16" else "fp32"
    training = Training(batch, row["sequence"], precision, optimizer=row["optimizer"])
    layout = Layout(micro_batch=row["rows"], zero=0, recompute=row["recompute"])
    return ours.memory(work, layout, training).peak, ours.step(work, device, training, layout).total


def looked_at(row: dict[str, Any]) -> bool:
    """Is it one of the runs on which constants were chosen?"""
    return any(row_of(GRID[index]).items() <= {"dtype": dtype(row), **row}.items() for index in FITTED)


def dtype(row: dict[str, Any]) -> str:
    return row.get("dtype", "float32")


# ---- the page -------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    cpu, unseen, fitted, lines = found["cpu"], [], [], []
    for row in found["rows"]:
        memory, seconds = predicted(row, cpu)
        off = (memory / row["memory"] - 1, seconds / row["seconds"] - 1)
        fit = looked_at(row)
        (fitted if fit else unseen).append(off)
        what = f"{row['hidden']} x {row['layers']} | {row['rows']} x {row['sequence']} x {row['accumulation']}"
        lines.append(
            f"| {what} | {dtype(row)} | {row['recompute']} | {row['optimizer']} | {memory / 1e6:.0f} "
            f"| {row['memory'] / 1e6:.0f} | {off[0]:+.1%} | {seconds:.3f} | {row['seconds']:.3f} | {off[1]:+.1%} "
            f"| {'fit' if fit else ''} |"
        )
    return "\n".join(
        [
            "# The planner about this machine",
            "",
            "Written by `benchmarks/planner_here.py`, which says how each figure is measured.",
            "",
            f"{cpu['name']}, one thread. {rates_line(cpu)}",
            *([f"Once more afterwards: {rates_line(found['cpu_after'])}"] if "cpu_after" in found else []),
            load_line(found),
            "",
            "Rows marked *fit* were measured before, and looked at, when the constants of `malmoi/plan/here.py` were",
            "chosen; no constant was chosen on the others.",
            "",
            "Median of the errors without their sign (targets: memory 5 %, step time 10 %):",
            "",
            *median_lines(unseen, fitted),
            "",
            "| model: width x layers | rows x tokens x micro-batches | numbers | recomputed | optimizer "
            "| memory, MB: planned | measured | error | step, s: planned | measured | error | |",
            "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---|",
            *lines,
            "",
        ]
    )


def rates_line(cpu: dict[str, Any]) -> str:
    products = ", ".join(f"{rate / 1e9:.1f} GFLOP/s ({name})" for name, rate in cpu["matmul"].items() if rate)
    return (
        f"`malmoi doctor`'s figures: {products}, {cpu['bandwidth']['copy'] / 1e9:.1f} GB/s (copy), "
        f"{cpu['launch'] * 1e6:.2f} us for a small operation."
    )


def load_line(found: dict[str, Any]) -> str:
    """What else ran, as far as it is known, and which rows were left out."""
    made, wanted = len(found["rows"]), len(GRID)
    half = sum(dtype(row_of(values)) == "bfloat16" for values in GRID)
    why = f" ({half} are of bfloat16, which this processor does not multiply itself)" if made == wanted - half else ""
    others = found.get("load")
    words = (
        f"Programs that ran on the machine, this one among them, at the beginning and the end (load average): "
        f"{others[0]:.1f}, {others[1]:.1f}."
        if others
        else "Other programs ran beside it."
    )
    return f"{words} {made} of {wanted} runs of the grid were made{why if made < wanted else ''}."


def median_lines(unseen: list[tuple[float, float]], fitted: list[tuple[float, float]]) -> list[str]:
    from malmoi.plan.here import INTERVAL

    lines = []
    for errors, words in (
        (unseen, "runs that no constant was chosen on"),
        (fitted, "runs that constants were chosen on"),
    ):
        if errors:
            memory, seconds = (statistics.median(abs(off[part]) for off in errors) for part in (0, 1))
            worst = [max(abs(off[part]) for off in errors) for part in (0, 1)]
            lines.append(
                f"- {words} ({len(errors)}): memory {memory:.1%} (worst {worst[0]:.1%}), step time {seconds:.1%} "
                f"(worst {worst[1]:.1%})"
            )
    factors = sorted(1 / (1 + off[1]) for off in unseen)
    if factors:
        inside = sum(INTERVAL[0] <= factor <= INTERVAL[1] for factor in factors)
        lines.append(
            f"- measured over planned step time, runs that no constant was chosen on: {factors[0]:.2f} to "
            f"{factors[-1]:.2f}; {inside} of {len(factors)} within the {INTERVAL[0]:g} to {INTERVAL[1]:g} that a plan "
            "prints"
        )
    return lines


def measure(out: Path) -> None:
    """The machine, then every run of the grid; rows are written as they come, the page at the end."""
    from malmoi.plan import doctor

    doctor.CLOCK = time.process_time  # as the steps are timed
    begin, load = time.monotonic(), os.getloadavg()[0]
    found: dict[str, Any] = {"cpu": {"name": doctor.cpu_name(), **doctor.rates("cpu", doctor.SIDE)}, "rows": []}
    warm()
    usable = dtypes()
    for values in GRID:
        row = row_of(values)
        if row["dtype"] not in usable:
            continue
        row |= {"memory": in_a_process(held, row), "seconds": in_a_process(timed, row)}
        found["rows"].append(row)
        print(f"{time.monotonic() - begin:5.0f} s", row, flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found["cpu_after"] = {"name": doctor.cpu_name(), **doctor.rates("cpu", doctor.SIDE)}
    found["load"] = [load, os.getloadavg()[0]]
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure; the rows go here, the page beside them")
    parser.add_argument("--report", type=Path, help="rows measured before: write the page beside them")
    given = parser.parse_args()
    if given.report:
        text = page(json.loads(given.report.read_text(encoding="utf-8")))
        given.report.with_suffix(".md").write_text(text, encoding="utf-8")
    elif given.out:
        measure(given.out)
    else:
        parser.error("--out FILE.json measures, --report FILE.json writes the page of rows measured before")


if __name__ == "__main__":
    main()
