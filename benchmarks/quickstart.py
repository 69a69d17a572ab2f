"""The first five minutes of a new user: a clean clone, `make run`, what the model has learned.

    python benchmarks/quickstart.py --seeds 0 1 2

Clones the committed state of this repository into a temporary folder, runs `make run` there (seed 0) with a clock
beside it, then `malmoi quickstart` with the other seeds; and examines each model on many held-out examples. Packages
should have been downloaded before, since the clock is meant for the machine and not for the network.

Writes docs/results/quickstart.md and docs/results/quickstart.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from malmoi.cli.quickstart import MOST_MINUTES, TOKENS
from malmoi.train.precision import has_fast_bfloat16

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
AIMS = {"translation": 0.90, "question1": 0.90}


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - begin, done.stdout


def last_line(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


def one(clone: Path, seed: int, examples: int) -> dict[str, Any]:
    """Train (unless `make run` has) and examine one seed."""
    malmoi = str(clone / ".venv" / "bin" / "malmoi")
    out = clone / "runs" / ("quickstart" if seed == 0 else f"quickstart-{seed}")
    if not (out / "model").is_dir():
        timed([malmoi, "quickstart", "--seed", str(seed), "--out", str(out)], clone)
    _, printed = timed([malmoi, "eval", str(out), "-n", str(examples), "--seed", "1000", "--json"], clone)
    quick = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    line = last_line(out / "metrics.jsonl")
    found = json.loads(printed)
    return {
        "seed": seed,
        "answers": {key: found[key] for key in ("rows", "tasks", "languages", "total")},
        "bits_per_byte": quick["text"]["bits_per_byte"],
        "seconds": quick.get("seconds"),
        "examined_in": quick["examined_in"],
        "train_seconds": line["seconds"],
        "tokens": line["tokens"],
        "steps": line["step"],
    }


def rates(recipe: Path) -> str:
    train = yaml.safe_load(recipe.read_text(encoding="utf-8"))["train"]
    return "{learning_rate:g} and {matrix_learning_rate:g}, momentum {muon_momentum:g}".format(**train)


def page(machines: dict[str, Any]) -> str:
    """A section for each kind of machine: how long the training takes depends on it."""
    told = (
        "# Quickstart\n\nWritten by `benchmarks/quickstart.py`. None of the examples' combinations occurs in training; "
        f"greedy; an answer is right when it equals the expected line. Training ends after {TOKENS:,} "
        f"tokens or {MOST_MINUTES:g} minutes; with rates of 0.003 and 0.02 it ended after three minutes.\n"
    )
    return "\n".join([told, *(report(machines[numbers]) for numbers in sorted(machines))])


def report(found: dict[str, Any]) -> str:
    runs = found["runs"]
    first = runs[0]

    def mean(get: Any) -> float:
        return statistics.mean(get(run) for run in runs)

    lines = [
        f"## A processor that computes in {found['numbers']}",
        "",
        f"{found['cores']} cores; {len(runs)} seed{'s' * (len(runs) > 1)}; {found['examples']} examples of each task "
        f"in each language; rates {found['rates']}.",
        "",
        "| | |",
        "|---|---|",
        f"| `make run` in a clean clone, packages downloaded before | {found['make_run'] / 60:.1f} minutes |",
        f"| of that: making `.venv` and installing | {(found['make_run'] - first['seconds']) / 60:.1f} minutes |",
        f"| of that: training | {first['train_seconds'] / 60:.1f} minutes |",
        f"| of that: examining | {first['examined_in']:.0f} seconds |",
        f"| parameters | {found['parameters']:,} |",
        f"| tokens read in training (mean) | {mean(lambda run: run['tokens']):,.0f} |",
        f"| tokens/s while training (mean) | {mean(lambda run: run['tokens'] / run['train_seconds']):,.0f} |",
        f"| held-out bits per byte (mean) | {mean(lambda run: run['bits_per_byte']):.4f} |",
        f"| largest process | {found['peak'] / 2**20:,.0f} MiB |",
        "",
        "Exact answers, mean over the seeds (lowest and highest seed):",
        "",
        "| task | language | exact | seeds |",
        "|---|---|---|---|",
    ]
    for number, row in enumerate(first["answers"]["rows"]):
        shares = [run["answers"]["rows"][number]["exact"] for run in runs]
        seeds = f"{min(shares):.0%}–{max(shares):.0%}"
        lines.append(f"| {row['task']} | {row['language']} | {statistics.mean(shares):.1%} | {seeds} |")
    for task in first["answers"]["tasks"]:
        shares = [run["answers"]["tasks"][task]["exact"] for run in runs]
        aim = f" (aim {AIMS[task]:.0%})" if task in AIMS else ""
        lines.append(
            f"| **{task}** | all | **{statistics.mean(shares):.1%}**{aim} | {min(shares):.0%}–{max(shares):.0%} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--examples", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "malmoi"
        timed(["git", "clone", "--quiet", str(ROOT), str(clone)], Path(place))
        seconds, printed = timed(["make", "run"], clone)
        print(printed)
        runs = [one(clone, seed, arguments.examples) for seed in dict.fromkeys([0, *arguments.seeds])]
        params = timed([str(clone / ".venv/bin/malmoi"), "params", "runs/quickstart", "--json"], clone)[1]
        found = {
            "make_run": seconds,
            "cores": os.cpu_count(),
            "numbers": "bfloat16" if has_fast_bfloat16(torch.device("cpu")) else "float32",
            "rates": rates(clone / "runs/quickstart/recipe.yaml"),
            "examples": arguments.examples,
            "parameters": json.loads(params)["total"],
            "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            "runs": runs,
        }
    kept = RESULTS / "quickstart.json"
    machines = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    machines[found["numbers"]] = found
    kept.write_text(json.dumps(machines, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "quickstart.md").write_text(page(machines), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
