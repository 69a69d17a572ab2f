"""The machine at hand, as `malmoi doctor` measured it: one JSON file in the user's cache directory, read back here.

    $MALMOI_MACHINE, else $XDG_CACHE_HOME/malmoi/this-machine.json, else ~/.cache/malmoi/this-machine.json

The planner never measures by itself: a plan for `this-machine` is as good as the file, which says when it was written.
Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError
from malmoi.plan.hardware import THIS_MACHINE, Device

VARIABLE = "MALMOI_MACHINE"
FORMAT = 1
LINK = 1e9  # bytes a second between several devices, which is not measured


def path() -> Path:
    """Where the measurements are kept."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = cache if cache.is_absolute() else Path.home() / ".cache"
    return folder / "malmoi" / "this-machine.json"


def save(record: dict[str, Any], file: Path | None = None) -> Path:
    """Keep a record: the whole file at once, or none. Raises `MalmoiError` where the disk refuses."""
    file = file or path()
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"format": FORMAT, **record}, indent=2) + "\n", encoding="utf-8")
        new.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise refused(file, error) from None
    return file


def refused(file: Path, error: OSError) -> MalmoiError:
    """The error for a place where nothing can be written."""
    return MalmoiError(
        f"{file}: cannot be written ({error.strerror}). Name another place: malmoi doctor --out FILE, or the variable "
        f"{VARIABLE}."
    )


def read(file: Path | None = None) -> dict[str, Any]:
    """The record of the last `malmoi doctor`. Raises `MalmoiError` where there is none, or none that can be used."""
    file = file or path()
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MalmoiError(
            f"{THIS_MACHINE} was not measured yet ({file} is missing). Run `malmoi doctor` first; it takes seconds."
        ) from None
    except (OSError, ValueError) as error:
        raise MalmoiError(f"{file}: cannot be read ({error}). Run `malmoi doctor` again.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise MalmoiError(f"{file}: was written by another version. Run `malmoi doctor` again.")
    return record


def this_machine() -> Device:
    """The measured machine as a device of the planner: its GPU where it has one, else its CPU.

    Peak and achievable rate are the same: what was measured. Energy is not known (`watts` is 0).
    """
    record = read()
    try:
        return _device(record)
    except (KeyError, TypeError, ValueError) as error:
        raise MalmoiError(f"{path()}: lacks what the planner needs ({error!r}). Run `malmoi doctor` again.") from None


def _device(record: dict[str, Any]) -> Device:
    where = record["cuda"][0] if record["cuda"] else record["cpu"]
    rates = {name: float(rate) for name, rate in where["matmul"].items() if rate}
    memory = where["memory"] if record["cuda"] else record["memory"]["available"]
    return Device(
        name=THIS_MACHINE,
        bf16=rates.get("bfloat16", rates["float32"]),
        achievable=max(rates["float32"], rates.get("bfloat16", 0.0)),
        memory=float(memory),
        bandwidth=float(where["bandwidth"]["copy"]),
        node=max(len(record["cuda"]), 1),
        intra=LINK,
        inter=LINK,
        watts=0.0,
        fp32=rates["float32"],
        launch=float(where["launch"]),
        cpu=not record["cuda"],
        status="measured",
        source=f"malmoi doctor, {record['date']}",
        note=str(where["name"]),
    )
