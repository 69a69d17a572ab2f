"""`malmoi plan`: what a model costs before anything is spent: memory, time, energy, money; no GPU, no download."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import print_json
from malmoi.config import MalmoiError, ModelConfig, nearest

if TYPE_CHECKING:
    from malmoi.plan.hardware import Cluster, Device
    from malmoi.plan.layout import Layout, Training
    from malmoi.plan.work import Work

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
DEEPSEEK = "deepseek-v3"  # counted and planned, not built
LONGEST = 4096  # tokens of a row, unless --seq says another
FINETUNE_TOKENS, FINETUNE_ROWS, RANK = 1e7, 16, 16
NIGHT = 8.0  # hours of --laptop
AXES = ("data", "tensor", "pipeline", "interleave", "context", "expert", "zero", "micro_batch", "recompute")
SERVERS = ("RTX4090", "RTX5090", "A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB")  # compared without --on


class Goal(str, Enum):
    fastest = "fastest"
    cheapest = "cheapest"
    smallest = "smallest"


class Finetune(str, Enum):
    lora = "lora"
    full = "full"


@app.command()
def plan(
    model: Annotated[
        str | None, typer.Argument(help="A preset (gpt3-175b; all: malmoi params --list) or a folder.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="The machine: 1024xA100-80GB, 96xNVL72, H100, this-machine.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Text to learn, such as 300B; otherwise compute-optimal.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of an update; otherwise as GPT-3 chose.")] = None,
    seq: Annotated[int | None, typer.Option(help="Tokens of a row; otherwise the model's, at most 4096.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16, fp8; serving also int8, int4.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="tensor=8,pipeline=4,micro_batch=1,recompute=full ...; otherwise searched.")
    ] = None,
    search: Annotated[Goal, typer.Option(help="What the best layout is.")] = Goal.fastest,
    finetune: Annotated[Finetune | None, typer.Option(help="Go on from trained weights: lora or full.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the model instead of training it.")] = False,
    users: Annotated[int, typer.Option(help="With --serve: conversations at once.")] = 1,
    budget: Annotated[str | None, typer.Option(help="The largest model worth training for a sum: 100usd.")] = None,
    hours: Annotated[float | None, typer.Option(help="The largest model worth training in so many hours.")] = None,
    laptop: Annotated[bool, typer.Option("--laptop", help="The largest worth training here in a night.")] = False,
    pue: Annotated[float, typer.Option(help="The data centre's overhead on energy.")] = 1.1,
    grid: Annotated[float, typer.Option(help="kg of CO2 for a kWh.")] = 0.385,
    goodput: Annotated[float, typer.Option(help="The part of the hours that counts.")] = 0.9,
    explain: Annotated[str | None, typer.Option(help="One number's formula and source: memory.activations.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw memory and time: FILE.png or FILE.svg.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run our training program on that cluster, pretended.")
    ] = False,
    ranks: Annotated[
        list[int] | None, typer.Option(help="Ranks of the dry run; otherwise the first of each stage.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan a training, or serving, before it costs anything: memory, time, energy, money, and how sure that is.

    [bold]Examples[/bold]

    \b
    malmoi plan gpt3-175b --on 1024xA100-80GB --tokens 300B
    malmoi plan gpt4 --on 96xNVL72
    malmoi plan qwen3-0.6b --on 1xRTX4090 --finetune lora
    malmoi plan nano --on this-machine --explain memory.activations
    malmoi plan runs/mine --serve --users 200
    malmoi plan --budget 100usd --on 8xH100
    """
    from malmoi.cli import plan_page

    check_rates(pue=pue, grid=grid, goodput=goodput)
    if budget is not None or hours is not None or laptop:
        if model is not None:
            raise MalmoiError("--budget, --hours and --laptop look for a model: leave the model's name away.")
        found = worth(on, budget, hours, laptop, precision)
    elif model is None:
        raise MalmoiError("Plan which model? A preset such as nano or gpt3-175b (malmoi params --list), or a folder.")
    elif serve:
        found = served(model, on, users, seq, precision)
    else:
        question = asked(model, on, tokens, batch, seq, precision, layout, finetune)
        found = trained(question, search, pue, grid, goodput)
        if dry_run:
            found["dry_run"] = pretended(model, found, question, ranks)
    if plot is not None:
        from malmoi.cli.plan_picture import draw

        draw(found, plot)
    if explain is not None:
        from malmoi.plan.explain import explain as reason

        found = reason(found, explain)
    print_json(found) if as_json else plan_page.show(found)


def check_rates(**rates: float) -> None:
    """Raise `MalmoiError` for an overhead, intensity or goodput that cannot be."""
    bounds = {"pue": (1.0, 10.0), "grid": (0.0, 3.0), "goodput": (0.01, 1.0)}
    for name, value in rates.items():
        low, high = bounds[name]
        if not low <= value <= high:
            raise MalmoiError(f"--{name} {value:g}: must be from {low:g} to {high:g}.")


def amount(text: str, option: str) -> float:
    """`300B` -> 3e11. Raises `MalmoiError` for what is no number."""
    found = re.fullmatch(r"\s*([\d.,_]+(?:e[+-]?\d+)?)\s*([kmbt]?)\s*", text.lower())
    try:
        assert found
        return float(found[1].replace(",", "").replace("_", "")) * UNITS[found[2]]
    except (AssertionError, ValueError):
        raise MalmoiError(f"{option} '{text}': a number, such as 300B, 1.5T or 2e12.") from None


def dollars(text: str) -> float:
    """`100usd`, `$100`, `2.5k` -> dollars."""
    plain = re.sub(r"usd|us\$|\$|dollars?", "", text.lower()).strip()
    value = amount(plain, "--budget")
    if value <= 0:
        raise MalmoiError(f"--budget {text}: must be above 0.")
    return value


def read(name: str) -> tuple[ModelConfig | None, Work]:
    """The model that is meant; DeepSeek-V3 has no configuration of ours."""
    from malmoi.cli.params import read as read_model
    from malmoi.plan.work import deepseek_work, work_of

    if name == DEEPSEEK:
        return None, deepseek_work()
    config = read_model(name)[0]
    return config, work_of(config, name)


def machine(on: str | None) -> Cluster:
    from malmoi.plan.hardware import cluster

    if on is None:
        raise MalmoiError("On which machine? Add --on 8xH100, --on RTX4090 or --on this-machine.")
    return cluster(on)


def usual_precision(where: Cluster) -> str:
    """bf16, or fp32 on a machine that was measured to be faster with it."""
    device = where.device
    return "fp32" if device.measured and device.fp32 >= device.bf16 else "bf16"


def check_precision(how: str, device: Device) -> None:
    """Raise `MalmoiError` for numbers that a device cannot train with, or only slowly."""
    if device.cpu and (how == "fp16" or (how == "bf16" and device.bf16 <= device.fp32)):
        raise MalmoiError(f"--precision {how}: {device.name} would only imitate it, slowly. Take fp32.")
    if how == "fp8" and not device.fp8:
        raise MalmoiError(f"--precision fp8: {device.name} has no fp8 units. Take {'fp32' if device.cpu else 'bf16'}.")


def asked(
    model: str,
    on: str | None,
    tokens: str | None,
    batch: int | None,
    seq: int | None,
    precision: str | None,
    layout: str | None,
    finetune: Finetune | None,
) -> dict[str, Any]:
    """The question, its gaps filled with what is usual."""
    from malmoi.plan.layout import Training
    from malmoi.plan.planner import default_batch
    from malmoi.plan.program import program

    where = machine(on)
    _, work = read(model)
    sequence = seq if seq is not None else min(work.context, LONGEST)
    if not 1 <= sequence <= work.context:
        raise MalmoiError(f"--seq {sequence}: {work.name} has places for 1 to {work.context:,} tokens.")
    how = precision or usual_precision(where)
    known = ("fp32", "fp16", "bf16", "fp8")
    if how not in known:
        raise MalmoiError(f"--precision {how}: training is planned in {', '.join(known)}.{nearest(how, known)}")
    check_precision(how, where.device)
    rows = batch if batch is not None else FINETUNE_ROWS if finetune else default_batch(work, sequence, where.count)
    if finetune and batch is None:
        rows = -(-rows // where.count) * where.count
    if rows < 1:
        raise MalmoiError(f"--batch {rows}: must be at least 1.")
    rank, optimizer = RANK if finetune is Finetune.lora else 0, program(where.device).optimizer
    training = Training(rows, sequence, how, optimizer, lora_rank=rank)  # type: ignore[arg-type]
    wanted = amount(tokens, "--tokens") if tokens is not None else FINETUNE_TOKENS if finetune else None
    chosen = parse_layout(layout, where.count, training) if layout else None
    return {"work": work, "cluster": where, "training": training, "tokens": wanted, "layout": chosen}


def trained(question: dict[str, Any], search: Goal, pue: float, grid: float, goodput: float) -> dict[str, Any]:
    from malmoi.plan.planner import Question, answer

    return answer(Question(**question, goal=search.value, pue=pue, grid=grid, goodput=goodput))


def parse_layout(text: str, devices: int, training: Training) -> Layout:
    """`tensor=8,pipeline=4` -> a layout; `data` is what is left of the devices."""
    from malmoi.plan.layout import Layout

    given: dict[str, Any] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, _, value = part.partition("=")
        if name not in AXES:
            raise MalmoiError(f"--layout: there is no axis '{name}'.{nearest(name, AXES)} All: {', '.join(AXES)}.")
        if name == "recompute":
            if value not in ("none", "selective", "full"):
                raise MalmoiError(f"--layout: recompute={value} must be none, selective or full.")
            given[name] = value
        elif not value.isdigit() or (int(value) < 1 and name != "zero") or (name == "zero" and int(value) > 3):
            raise MalmoiError(
                f"--layout: {name}={value} must be a whole number{' to 3' if name == 'zero' else ' from 1'}."
            )
        else:
            given[name] = int(value)
    rest = given.get("tensor", 1) * given.get("pipeline", 1) * given.get("context", 1)
    given.setdefault("data", max(devices // rest, 1))
    given.setdefault("zero", 1 if given["data"] > 1 else 0)
    return Layout(**given, sequence_parallel=given.get("tensor", 1) > 1)


def served(model: str, on: str | None, users: int, seq: int | None, precision: str | None) -> dict[str, Any]:
    """Serving on a machine; without one, on several that people have."""
    from malmoi.plan.hardware import cluster
    from malmoi.plan.serving import serve

    _, work = read(model)
    context = seq if seq is not None else min(work.context, LONGEST)
    if on is not None:
        where = cluster(on)
        return serve(work, where, users, context, precision or usual_precision(where))
    how = precision or "bf16"
    answers = []
    for name in SERVERS:
        found = serve(work, cluster(name), users, context, how)
        if not found["fits"]:
            found = serve(work, cluster(f"{found['devices_needed']}x{name}"), users, context, how)
        answers.append(found)
    return {"compared": answers, "model": answers[0]["model"], "users": users, "context": context, "precision": how}


def worth(
    on: str | None, budget: str | None, hours: float | None, laptop: bool, precision: str | None
) -> dict[str, Any]:
    """The largest model worth training for a sum, in a time, or here."""
    from malmoi.plan import targets
    from malmoi.plan.hardware import THIS_MACHINE

    if sum(each is not None for each in (budget, hours)) > 1:
        raise MalmoiError("--budget or --hours: one limit at a time.")
    where = machine(on or (THIS_MACHINE if laptop else "8xH100" if budget else None))
    if budget is not None:
        spent, price = targets.hours_for(where, dollars(budget))
        return targets.largest(where, spent, precision or usual_precision(where)) | {"price": price}
    return targets.largest(where, NIGHT if hours is None else hours, precision or usual_precision(where))


def pretended(model: str, found: dict[str, Any], question: dict[str, Any], ranks: list[int] | None) -> dict[str, Any]:
    """Our own training program on the planned cluster, with tensors that are not there."""
    from malmoi.plan.dry_run import dry_run
    from malmoi.plan.layout import Layout

    config, _ = read(model)
    if config is None:
        raise MalmoiError(f"--dry-run: {model} is planned, but Malmoi cannot build it.")
    if "layout" not in found:
        raise MalmoiError(f"--dry-run: {found['verdict']}")
    axes = {name: value for name, value in found["layout"].items() if name not in ("accumulation", "words")}
    rehearsed = dry_run(config, Layout(**axes), replace(question["training"], optimizer="adamw"), ranks)
    if question["cluster"].device.cpu:
        rehearsed["not_run"].append(
            "compiled steps and Muon, which the plan of this machine counts: the dry run takes torch's own operations "
            "and AdamW, and stands beside the formulas of a cluster."
        )
    return rehearsed
