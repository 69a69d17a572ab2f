"""Formula against program: large plans, each run by our own training program on this machine, without memory.

    OMP_NUM_THREADS=1 python benchmarks/dry_run.py --out docs/results/dry_run.md      (two minutes, one core)

Nothing is fitted. "Besides" are the differences between our program and the one that the formulas describe, as
`plan/dry_run.py` counts them from the layout; what is left over is the error.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

from malmoi import presets
from malmoi.plan.dry_run import dry_run
from malmoi.plan.layout import Layout, Training

PLANS: list[tuple[str, str, Layout, Training, list[int]]] = [
    ("llama3.1-8b", "64 devices, FSDP", Layout(data=64, zero=3), Training(batch=64, sequence=8192), [0]),
    (
        "gpt3-175b",
        "1,024 devices, tensor 8 x pipeline 16 x data 8",
        Layout(data=8, tensor=8, pipeline=16, zero=3, sequence_parallel=True, recompute="full"),
        Training(batch=1536, sequence=2048),
        [0, 1023],
    ),
    ("mixtral-8x7b", "64 devices, FSDP, expert 8", Layout(data=64, expert=8, zero=3), Training(256, 4096), [0]),
]
COMPARED = ("weights", "gradients", "optimizer", "activations")


def lines_of(name: str, words: str, entry: dict[str, Any], seconds: float) -> list[str]:
    found = []
    for kind in COMPARED:
        besides = sum(extra["bytes"] for extra in entry["apart"] if extra["class"] == kind)
        planned, ran = entry["formula"][kind] + besides, entry["memory"][kind]
        found.append(
            f"| {kind} | {entry['formula'][kind] / 1e9:.3f} | {besides / 1e9:+.3f} | {ran / 1e9:.3f} "
            f"| {100 * (ran / planned - 1):+.1f} % |"
        )
    memory, sent = entry["memory"], entry["communication"]
    why = sorted({extra["why"] for extra in entry["apart"] if abs(extra["bytes"]) > 0})
    return [
        f"## {name}, {words}, process {entry['rank']} (stage {entry['stage']})",
        "",
        "| class | formula, GB | besides, GB | dry run, GB | left over |",
        "|---|---:|---:|---:|---:|",
        *found,
        "",
        "Besides: " + "; ".join(why) + ".",
        "",
        f"Largest of the rest, GB: scores {memory['logits'] / 1e9:.2f}, buffers {memory['buffers'] / 1e9:.2f}, "
        f"temporaries {memory['temporary'] / 1e9:.2f}; all together at their fullest {memory['peak'] / 1e9:.2f} "
        f"(formula: {entry['formula']['peak'] / 1e9:.2f}).",
        "",
        f"Operations of a step: {entry['flops']:.4g}, formula {entry['formula']['flops']:.4g} "
        f"({100 * (entry['flops'] / entry['formula']['flops'] - 1):+.1f} %). Exchanged in a step, GB: "
        + ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in sorted(sent.items()))
        + ".",
        "",
        f"Micro-batches: {entry['micro_batches']['run']} run of {entry['micro_batches']['of']}. "
        f"Took {seconds:.0f} s of a core.",
        "",
    ]


def seconds_of_children() -> float:
    """Of a core, in processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="a model's name")
    given = parser.parse_args()
    text = [
        "# Formula and program",
        "",
        "Written by `benchmarks/dry_run.py`. Each plan is run by our own training program for the processes named, on",
        "a machine without a GPU (docs/dry_run.md).",
        "",
    ]
    for name, words, layout, training, ranks in PLANS:
        if given.only not in (None, name):
            continue
        for rank in ranks:
            begin = seconds_of_children()
            found = dry_run(presets.preset(name), layout, training, [rank])
            text += lines_of(name, words, found["ranks"][0], seconds_of_children() - begin)
            print(name, text[-2], flush=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # each dry run is a process of its own
    text += [f"All of it needed {most:.1f} GiB of this machine's memory at most.", ""]
    given.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
