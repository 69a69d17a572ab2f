"""`malmoi doctor`: what this machine can do, measured and kept, and what stands in the way of more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli.console import console, print_json, table

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def doctor(
    out: Annotated[
        Path | None, typer.Option(help="Where the results are kept; otherwise the user's cache directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure this machine: matrix products, memory, disk, what is compiled. Takes less than half a minute.

    The results are kept, with their date: `malmoi plan MODEL --on this-machine` reads them. Run it while nothing else
    runs.

    [bold]Examples[/bold]

    \b
    malmoi doctor
    malmoi doctor --json
    """
    from malmoi.plan import machine
    from malmoi.plan.doctor import examine

    out = out.expanduser() if out is not None else machine.path()
    record = examine(libraries(), out.parent)
    kept = machine.save(record, out)
    if as_json:
        print_json({**record, "kept": kept})
        return
    _show(record, kept)


def libraries() -> dict[str, str | None]:
    """Malmoi's compiled parts, each with the reason why it is not used here, or None."""
    from malmoi.model import kernels
    from malmoi.native import library

    missing = "there is none for this version (no C++ compiler when Malmoi was installed), or MALMOI_KERNELS is 0."
    return {
        "training kernels": None if kernels.LIBRARY is not None else missing,
        "generation engine": library.unavailable(),
    }


def _show(record: dict[str, Any], kept: Path) -> None:
    screen, cpu, disk = console(), record["cpu"], record["disk"]
    screen.print(table(("what", "here"), [(name, value) for name, value in _facts(record)]))
    rows = [("CPU", cpu), *((f"GPU {number}", found) for number, found in enumerate(record["cuda"]))]
    headings = ("measured", ">float32", ">bfloat16", ">int8", ">memory read", ">memory copy", ">small operation")
    screen.print(
        table(
            headings,
            [
                (
                    name,
                    *(_giga(rate, "FLOP/s") for rate in found["matmul"].values()),
                    *(_giga(rate, "B/s") for rate in found["bandwidth"].values()),
                    f"{found['launch'] * 1e6:.2f} µs",
                )
                for name, found in rows
            ],
        )
    )
    screen.print(f"Disk: write {_giga(disk['write'], 'B/s')}, read {_giga(disk['read'], 'B/s')}.\n")
    if not record["advice"]:
        screen.print("Nothing stands in the way.\n")
    for entry in record["advice"]:
        screen.print(f"[bold]![/bold] {entry['problem']}\n  {entry['do']}\n")
    screen.print(f"Kept in {kept}: malmoi plan nano --on this-machine")


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, memory = record["cpu"], record["memory"]
    available, total = (_gib(memory[name]) for name in ("available", "total"))
    return [
        ("processor", f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads used"),
        ("instructions", " ".join(cpu["flags"])),
        *(
            (f"GPU {number}", f"{found['name']}, {_gib(found['memory'])}")
            for number, found in enumerate(record["cuda"])
        ),
        ("memory", f"{available} of {total} free"),
        ("disk", f"{_gib(record['disk']['free'])} free"),
        *((name, "compiled, used" if reason is None else "not used") for name, reason in record["libraries"].items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("system", f"{record['system']['os']}, Python {record['system']['python']}"),
        ("measured", record["date"]),
    ]


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _giga(rate: float | None, unit: str) -> str:
    return "not measured" if rate is None else f"{rate / 1e9:.3g} G{unit}"
