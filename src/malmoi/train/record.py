"""What a run leaves to be read: its settings, its versions, a line of numbers every few steps, a picture.

config.yaml     every setting, filled in
versions.json   data fingerprint, Python, libraries, machine, threads
summary.json    what the run came to: losses, gap, memorisation, skipped steps, time, energy
metrics.jsonl   one JSON object a line: step, loss, val_loss, bpb, lr, grad_norm, tokens_per_sec, seconds, joules
energy.json     joules of all sessions so far, by the method that each was measured or estimated with
loss.png        the two losses over the steps (extra `plots`)
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from malmoi.config import MalmoiError
from malmoi.energy import WATT_HOUR, Meter, processor
from malmoi.tokens.folder import write_text
from malmoi.train.progress import Step
from malmoi.train.trackers import Trackers

CONFIG, VERSIONS, METRICS, PLOT = "config.yaml", "versions.json", "metrics.jsonl", "loss.png"
SUMMARY, ENERGY = "summary.json", "energy.json"
LIBRARIES = ("malmoi", "torch", "numpy", "safetensors", "tokenizers", "pydantic")


class Record:
    """The files of one run folder. `keep_through` says up to which step an earlier log still holds (0: begin anew).

    With a `meter` the energy is recorded. Joules of earlier sessions are added, also those of steps that were lost and
    are made again: they were spent.
    """

    def __init__(self, folder: Path, keep_through: int = 0, meter: Meter | None = None) -> None:
        self.folder, self.meter = folder, meter
        self.trackers: Trackers | None = None  # who else is told
        folder.mkdir(parents=True, exist_ok=True)
        self._spent = read_energy(folder) if keep_through else {}  # joules of earlier sessions by method
        if meter is not None:
            meter.start()
        kept = [line for line in read_metrics(folder) if line["step"] <= keep_through]
        write_text(folder / METRICS, "".join(_line(entry) for entry in kept))
        self._log = (folder / METRICS).open("a", encoding="utf-8", newline="\n")

    def describe(self, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write `config.yaml` (`settings`) and `versions.json` (`facts`, and the versions of what computes)."""
        write_text(self.folder / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(self.folder / VERSIONS, json.dumps({**facts, **versions()}, indent=1) + "\n")

    def conclude(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, the final report for programs; numbers that are none become null."""
        if self.meter is not None:
            self.meter.stop()
            summary = {**summary, "energy": self._energy(summary.get("tokens") or 0)}
        write_text(self.folder / SUMMARY, json.dumps(_finite(summary), indent=1, ensure_ascii=False) + "\n")

    def append(self, entry: dict[str, Any]) -> float | None:
        """Add a line, with the energy so far; the joules are also given back (None without a meter)."""
        joules = None
        if self.meter is not None:
            joules = round(sum(self._by_method().values()), 3)
            entry = {**entry, "joules": joules}
        try:
            self._log.write(_line(entry))
            self._log.flush()
        except OSError as error:
            raise MalmoiError(
                f"{self.folder / METRICS}: cannot be written: {error.strerror or error}. Make room, then resume."
            ) from error
        if self.trackers is not None:
            self.trackers.log(entry)
        return joules

    def flush(self) -> None:
        """Make the log durable; called before a checkpoint, which must never be ahead of it."""
        os.fsync(self._log.fileno())
        self._write_energy()

    def close(self) -> None:
        """Never an error: it would hide the one that ended the run."""
        with contextlib.suppress(OSError):  # what could not be written has been said
            self._log.close()
        if self.meter is not None:
            self.meter.stop()
            self._write_energy()
        if self.trackers is not None:
            self.trackers.close()

    def _by_method(self) -> dict[str, float]:
        assert self.meter is not None
        spent = dict(self._spent)
        spent[self.meter.method] = spent.get(self.meter.method, 0.0) + self.meter.joules()
        return spent

    def _write_energy(self) -> None:
        if self.meter is not None:
            rounded = {method: round(joules, 3) for method, joules in self._by_method().items()}
            with contextlib.suppress(MalmoiError):  # the log has it too; a full disk is said by what matters more
                write_text(self.folder / ENERGY, json.dumps(rounded, indent=1, ensure_ascii=False) + "\n")

    def _energy(self, tokens: int) -> dict[str, Any]:
        spent = self._by_method()
        joules = sum(spent.values())
        return {
            "joules": round(joules, 1),
            "kilowatt_hours": joules / WATT_HOUR / 1000,
            "joules_per_token": joules / tokens if tokens else None,
            "method": "; ".join(spent),
        }


def read_energy(folder: Path) -> dict[str, float]:
    """Joules of a run by method: what `energy.json` holds, and what the log says was spent after it was written."""
    try:
        said = json.loads((folder / ENERGY).read_text(encoding="utf-8"))
        spent = {str(method): float(joules) for method, joules in said.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    logged = max((line["joules"] for line in read_metrics(folder) if line.get("joules") is not None), default=0.0)
    if spent:
        last = next(reversed(spent))
        spent[last] += max(logged - sum(spent.values()), 0.0)
    return spent


def entry_of(step: Step, loss: float, skipped_because: str) -> dict[str, Any]:
    """A line of `metrics.jsonl`: the step, with the mean `loss` of the steps since the last line."""
    return {
        "step": step.step,
        "loss": loss,
        "val_loss": step.held_out_loss,
        "bpb": step.bits_per_byte,
        "gap": step.gap,
        "memorized": step.memorized,
        "lr": step.learning_rate,
        "grad_norm": step.grad_norm,
        "tokens": step.tokens,
        "skipped": step.skipped,
        "skipped_because": skipped_because or None,
        "epoch": step.epoch,
        "tokens_per_sec": round(step.tokens_per_second, 1),
        "seconds": round(step.seconds, 3),
    }


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(_finite(entry), allow_nan=False) + "\n"


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN or infinity; a skipped step's loss becomes null."""
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in entry.items()
    }


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line torn by a kill is left out."""
    path = Path(folder) / METRICS
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or "step" not in entry:
            break
        entries.append(entry)
    return entries


def versions() -> dict[str, Any]:
    """What computed this run."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": processor()[0],
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


HANGUL_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
)


def _fonts_for(text: str) -> list[str]:
    """Font families that can write `text`; none where it has Hangul and no Korean font is installed."""
    from matplotlib import font_manager

    standard = ["DejaVu Sans"]  # comes with matplotlib
    if all(character < "\u1100" for character in text):
        return standard
    installed = {font.name for font in font_manager.fontManager.ttflist}
    korean = [name for name in HANGUL_FONTS if name in installed]
    return standard + korean if korean else []


def plot(folder: Path | str, title: str = "") -> Path | None:
    """Draw `loss.png` from `metrics.jsonl`. None without matplotlib (extra `plots`) or without numbers."""
    folder = Path(folder)
    entries = read_metrics(folder)
    training = [(entry["step"], entry["loss"]) for entry in entries if entry.get("loss") is not None]
    held_out = [(entry["step"], entry["val_loss"]) for entry in entries if entry.get("val_loss") is not None]
    if not training and not held_out:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)  # no pyplot: nothing global, no display needed
    axes = figure.add_subplot()
    if training:
        axes.plot(
            *zip(*training, strict=True), color="#1f77b4", linewidth=1.2, label="training (mean since last point)"
        )
    if held_out:
        steps, losses = zip(*held_out, strict=True)
        axes.plot(steps, losses, color="#d95f02", marker="o", markersize=3, linewidth=1.6, label="held-out")
        best = min(range(len(losses)), key=losses.__getitem__)
        axes.annotate(
            f"best {losses[best]:.3f}\nstep {steps[best]:,}",
            (steps[best], losses[best]),
            xytext=(0, 14),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    title = title or folder.resolve().name
    fonts = _fonts_for(title)
    if fonts:
        axes.set_title(title, family=fonts)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = folder / f".{PLOT}.{os.getpid()}"
    try:
        canvas.print_png(temporary)
        temporary.replace(folder / PLOT)
    finally:
        temporary.unlink(missing_ok=True)
    return folder / PLOT
