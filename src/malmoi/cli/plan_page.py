"""How `malmoi plan` looks in a terminal: one readable page; every number in it can be asked for with --explain."""

from __future__ import annotations

from typing import Any

from malmoi.cli.console import console, count, short, table

BAR = 28
MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
STEP = {
    "matrix": "matrix products",
    "memory": "bytes between them",
    "kernels": "starting kernels",
    "tensor": "tensor-parallel exchange",
    "expert": "tokens to experts and back",
    "context": "context-parallel exchange",
    "pipeline": "handing on to the next stage",
    "data": "gradients and sliced weights",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer",
    "straggling": "waiting for the slowest",
}


def show(found: dict[str, Any]) -> None:
    """Print a plan, a serving, or one explanation."""
    if "formula" in found:
        _explanation(found)
    elif "compared" in found:
        _compared(found)
    elif "users" in found:
        _serving(found)
    else:
        _training(found)


def gib(size: float) -> str:
    """Bytes in the unit that reads best."""
    for unit, scale in (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30)):
        if size >= scale:
            return f"{size / scale:,.4g} {unit}"
    return f"{size / 2**20:,.3g} MiB"


def seconds(value: float) -> str:
    if value >= 172_800:
        return f"{value / 86_400:,.4g} days"
    if value >= 7200:
        return f"{value / 3600:,.3g} hours"
    return f"{value / 60:,.3g} min" if value >= 120 else f"{value:,.3g} s" if value >= 1 else f"{value * 1e3:,.3g} ms"


def bar(share: float) -> str:
    return "█" * round(max(min(share, 1.0), 0.0) * BAR)


def _explanation(found: dict[str, Any]) -> None:
    screen = console()
    screen.print(f"[bold]{found['name']}[/bold] = {_value(found['value'])}")
    screen.print(f"  formula  {found['formula']}", markup=False)
    screen.print(f"  source   {found['source']}", markup=False)
    for name, value in found["inputs"].items():
        screen.print(f"  {name} = {_value(value)}", markup=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " to ".join(_value(one) for one in value)
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e15 else f"{value:.4e}"
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _head(found: dict[str, Any]) -> list[tuple[str, str]]:
    model, where = found["model"], found["machine"]
    rows = [("model", f"{model['name']}: {count(model['parameters'])} parameters")]
    if model.get("active", model["parameters"]) != model["parameters"]:
        rows.append(
            (
                "active",
                f"{count(model['active'])}; without the input table {count(model['active_without_input_embedding'])}",
            )
        )
    if kinds := model.get("by_kind"):
        rows.append(("by kind", ", ".join(f"{kind.replace('_', '-')} {short(size)}" for kind, size in kinds.items())))
    doubt = f" [{where['doubt']}]" if where["doubt"] else ""
    rows.append(("machine", f"{where['devices']:,} x {where['device']}, {gib(where['memory_bytes'])} each{doubt}"))
    return rows


def _plain(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, text in rows:
        grid.add_row(name, Text(text))
    console().print(grid)


def _training(found: dict[str, Any]) -> None:
    screen = console()
    if "worth" in found:
        _worth(found)
    rows = _head(found)
    tokens, batch, flops = found["tokens"], found["batch"], found["flops"]
    best = tokens["compute_optimal"]
    chosen = "compute-optimal" if tokens["optimal_chosen"] else "planned"
    optimal = "" if tokens["optimal_chosen"] else f"; compute-optimal {short(best['tokens'])}"
    rows.append(
        (
            "tokens",
            f"{short(tokens['planned'])} {chosen}{optimal} "
            f"(90 %: {short(best['low'])} to {short(best['high'])}; Hoffmann unrounded "
            f"{short(best['hoffmann_unrounded'])})",
        )
    )
    rows.append(
        (
            "batch",
            f"{batch['rows']:,} rows x {batch['sequence']:,} = {short(batch['tokens'])} tokens, "
            f"{found['model']['precision']}, {'Muon' if found['model']['optimizer'] == 'muon' else 'AdamW'}",
        )
    )
    rows.append(
        (
            "FLOPs",
            f"{flops['total']:.3g} in all; a token: {short(flops['per_token_causal'])} causal, "
            f"{short(flops['per_token_full'])} full attention, {short(flops['per_token_hardware'])} with "
            "what is computed twice",
        )
    )
    _plain(rows)
    if "layout" not in found:
        screen.print(f"\n[bold]Does not fit.[/bold] {found['verdict']}")
        if "enough" in found:
            screen.print(f"\nOn {found['devices_needed']:,} of them:\n")
            _body(found["enough"])
        return
    _body(found)


def _body(found: dict[str, Any]) -> None:
    screen = console()
    layout, memory, step, speed, run = (found[key] for key in ("layout", "memory", "step", "speed", "run"))
    words = f"{layout['words']}, accumulation {layout['accumulation']}"
    fits = "fits" if found["fits"] else f"DOES NOT FIT: {found['verdict']}"
    _plain([("layout", words), ("memory", f"{gib(memory['peak'])} of {gib(memory['of'])} a device: {fits}")])
    rows = [(name, gib(memory[name]), bar(memory[name] / memory["of"])) for name in MEMORY if memory[name]]
    screen.print(table(("memory of the fullest device", ">bytes", ""), rows))
    rows = [(text, seconds(step[key]), bar(step[key] / step["seconds"])) for key, text in STEP.items() if step[key]]
    screen.print(table(("time of a step", ">seconds", ""), rows))
    rows = [
        (
            "step",
            f"{seconds(step['seconds'])} ({seconds(step['low'])} to {seconds(step['high'])}: {step['interval_of']})",
        )
    ]
    rows.append(
        (
            "speed",
            f"{short(speed['tokens_per_second'])} tokens a second; MFU {speed['mfu_causal']:.1%} causal, "
            f"{speed['mfu_full']:.1%} full attention; HFU {speed['hfu']:.1%} ({speed['peak_is']})",
        )
    )
    rows.append(
        (
            "run",
            f"{count(run['steps'])} steps, {seconds(run['seconds'])} ({seconds(run['days_low'] * 86400)} to "
            f"{seconds(run['days_high'] * 86400)}), {run['device_hours']:,.4g} device-hours at goodput "
            f"{run['goodput']:g}",
        )
    )
    if run["kwh"] is None:
        rows.append(("energy", "not known: this machine's power was not measured"))
    else:
        rows.append(
            (
                "energy",
                f"{run['kwh']:,.4g} kWh ({run['watts']:g} W a device, PUE {run['pue']:g}); "
                f"{run['co2_tonnes']:,.3g} t CO2 at {run['grid_kg_per_kwh']:g} kg/kWh",
            )
        )
    rows.append(("cost", _cost(run["usd"])))
    if loss := found.get("loss"):
        rows.append(
            (
                "loss",
                f"{loss['value']:.3f} ({loss['low']:.3f} to {loss['high']:.3f}) nats a token of Chinchilla's text"
                + ("; smaller than every run behind the law" if loss["beyond"] else ""),
            )
        )
    _plain(rows)
    if found.get("search"):
        _losers(found["search"])
    if found.get("dry_run"):
        _dry_run(found)


def _cost(usd: dict[str, Any] | None) -> str:
    if usd is None:
        return "no price is known for this device"
    low, high = usd["usd_per_device_hour"]
    if low == high:
        total = f"${usd['low']:,.0f}" if usd["low"] >= 100 else f"${usd['low']:.2f}"
        return f"{total}; the one price that is known: {low:g} $ an hour ({usd['vendors'][0]}, {usd['dates'][0]})"
    span = f"{low:g} ({usd['vendors'][0]}) to {high:g} ({usd['vendors'][1]}) $ an hour"
    low, high = (f"${usd[end]:,.0f}" if usd[end] >= 100 else f"${usd[end]:.2f}" for end in ("low", "high"))
    return f"{low} to {high}; {span}, prices of {usd['dates'][0]} to {usd['dates'][1]}"


def _losers(found: dict[str, Any]) -> None:
    if not found["runners_up"]:
        return
    rows = [
        (each["layout"], f"{each['devices']:,}", seconds(each["seconds"]), each["why"]) for each in found["runners_up"]
    ]
    title = f"{found['goal']} of {found['tried']:,} layouts ({found['too_large']:,} did not fit); why the next lost"
    console().print(table(("layout", ">devices", ">step", "why"), rows, title))


def _worth(found: dict[str, Any]) -> None:
    worth = found["worth"]
    rows = [
        (
            "worth training",
            f"{short(worth['parameters'])} parameters ({short(worth['parameters_low'])} to "
            f"{short(worth['parameters_high'])}) on {short(worth['tokens'])} tokens, "
            f"{worth['hours']:,.3g} hours",
        ),
        (
            "loss to expect",
            f"{worth['loss']:.3f} ({worth['loss_low']:.3f} to {worth['loss_high']:.3f}) nats a token of "
            "Chinchilla's text",
        ),
    ]
    if price := found.get("price"):
        rows.append(
            ("price", f"{price['used']:.3g} $ an hour and device, the middle of {_value(price['usd_per_device_hour'])}")
        )
    _plain(rows)


def _serving(found: dict[str, Any]) -> None:
    memory, each = found["memory"], found["memory"]["kv_cache_per_user"]
    rows = [*_head(found), ("precision", found["precision"])]
    rows.append(
        (
            "memory",
            f"weights {gib(memory['weights'])} + {found['users']} caches of {found['context']:,} tokens, "
            f"{gib(each)} each = {gib(memory['weights'] + memory['kv_cache'])} of {gib(memory['of'])}",
        )
    )
    rows.append(("fits", "yes" if found["fits"] else f"no: {found['verdict']}"))
    rows.append(("most users", f"{found['most_users']:,}"))
    if speed := found.get("speed"):
        rows.append(
            (
                "speed",
                f"{speed['tokens_per_second_per_user']:,.3g} tokens a second for each, "
                f"{speed['tokens_per_second']:,.4g} in all; first token after "
                f"{seconds(speed['first_token_seconds'])} (a prompt of half the context, computed alone)",
            )
        )
    _plain(rows)


def _compared(found: dict[str, Any]) -> None:
    model = found["model"]
    _plain(
        [
            ("model", f"{model['name']}: {count(model['parameters'])} parameters, {found['precision']}"),
            (
                "asked",
                f"{found['users']:,} conversations of {found['context']:,} tokens at once; no --on: these are compared",
            ),
        ]
    )
    rows = []
    for each in found["compared"]:
        where, speed = each["machine"], each["speed"]
        rows.append(
            (
                f"{where['devices']} x {where['device']}",
                f"{each['most_users']:,}",
                f"{speed['tokens_per_second_per_user']:,.3g}",
                f"{speed['tokens_per_second']:,.4g}",
                seconds(speed["first_token_seconds"]),
                where["status"],
            )
        )
    heads = ("machine that holds it", ">most users", ">tokens/s each", ">tokens/s in all", ">first token", "row")
    console().print(table(heads, rows))


def _dry_run(found: dict[str, Any]) -> None:
    screen = console()
    for each in found["dry_run"]["ranks"]:
        formula, counted = each["formula"], each["memory"]
        known: dict[str, float] = {}
        for one in each["apart"]:
            known[one["class"]] = known.get(one["class"], 0.0) + one["bytes"]
        rows = [
            (name, gib(formula[name]), gib(known[name]) if name in known else "", gib(counted[name]),
             _apart(formula[name] + known.get(name, 0.0), counted[name]))
            for name in MEMORY
        ]  # fmt: skip
        expected = formula["peak"] + sum(known.values())
        rows.append(("peak", gib(formula["peak"]), "", gib(counted["peak"]), _apart(expected, counted["peak"])))
        title = f"dry run: rank {each['rank']} of {found['dry_run']['world']:,}, stage {each['stage']}"
        screen.print(table(("class", ">formula", ">known besides", ">dry run", ">unexplained"), rows, title))
        for why in dict.fromkeys(one["why"] for one in each["apart"]):
            screen.print(f"  besides: {why}", markup=False)
        moved = [f"{name} {gib(size)}" for name, size in each["communication"].items() if size]
        words = f"FLOPs {each['flops']:.4g}, formula {formula['flops']:.4g}; communication: "
        screen.print(words + (", ".join(moved) or "none"), markup=False)
    for reason in found["dry_run"]["not_run"]:
        screen.print(f"not run: {reason}", markup=False)


def _apart(expected: float, counted: float) -> str:
    return f"{counted / expected - 1:+.1%}" if expected else ""
