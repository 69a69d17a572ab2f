"""How fast the native engine is, and how near to what the memory allows.

A decoding step reads every weight once, so the memory's speed is its limit: the share of the measured read bandwidth
that the weights' own bytes make up says how much is left to win. Weights are random; GPT-2 124M unless told otherwise.

    python benchmarks/native_kernels.py --threads 2
    python benchmarks/native_kernels.py --kinds int8 int4 --seconds 3 --instructions avx2 --json out.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from malmoi.native.core import NativeModel
from malmoi.native.library import instruction_sets

CONTEXT = 128  # positions already in the cache when decoding is timed


def best(run, seconds: float) -> float:
    """The shortest of many runs, in seconds: what else happens on the machine can only add."""
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def bandwidth(seconds: float) -> float:
    """Bytes a second that one numpy thread reads from an array much larger than the caches."""
    array = np.ones(2**27, np.uint64)  # 1 GiB
    return array.nbytes / best(array.max, max(seconds, 1.0))


class Rows:
    """Sequences of a common length in a model's cache, advanced together."""

    def __init__(self, model: NativeModel, count: int, room: int) -> None:
        width = -(-room // model.block_size)
        self.model, self.count = model, count
        self.tables = np.arange(count * width).reshape(count, width)
        self.random = np.random.default_rng(0)

    def step(self, first: int, length: int) -> None:
        """`length` new positions for each sequence; the logits of each one's last."""
        rows = self.count * length
        tokens = self.random.integers(0, self.model.vocab_size, rows)
        positions = np.tile(np.arange(first, first + length), self.count)
        wanted = np.arange(length - 1, rows, length)
        self.model.step(tokens, positions, np.arange(self.count).repeat(length), self.tables, wanted)


def measure(model: NativeModel, seconds: float) -> dict[str, float]:
    """Tokens a second of a prompt of 512, and of decoding 1 and 16 sequences."""
    prompt = Rows(model, 1, 512)
    found = {"prefill 512": 512 / best(lambda: prompt.step(0, 512), seconds)}
    for count in (1, 16):
        rows = Rows(model, count, CONTEXT + 1)
        rows.step(0, CONTEXT)
        found[f"batch {count}"] = count / best(lambda rows=rows: rows.step(CONTEXT, 1), seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["int8", "int4", "bfloat16"])
    parser.add_argument("--heads", nargs="*", default=[], help="the head's numbers, one for each kind")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--instructions", choices=["avx512", "avx2", "dotprod", "neon", "scalar"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="a quantised folder instead of random weights")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    read = bandwidth(options.seconds)
    print(f"instruction sets: {', '.join(instruction_sets())}; one thread reads {read / 1e9:.1f} GB/s")
    results = {"bandwidth": read}
    for number, kind in enumerate(options.kinds):
        made = {"num_blocks": 256, "threads": options.threads, "instructions": options.instructions}
        if options.folder:
            model = NativeModel.open(options.folder, **made)
        else:
            from malmoi.model.gpt import GPT4LMHeadModel
            from malmoi.presets.openai import gpt2

            torch_model = GPT4LMHeadModel(gpt2().replace(num_hidden_layers=options.layers, layer_types=None))
            head = options.heads[number] if options.heads else None
            model = NativeModel.from_model(torch_model, kind, head, **made)
        with model:
            found = measure(model, options.seconds)
            used = found["batch 1"] * model.weight_bytes
            results[kind] = {**found, "weight bytes": model.weight_bytes, "bytes a second": used}
            figures = ", ".join(f"{name} {value:,.0f} tok/s" for name, value in found.items())
            print(
                f"{kind}: {figures}; {model.weight_bytes / 1e6:.0f} MB a token, "
                f"{used / 1e9:.1f} GB/s ({used / read:.0%} of one thread's reading; {model.threads} threads)"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
