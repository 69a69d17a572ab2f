"""Malmoi and its peers as training steps of one form, for `train.py`: give ids and targets, get a loss and new weights.

Each is built with the layers, width, heads, vocabulary and context of one `Shape`, and trained as its own project
trains: Malmoi by its shipped step, nanoGPT and litgpt by their model with AdamW, bfloat16 autocast and clipping (what
their own loops do), transformers' GPT-2 likewise. Where the processor has no instructions for bfloat16 all of them
compute in float32: there torch emulates such products, many times more slowly. Run as a script, this file makes one
measurement and prints it:

    python benchmarks/contestants.py '{"kind": "nanogpt", "shape": "10m", "measure": "speed", ...}'
"""

from __future__ import annotations

import importlib.util
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from malmoi.train.precision import has_fast_bfloat16


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    width: int
    layers: int
    heads: int
    tokens: int  # of a row
    rows: int  # of a batch


SHAPES = {
    "1m": Shape(256, 128, 4, 4, 64, 32),
    "10m": Shape(256, 384, 6, 6, 256, 16),
    "124m": Shape(50_304, 768, 12, 12, 512, 1),
    "clock": Shape(4096, 256, 6, 4, 256, 12),  # the runs of equal minutes
    "nano": Shape(4096, 128, 3, 2, 256, 8),  # the dial's smallest two, as they stand there
    "micro": Shape(4096, 256, 6, 4, 512, 4),
    "gpu 124m": Shape(50_304, 768, 12, 12, 1024, 16),
    "gpu 350m": Shape(50_304, 1024, 24, 16, 1024, 8),
}


@dataclass
class Contestant:
    model: Any
    step: Callable[[torch.Tensor, torch.Tensor, float], None]  # inputs, targets, learning-rate factor
    loss: Callable[[torch.Tensor, torch.Tensor], float]  # mean nats
    schedule: Callable[[int, int], float]  # step, steps -> factor
    settings: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> int:
        return sum({id(p): p.numel() for p in self.model.parameters()}.values())


def cosine(warmup: int, low: float) -> Callable[[int, int], float]:
    def factor(step: int, steps: int) -> float:
        first = min(warmup, steps // 10)
        if step < first:
            return (step + 1) / (first + 1)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (step - first) / max(steps - first, 1)))

    return factor


def malmoi(shape: Shape, seed: int, wishes: dict[str, Any]) -> Contestant:
    from malmoi.config import ModelConfig, TrainConfig
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train import memory, optimizer, precision
    from malmoi.train.loss import cross_entropy
    from malmoi.train.schedule import learning_rate_factor
    from malmoi.train.short_rows import shortened
    from malmoi.train.step import optimizer_step

    memory.keep_memory()
    model_wishes = wishes.get("model", {})
    size = -(-shape.width * 8 // 3 // 32) * 32  # three matrices of 8/3 weigh what two of 4 do
    config = ModelConfig(
        **{
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.width // shape.heads,
            "intermediate_size": size,
            "max_position_embeddings": shape.tokens,
            **model_wishes,
        }
    )
    settings = TrainConfig(
        **{
            "sequence_length": shape.tokens,
            "per_device_train_batch_size": shape.rows,
            "max_steps": 1000,
            **wishes.get("train", {}),
        }
    )
    model = GPT4LMHeadModel(config)
    model.initialize(seed)
    model.to(wishes.get("device", "cpu"))
    precise = precision.resolve(settings, model.device)
    optimizers = optimizer.build(model, settings, precise.muon)
    done = [0]

    def batch(ids: torch.Tensor, targets: torch.Tensor, documents: int = 1) -> SimpleNamespace:
        places, length = torch.arange(ids.shape[1]), ids.shape[1] // documents
        return SimpleNamespace(
            input_ids=ids,
            labels=targets,
            position_ids=(places % length).expand_as(ids),
            document_ids=(places // length).expand_as(ids),
            num_target_tokens=ids.numel(),
        )

    def step(ids: torch.Tensor, targets: torch.Tensor, factor: float) -> None:
        optimizer_step(
            model,
            optimizers,
            shortened([batch(ids, targets, wishes.get("documents", 1))], done[0], settings, settings.max_steps),
            learning_rate_factor=factor,
            max_grad_norm=settings.max_grad_norm,
            precision=precise,
            seed=seed,
            step=done[0],
        )
        done[0] += 1

    @torch.no_grad()
    def loss(ids: torch.Tensor, targets: torch.Tensor) -> float:
        model.eval()
        nats, count = cross_entropy(model, batch(ids, targets), model.device)
        model.train()
        return float(nats) / count

    def schedule(step: int, steps: int) -> float:
        return learning_rate_factor(step, settings, steps)

    model.train()
    return Contestant(model, step, loss, schedule, settings.model_dump(mode="json"))


def _plain(
    model: Any, optimizer: torch.optim.Optimizer, run: Callable[[Any, Any], torch.Tensor], low: float = 0.1
) -> Contestant:
    """The usual loop: bfloat16 autocast where it is fast, clipping at 1, AdamW, a cosine to a tenth."""
    device = next(model.parameters()).device
    fast = has_fast_bfloat16(device)
    for group in optimizer.param_groups:
        group["first_lr"] = group["lr"]

    def step(ids: torch.Tensor, targets: torch.Tensor, factor: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["first_lr"] * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            value = run(ids, targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def loss(ids: torch.Tensor, targets: torch.Tensor) -> float:
        model.eval()
        value = float(run(ids, targets))
        model.train()
        return value

    return Contestant(model, step, loss, cosine(100, low))


def nanogpt(shape: Shape, seed: int, wishes: dict[str, Any]) -> Contestant:
    """nanoGPT's model and optimizer, with the settings of its own recipe for Shakespeare's characters."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(wishes["nanogpt"]) / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(seed)
    model = module.GPT(
        module.GPTConfig(
            block_size=shape.tokens,
            vocab_size=shape.vocabulary,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            dropout=0.0,
            bias=False,
        )
    )
    model.to(wishes.get("device", "cpu"))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), next(model.parameters()).device.type)
    return _plain(model, optimizer, lambda ids, targets: model(ids, targets)[1])


def litgpt(shape: Shape, seed: int, wishes: dict[str, Any]) -> Contestant:
    """litgpt's model in the Llama layout; its pretraining's AdamW, with nanoGPT's learning rate for small models."""
    sys.path.insert(0, str(wishes["litgpt"]))
    from litgpt.model import GPT, Config  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    size = -(-shape.width * 8 // 3 // 32) * 32
    config = Config(
        block_size=shape.tokens,
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=size,
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight  # as large as the others
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            depth = (2 * shape.layers) ** -0.5 if name.endswith("proj.weight") else 1.0
            torch.nn.init.normal_(parameter, std=0.02 * depth)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def run(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    return _plain(model, optimizer, run)


def transformers(shape: Shape, seed: int, wishes: dict[str, Any]) -> Contestant:
    """transformers' GPT-2 with torch's AdamW."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.tokens,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def run(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())

    return _plain(model, optimizer, run)


MAKERS = {"malmoi": malmoi, "nanogpt": nanogpt, "litgpt": litgpt, "transformers": transformers}


def speed(made: Contestant, shape: Shape, task: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second: the median step, after one that is not counted. The ids are random; speed does not see them."""
    generator = torch.Generator().manual_seed(0)
    gpu = task.get("device") == "cuda"
    ids = torch.randint(0, shape.vocabulary, (shape.rows, shape.tokens + 1), generator=generator)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    if gpu:
        inputs, targets = inputs.cuda(), targets.cuda()
    times = []
    for _ in range(task["steps"] + 1):
        start = time.perf_counter()
        made.step(inputs, targets, 1.0)
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    rate = inputs.numel() / statistics.median(times[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = torch.cuda.max_memory_allocated() if gpu else peak
    return {"rate": rate, "peak": peak, "parameters": made.parameters()}


def learn(made: Contestant, shape: Shape, task: dict[str, Any]) -> dict[str, Any]:
    """Random windows of a token file, for `steps` or `minutes`; then the loss on fixed windows of another.

    With `minutes` the number of steps follows from the time of the first ones, so that each schedule runs to its end.
    """
    train, valid = (np.load(task[name], mmap_mode="r") for name in ("train_file", "valid_file"))
    draw = np.random.default_rng(task["seed"])
    begin, begin_cpu = time.perf_counter(), time.process_time()
    steps, timed = task.get("steps"), 8

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        length, count, through = shape.tokens, shape.rows, done / (steps or math.inf)
        if through < task.get("few", 0):  # for this share of the steps: half as many rows
            count //= 2
        starts = draw.integers(0, len(train) - length - 1, count)
        rows = torch.from_numpy(np.stack([train[s : s + length + 1] for s in starts]).astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    done, tokens, times = 0, 0, []
    while steps is None or done < steps:
        start = time.perf_counter()
        inputs, targets = batch()
        made.step(inputs, targets, made.schedule(done, steps or 10_000))
        tokens += inputs.numel()
        times.append(time.perf_counter() - start)
        done += 1
        if steps is None and done == timed:
            left = 60 * task["minutes"] - (time.perf_counter() - begin)
            steps = timed + max(1, round(left / statistics.median(times)))
        if task.get("minutes") and steps is not None and done % 20 == 0:  # a machine that changed its speed
            left = 60 * task["minutes"] - (time.perf_counter() - begin)
            steps = done + max(1, round(left / statistics.mean(times[-100:])))
    seconds, core_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    windows = min((len(valid) - 1) // shape.tokens, task.get("windows", 400))
    ids = torch.from_numpy(valid[: windows * shape.tokens + 1].astype(np.int64))
    inputs, targets = ids[:-1].view(windows, -1), ids[1:].view(windows, -1)
    losses = [made.loss(*pair) for pair in zip(inputs.split(20), targets.split(20), strict=True)]
    sizes = [len(part) for part in inputs.split(20)]
    nats = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / windows
    return {
        "nats": nats,
        "bits_per_byte": nats / math.log(2) / task["bytes_per_token"] if "bytes_per_token" in task else None,
        "steps": done,
        "tokens": tokens,
        "seconds": seconds,
        "core_seconds": core_seconds,
        "parameters": made.parameters(),
    }


def where(made: Contestant, shape: Shape, task: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step by kind of operation, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile, record_function

    from malmoi.train import optimizer

    named, plain = "orthogonalisation", optimizer.orthogonalize

    def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
        with record_function(named):  # its products are those of attention, by their names
            return plain(matrices)

    def within(event: Any) -> bool:
        while event is not None and event.name != named:
            event = event.cpu_parent
        return event is not None

    optimizer.orthogonalize = orthogonalize
    speed(made, shape, {"steps": 2})
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        speed(made, shape, {"steps": task["steps"] - 1})
    kinds = {
        "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
        "attention": ("aten::bmm", "Attend", "scaled_dot", "flash_attention", "softmax"),
        named: (),
        "norms, heads, gate": ("RMSNorm", "Heads", "GatedSiLU", "LayerNorm", "layer_norm", "gelu", "silu"),
        "loss": ("LinearCrossEntropy", "log_softmax", "nll_loss"),
        "optimizer": ("adamw", "Optimizer", "lerp", "norm"),
        "copies and casts": ("copy_", "_to_copy", "cat"),
    }
    seconds = dict.fromkeys([*kinds, "everything else"], 0.0)
    for event in seen.events():
        kind = next((kind for kind, names in kinds.items() if any(name in event.name for name in names)), None)
        kind = named if within(event) else kind
        seconds[kind or "everything else"] += event.self_cpu_time_total / 1e6 / task["steps"]
    return seconds


def matmul_peak(threads: int, kind: str = "cpu") -> dict[str, Any]:
    """The machine's own matrix product, GFLOP/s, in the numbers that all compute in here: the best of twelve."""
    torch.set_num_threads(threads)
    device = torch.device(kind)
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    side = 8192 if kind == "cuda" else 2048
    a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    best = math.inf
    for _ in range(12):
        start = time.perf_counter()
        torch.mm(a, b)
        if kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return {"gflops": 2 * side**3 / best / 1e9, "gpu": torch.cuda.get_device_name() if kind == "cuda" else None}


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["measure"] == "peak":
        print(json.dumps(matmul_peak(task["threads"], task.get("device", "cpu"))))
        return
    torch.set_num_threads(task["threads"])
    shape = SHAPES[task["shape"]]
    if "rows" in task:
        shape = Shape(**{**shape.__dict__, "rows": task["rows"]})
    made = MAKERS[task["kind"]](shape, task.get("seed", 0), task)
    measure = {"speed": speed, "learn": learn, "where": where}[task["measure"]]
    print(json.dumps(measure(made, shape, task)))


if __name__ == "__main__":
    main()
