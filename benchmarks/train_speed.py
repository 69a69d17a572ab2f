"""Training speed and memory of the mini size beside nanoGPT's model of the same shape, on this machine, in one run.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/train_speed.py --nanogpt nanoGPT

Each measurement is a process of its own that trains for a few steps and prints tokens per second and its peak memory;
the contestants take turns, round after round, so that a machine whose speed drifts drifts for all of them. Same number
of layers, width, heads, vocabulary, context and rows; the ids are random (speed does not depend on them). Malmoi's rows
hold several packed documents that do not see each other, nanoGPT's hold one text, as each of them trains in real life.

Writes docs/results/train_speed.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "train_speed.md"
CONTESTANTS = {
    "malmoi, as `--size mini` trains": ("malmoi", "auto"),
    "malmoi, float32": ("malmoi", "float32"),
    "malmoi, GPT-2 layout": ("malmoi-gpt2", "auto"),
    "nanoGPT, bfloat16 autocast": ("nanogpt", "bfloat16"),
    "nanoGPT, float32": ("nanogpt", "float32"),
}


def shape(rows: int) -> SimpleNamespace:
    from malmoi import presets

    config = presets.size("mini")
    return SimpleNamespace(config=config, rows=rows, tokens=presets.train_defaults("mini").sequence_length)


def malmoi_step(layout: str, dtype: str, rows: int):
    import torch

    from malmoi import presets
    from malmoi.config import TrainConfig
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train import optimizer as optimizers
    from malmoi.train import precision as precisions
    from malmoi.train.step import optimizer_step

    size = shape(rows)
    config = size.config
    if layout == "malmoi-gpt2":
        config = presets.gpt2().replace(
            **{name: getattr(config, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            intermediate_size=4 * config.hidden_size,
            moe_intermediate_size=4 * config.hidden_size,
            layer_types=("full_attention",) * config.num_hidden_layers,
            embedding_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    train = presets.train_defaults("mini").replace(dtype=dtype)
    model = GPT4LMHeadModel(config)
    precision = precisions.resolve(train, model.device)
    optimizer = optimizers.build(model, train, precision.muon)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (rows, size.tokens), generator=generator)
    documents = torch.randint(0, 4, ids.shape, generator=generator).sort(dim=1).values
    batch = SimpleNamespace(
        input_ids=ids,
        labels=ids,
        position_ids=torch.arange(size.tokens).expand_as(ids),
        document_ids=documents,
        num_target_tokens=ids.numel(),
    )
    assert isinstance(train, TrainConfig)

    def step(index: int) -> None:
        optimizer_step(
            model,
            optimizer,
            [batch],
            learning_rate_factor=1.0,
            max_grad_norm=1.0,
            precision=precision,
            seed=0,
            step=index,
        )

    return step, ids.numel(), model.num_parameters()


def nanogpt_step(checkout: Path, dtype: str, rows: int):
    import torch

    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    size = shape(rows)
    model = module.GPT(
        module.GPTConfig(
            block_size=size.tokens,
            vocab_size=size.config.vocab_size,
            n_layer=size.config.num_hidden_layers,
            n_head=size.config.num_attention_heads,
            n_embd=size.config.hidden_size,
            dropout=0.0,
            bias=False,
        )
    )
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    ids = torch.randint(0, size.config.vocab_size, (rows, size.tokens), generator=torch.Generator().manual_seed(0))

    def step(index: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            _, loss = model(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, ids.numel(), sum(parameter.numel() for parameter in model.parameters())


def worker(kind: str, dtype: str, rows: int, steps: int, checkout: Path | None) -> None:
    """One measurement, printed as JSON: the median step after one that is not counted."""
    made = nanogpt_step(checkout, dtype, rows) if kind == "nanogpt" and checkout else malmoi_step(kind, dtype, rows)
    step, tokens, parameters = made
    step(0)
    times = []
    for index in range(steps):
        start = time.perf_counter()
        step(index + 1)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    print(json.dumps({"rate": tokens / statistics.median(times), "peak": peak, "parameters": parameters}))


def measure(arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for round_number in range(arguments.rounds):
        for name, (kind, dtype) in CONTESTANTS.items():
            command = [sys.executable, __file__, "--worker", kind, "--dtype", dtype, "--rows", str(arguments.rows)]
            command += ["--steps", str(arguments.steps), "--nanogpt", str(arguments.nanogpt)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
            results[name].append(json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1]))
            print(f"round {round_number + 1}: {name}: {results[name][-1]['rate']:,.0f} tokens/s", flush=True)
    return results


def report(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> str:
    import torch

    base = "nanoGPT, bfloat16 autocast"
    lines = [
        "# Training speed: the mini size beside nanoGPT's model of the same shape",
        "",
        f"Written by `benchmarks/train_speed.py`. {os.cpu_count()} CPU cores, torch {torch.__version__}; "
        f"{arguments.rounds} interleaved rounds of {arguments.steps} steps of {arguments.rows} rows x "
        f"{shape(1).tokens} tokens; medians of the rounds, ratios taken round by round. Absolute figures of a shared "
        "machine move by a quarter from minute to minute; the ratios hold.",
        "",
        "| contestant | parameters | tokens/s | times nanoGPT (bfloat16) | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        rate = statistics.median(run["rate"] for run in runs)
        ratios = [run["rate"] / other["rate"] for run, other in zip(runs, results[base], strict=True)]
        peak = max(run["peak"] for run in runs) / 2**20
        lines.append(
            f"| {name} | {runs[0]['parameters']:,} | {rate:,.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) | {peak:,.0f} MiB |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="auto", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.dtype, arguments.rows, arguments.steps, arguments.nanogpt)
        return
    if arguments.nanogpt is None or not (arguments.nanogpt / "model.py").is_file():
        sys.exit("--nanogpt must name a checkout of nanoGPT (a folder that holds model.py).")
    text = report(measure(arguments), arguments)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
