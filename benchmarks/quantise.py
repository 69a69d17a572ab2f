"""What rounding costs on real text: bits a byte of a model as it is, and rounded by each method and width.

    python benchmarks/quantise.py --data ../shared/data --minutes 6
    python benchmarks/quantise.py --model runs/books --only wide     (a run that is there already, under that name)

Two models are trained on Gutenberg's children's books, the `nano` size and one twice its width; or one that is there is
taken. Calibration reads the training file, or what the model itself writes; measured is the validation file, which
neither training nor calibration saw, by the native engine (whose activations are rounded to int8 as well). Writes
docs/results/quantise.json and docs/results/quantise.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malmoi.cli.folders import open_model
from malmoi.cli.pipeline import run
from malmoi.cli.progress import Screen
from malmoi.cli.quantise import calibration_ids, own_text
from malmoi.config import Recipe, SourceConfig
from malmoi.data.corpus import read
from malmoi.evaluate import bits_per_byte
from malmoi.native.calibration import TOKENS, calibrated
from malmoi.native.core import NativeModel
from malmoi.native.prepare import kind_named, prepare

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MODELS: dict[str, dict[str, Any]] = {
    "nano": {},
    "wide": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 704,
    },
}
WIDTHS = {"int8": ("int8", None), "int4, head int8": ("int4", None), "int4": ("int4", "int4")}
GOALS = {"int8": 0.001, "int4, head int8": 0.015}


def trained(name: str, data: Path, folder: Path, minutes: float) -> Path:
    """A run on the books, which is used again where it is there."""
    books = data / "english/gutenberg_children_books"
    if not (folder / "model" / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        recipe = Recipe(
            data={
                "sources": [{"path": str(books / "train.jsonl.xz")}],
                "validation": [{"path": str(books / "valid.jsonl.xz")}],
            },
            size="nano",
            vocab_size=4096,
            model=MODELS[name],
            train={
                "max_minutes": minutes,
                "eval_steps": 250,
                "eval_tokens": 50_000,
                "save_steps": 1000,
                # as all rows were measured; the dial's nano has had others since
                "learning_rate": 3e-3,
                "matrix_learning_rate": 0.02,
                "muon_momentum": 0.95,
            },
        )
        with Screen(lines_every=30) as screen:
            run(recipe, folder, show=screen)
    return folder


def ways(model: Any, learn: Any) -> Iterator[tuple[str, str, dict[str, Any] | None, float]]:
    """Method, width in blocks, matrices rounded by calibration (none: the nearest), seconds it took."""
    for to in ("int8", "int4"):
        yield "nearest", to, None, 0.0
    begin = time.perf_counter()
    texts = {"calibrated on the training text": (learn, 0.0)}
    own = own_text(model)
    texts["calibrated on what it writes itself"] = (own, time.perf_counter() - begin)
    for method, (ids, seconds) in texts.items():
        for to in ("int8", "int4"):
            begin = time.perf_counter()
            rounded = calibrated(model, kind_named(to), ids)
            yield method, to, rounded.matrices, seconds + time.perf_counter() - begin


def measured(folder: Path, data: Path, documents: int) -> dict[str, Any]:
    model, tokenizer = open_model(folder)
    books = data / "english/gutenberg_children_books"
    held_out = list(read(SourceConfig(path=str(books / "valid.jsonl.xz")), max_documents=documents))
    learn = calibration_ids(
        model, tokenizer, list(read(SourceConfig(path=str(books / "train.jsonl.xz")), max_documents=400))
    )
    found: dict[str, Any] = {"parameters": model.num_parameters(), "calibration tokens": TOKENS, "rows": []}
    before = bits_per_byte(model, tokenizer, held_out)
    found |= {"bits_per_byte": before["bits_per_byte"], "bytes": before["bytes"]}

    def score(to: str, head: str | None, matrices: dict[str, Any] | None) -> tuple[float, int]:
        with NativeModel(prepare(model, to, head, matrices).settled(), num_blocks=64) as rounded:
            return float(bits_per_byte(rounded, tokenizer, held_out)["bits_per_byte"]), rounded.weight_bytes

    for to in ("float32", "bfloat16"):
        bits, size = score(to, None, None)
        found["rows"].append({"method": "", "width": to, "bits": bits, "bytes": size, "seconds": 0.0})
    for method, to, matrices, seconds in ways(model, learn):
        for width, (body, head) in WIDTHS.items():
            if body == to:
                bits, size = score(to, head, matrices)
                row = {"method": method, "width": width, "bits": bits, "bytes": size, "seconds": seconds}
                found["rows"].append(row)
                print(row, flush=True)
    return found


def report(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# What rounding costs",
        "",
        f"Written by `benchmarks/quantise.py`, {os.cpu_count()} CPU cores. Bits a byte of Gutenberg children's books "
        "that neither training nor calibration saw, by the native engine, whose activations are rounded to int8 with a "
        "scale for each token and group of 64. Goals: int8 at most +0.1 %, int4 with an int8 head at most +1.5 %.",
    ]
    for name, found in results.items():
        lines += [
            "",
            f"## {name}: {found['parameters']:,} parameters",
            "",
            f"{found['bits_per_byte']:.4f} bits a byte in torch (float32), over {found['bytes']:,} bytes; calibration "
            f"read {found['calibration tokens']:,} tokens.",
            "",
            "| numbers | method | read for a token | bits a byte | change | goal | seconds to round |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in found["rows"]:
            change = row["bits"] / found["bits_per_byte"] - 1
            goal = GOALS.get(row["width"])
            said = "" if goal is None else f"{goal:.1%}: {'met' if change <= goal else 'missed'}"
            lines.append(
                f"| {row['width']} | {row['method']} | {row['bytes'] / 1e6:.2f} MB | {row['bits']:.5f} | {change:+.3%} "
                f"| {said} | {row['seconds']:.1f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--minutes", type=float, default=6.0, help="training time of each run")
    parser.add_argument("--only", choices=[*MODELS], help="only this model")
    parser.add_argument("--model", type=Path, help="a run that is there already, in the place of training")
    parser.add_argument("--documents", type=int, default=60, help="of the validation file, to measure on")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quantise")
    arguments = parser.parse_args()
    kept = RESULTS / "quantise.json"
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for name in [arguments.only] if arguments.only else MODELS:
        folder = arguments.model or trained(name, arguments.data, arguments.runs / name, arguments.minutes)
        results[name] = measured(folder, arguments.data, arguments.documents)
        kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "quantise.md").write_text(report(results), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
