"""The published step times as cases for the planner: what each source says of its run, and what it leaves out.

A row gives model, machine and layout; the source's text gives the kind of software: did attention write its scores, was
communication hidden. What neither says is treated alike everywhere: of all micro-batches and interleavings that divide
and fit, the one with the middle time stands for the row. Nothing here is a number that could be turned until a row
fits.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from malmoi import presets
from malmoi.config import ModelConfig
from malmoi.plan.flops import training_flops
from malmoi.plan.hardware import Device, device
from malmoi.plan.layout import Layout, Recompute, Training, divisors
from malmoi.plan.memory import HEADROOM, memory
from malmoi.plan.physics import Machine, Physics
from malmoi.plan.step_time import Clock, Step
from malmoi.plan.work import Work, deepseek_work, work_of

Row = dict[str, str]
MEGATRON_VOCABULARY = 51_200
OLD = Training(1, 2048, "fp16", scores=True, dropout=True, overlap="none", gradient_bytes=2)
SELECTIVE = replace(OLD, precision="bf16", gradient_bytes=4)
NEW = Training(1, 4096, "bf16", overlap="tensor")


@dataclass(frozen=True)
class Case:
    """One published run. `layouts`: the one that the source states, or all that it leaves open and that fit."""

    file: str
    system: str
    name: str
    work: Work
    device: Device
    training: Training
    layouts: tuple[Layout, ...]
    seconds: float

    @property
    def key(self) -> str:
        return f"{self.file}: {self.system}, {self.name}"

    def seconds_of(self, layout: Layout, physics: Physics) -> float:
        return Clock(self.work, Machine(self.device, physics), self.training, layout).step().total

    def chosen(self, physics: Physics) -> Layout:
        """Of what the row leaves open, the layout with the middle time: neither the best nor the worst of luck."""
        if len(self.layouts) == 1:
            return self.layouts[0]
        ranked = sorted(self.layouts, key=lambda layout: self.seconds_of(layout, physics))
        return ranked[len(ranked) // 2]

    def step(self, physics: Physics) -> tuple[Step, Layout]:
        """The planner's answer."""
        layout = self.chosen(physics)
        return Clock(self.work, Machine(self.device, physics), self.training, layout).step(), layout


def opened(
    work: Work, device: Device, training: Training, layout: Layout, open_fields: Sequence[str]
) -> tuple[Layout, ...]:
    """The layouts that a row allows: its own, and every value of what it leaves open, as far as they fit.

    Recomputation that is open is the least with which any of them fits. Where the table of memory doubts all of them
    (what was run did fit), the one that needs least stays.
    """
    room = device.memory * (1 - HEADROOM)
    micros = MICRO_BATCHES if "micro_batch" in open_fields else (layout.micro_batch,)
    depth = work.depth // layout.pipeline
    whole = layout.pipeline > 1 and work.depth % layout.pipeline == 0
    turns = divisors(depth) if "interleave" in open_fields and whole else [layout.interleave]
    kinds = RECOMPUTE if "recompute" in open_fields else (layout.recompute,)
    fitting, smallest = [], []
    for micro in micros:
        if training.batch % (layout.data * micro):
            continue
        for turn in turns:
            tried = replace(layout, micro_batch=micro, interleave=turn)
            if turn > 1 and tried.pieces(training) % layout.pipeline:
                continue
            for kind in kinds:
                tried = replace(tried, recompute=kind)
                peak = memory(work, tried, training).peak
                smallest.append((peak, len(smallest), tried))
                if peak <= room:
                    fitting.append(tried)
                    break
    least = min((RECOMPUTE.index(one.recompute) for one in fitting), default=0)
    return tuple(one for one in fitting if one.recompute == RECOMPUTE[least]) or (min(smallest)[2],)


def read(path: Path) -> list[Row]:
    """The rows of a table; empty where the folder lacks it."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def classic(hidden: int, layers: int, heads: int, vocabulary: int, sequence: int, **others: Any) -> Work:
    """Megatron's GPT: a plain fourfold feed-forward, biases, learned positions."""
    config = ModelConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=sequence,
        **{
            "positions": "learned",
            "norm": "layer_norm",
            "qk_norm": False,
            "feed_forward": "plain",
            "hidden_act": "gelu",
            "attention_bias": True,
            "mlp_bias": True,
            **others,
        },
    )
    return work_of(config, f"GPT {hidden} x {layers}")


MICRO_BATCHES = (1, 2, 4, 8)
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
SCHEDULE = ("micro_batch", "interleave")  # what most tables leave open


def _number(row: Row, key: str, default: int = 1) -> int:
    text = row.get(key, "").replace(",", "")
    return int(float(text)) if text.replace(".", "").isdigit() else default


def megatron_2021(row: Row) -> Case:
    work = classic(*(_number(row, key) for key in ("hidden", "layers", "heads", "vocab", "seq_len")))
    gpus, batch, sequence = (_number(row, key) for key in ("gpus", "global_batch_seqs", "seq_len"))
    tensor, pipeline = _number(row, "tp"), _number(row, "pp")
    layout = Layout(gpus // (tensor * pipeline), tensor, pipeline, zero=0, recompute="full")
    training = replace(OLD, batch=batch, sequence=sequence)
    flops = training_flops(work, sequence, "full").hardware * batch * sequence
    seconds = flops / (float(row["tflops_per_gpu"]) * 1e12 * gpus)
    name = f"{row['params_B_published']}B on {gpus}"
    layouts = opened(work, device("A100"), training, layout, SCHEDULE)  # "interleaved" (section 5.1), not how often
    return Case("", "Megatron 2021", name, work, device("A100"), training, layouts, seconds)


def megatron_2021_table2(row: Row) -> Case:
    hidden, layers, heads = (12288, 96, 96) if row["params_B"].startswith("174") else (20480, 105, 128)
    work = classic(hidden, layers, heads, MEGATRON_VOCABULARY, 2048)
    gpus, batch, parallel = (_number(row, key) for key in ("gpus", "global_batch", "model_parallel"))
    sliced = parallel == 1
    tensor = 1 if sliced else 8
    pipeline = parallel // tensor
    micro = _number(row, "microbatch")
    layout = Layout(gpus // parallel, tensor, pipeline, zero=3 if sliced else 0, micro_batch=micro, recompute="full")
    training = replace(OLD, batch=batch)
    flops = training_flops(work, 2048, "full").hardware * batch * 2048
    seconds = flops / (float(row["tflops_per_gpu"]) * 1e12 * gpus)
    system = "DeepSpeed ZeRO-3 2021" if sliced else "Megatron 2021"
    name = f"{row['scheme']} {row['params_B']}B on {gpus}"
    layouts = opened(work, device("A100"), training, layout, () if sliced else ("interleave",))
    return Case("", system, name, work, device("A100"), training, layouts, seconds)


def korthikanti(row: Row) -> Iterator[Case]:
    work = classic(*(_number(row, key) for key in ("hidden", "layers", "heads")), MEGATRON_VOCABULARY, 2048)
    gpus, batch, micro = (_number(row, key) for key in ("gpus", "global_batch", "microbatch"))
    tensor, pipeline, interleave = (_number(row, key) for key in ("tp", "pp", "interleave_m"))
    data = gpus // (tensor * pipeline)
    full = Layout(data, tensor, pipeline, interleave, zero=0, micro_batch=micro, recompute="full")
    training = replace(SELECTIVE, batch=batch)
    for column, layout in (
        ("iter_s_full_recompute", full),
        ("iter_s_seqpar_selective", replace(full, recompute="selective", sequence_parallel=True)),
    ):
        name = f"{row['model']} {layout.recompute}"
        seconds = float(row[column])
        yield Case("", "Korthikanti 2022", name, work, device("A100"), training, (layout,), seconds)


def megascale(row: Row) -> Case | None:
    if not row["system"].startswith("Megatron"):
        return None  # MegaScale itself changes the model (parallel blocks) and hides nearly all communication
    work = classic(12288, 96, 128, MEGATRON_VOCABULARY, 2048)
    gpus, batch, tensor, pipeline = (_number(row, key) for key in ("gpus", "global_batch", "tp", "pp"))
    data = gpus // (tensor * pipeline)
    layout = Layout(data, tensor, pipeline, zero=1, recompute="selective", sequence_parallel=True)
    training = replace(SELECTIVE, batch=batch)
    name = f"175B on {gpus}, batch {batch}"
    layouts = opened(work, device("A100"), training, layout, SCHEDULE)
    return Case("", "MegaScale's Megatron", name, work, device("A100"), training, layouts, float(row["iter_s"]))


def megatron_core(row: Row) -> Case:
    keys = ("hidden", "layers", "heads", "vocab", "seq_len")
    work = classic(*(_number(row, key) for key in keys), tie_word_embeddings=False)
    gpus, batch, sequence = (_number(row, key) for key in ("gpus", "global_batch", "seq_len"))
    tensor, pipeline, data = (_number(row, key) for key in ("tp", "pp", "dp"))
    layout = Layout(data, tensor, pipeline, sequence_parallel=tensor > 1)
    training = replace(NEW, batch=batch, sequence=sequence)
    flops = training_flops(work, sequence).model_full * batch * sequence
    seconds = flops / (float(row["tflops_per_gpu"]) * 1e12 * gpus)
    name = f"{row['params_B']}B on {gpus}"
    machine = device(row["gpu"])
    layouts = opened(work, machine, training, layout, (*SCHEDULE, "recompute"))
    return Case("", "Megatron-Core H100", name, work, machine, training, layouts, seconds)


BRIDGE_MODELS: dict[str, Callable[[], Work]] = {
    "LLAMA3_8B": lambda: work_of(presets.llama31("8b"), "Llama 3 8B"),
    "LLAMA3_70B": lambda: work_of(presets.llama31("70b"), "Llama 3 70B"),
    "LLAMA3.1_405B": lambda: work_of(presets.llama31("405b"), "Llama 3.1 405B"),
    "DeepSeekV3": lambda: deepseek_work(multi_token=True),
    "GPT OSS 120B": lambda: work_of(presets.gpt_oss("120b"), "gpt-oss-120b"),
    "GPT OSS 20B": lambda: work_of(presets.gpt_oss("20b"), "gpt-oss-20b"),
    "Qwen3_30B_a3B": lambda: work_of(presets.qwen3("30b-a3b"), "Qwen3 30B-A3B"),
    "Qwen3_235B_a22B": lambda: work_of(presets.qwen3("235b-a22b"), "Qwen3 235B-A22B"),
}


def megatron_bridge(row: Row) -> Case | None:
    if row["model"] not in BRIDGE_MODELS:
        return None
    work = BRIDGE_MODELS[row["model"]]()
    gpus, batch, micro, sequence = (_number(row, key) for key in ("gpus", "gbs", "mbs", "seq"))
    tensor, pipeline, context, turns, expert = (_number(row, key) for key in ("tp", "pp", "cp", "vp", "ep"))
    layout = Layout(
        data=gpus // (tensor * pipeline * context),
        tensor=tensor,
        pipeline=pipeline,
        interleave=turns if pipeline > 1 else 1,
        context=context,
        expert=expert,
        zero=3 if row["fsdp"] == "1" else 1,
        micro_batch=micro,
        sequence_parallel=tensor > 1,
    )
    machine = device(row["system"])
    precision = "fp8" if row["precision"].startswith("FP8") else "bf16"
    # Taken from its public recipe of one family (grad_reduce_in_fp32 = False): assumed for the others and this release.
    training = replace(NEW, batch=batch, sequence=sequence, precision=precision, gradient_bytes=2)
    seconds = batch * sequence / (float(row["tokens_s_gpu"]) * gpus)
    system = f"Megatron-Bridge {row['system']}"
    name = f"{row['model']} {row['precision']} on {gpus}"
    layouts = opened(work, machine, training, layout, ("recompute",))
    return Case("", system, name, work, machine, training, layouts, seconds)


def llama3(row: Row) -> Case:
    work = work_of(presets.llama31("405b"), "Llama 3.1 405B")
    gpus, sequence, each = (_number(row, key) for key in ("gpus", "seq_len", "batch_per_dp"))
    tensor, context, pipeline, data = (_number(row, key) for key in ("tp", "cp", "pp", "dp"))
    # section 3.3.2: an interleaved schedule; as many pieces as its eight layers a stage allow. Of tensor parallelism's
    # exchange it does not say that anything hides it.
    turns = max(work.depth + 2, pipeline) // pipeline
    layout = Layout(data, tensor, pipeline, turns, context, sequence_parallel=True)
    training = replace(NEW, batch=each * data, sequence=sequence, overlap="data")
    flops = training_flops(work, sequence).model_causal * training.tokens
    seconds = flops / (float(row["tflops_per_gpu"]) * 1e12 * gpus)
    name = f"405B on {gpus}, {sequence} tokens a row"
    return Case("", "Llama 3", name, work, device("H100"), training, (layout,), seconds)


FILES: dict[str, Callable[[Row], Any]] = {
    "megatron_2021_table1.csv": megatron_2021,
    "megatron_2021_table2.csv": megatron_2021_table2,
    "korthikanti_table3_5.csv": korthikanti,
    "megascale_table2.csv": megascale,
    "megatron_core_h100_weak_scaling.csv": megatron_core,
    "megatron_bridge_25_11.csv": megatron_bridge,
    "llama3_table4.csv": llama3,
}


def cases(folder: Path) -> list[Case]:
    """Every step time of a folder with these tables."""
    found: list[Case] = []
    for file, make in FILES.items():
        for row in read(folder / file):
            made = make(row)
            listed = [made] if isinstance(made, Case) else list(made or ())
            found += [replace(case, file=file) for case in listed]
    return found
