"""Checkpoints that can be trusted: whole or absent, never half.

    checkpoint-500/
      model.safetensors       the weights, by name
      optimizer.safetensors   the optimizers' state, `<parameter>:<state>` by name (no pickle)
      state.json              step, progress, watch, settings, data fingerprint
      metrics.jsonl           the run's log up to here
      ...                     whatever the caller's `extra` adds (tokenizer, config.json)
      manifest.json           size and SHA-256 of every file above and of itself: written last

A checkpoint is written into a hidden temporary folder, every file is flushed to the disk, the manifest follows, and one
rename makes it appear. Whatever happens (a kill, a full disk, a power cut, a flipped bit), a folder whose files do not
match its manifest is never read: `latest` passes over it, says why, and takes the newest whole one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from malmoi.config import MalmoiError
from malmoi.train.optimizer import Optimizers

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
SHARDS = "shards"  # instead of the first two, where many processes wrote together (`sharded_checkpoint.py`)
NAME = re.compile(r"checkpoint-(\d+)")
HIDDEN = (".writing-checkpoint-", ".old-checkpoint-")


def path_of(folder: Path, step: int) -> Path:
    return Path(folder) / f"checkpoint-{step}"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint folder, whole or not, in order."""
    if not Path(folder).is_dir():
        return []
    found = (NAME.fullmatch(entry.name) for entry in Path(folder).iterdir() if entry.is_dir())
    return sorted(int(match[1]) for match in found if match)


def save(
    folder: Path | str,
    step: int,
    model: nn.Module,
    optimizer: Optimizers,
    state: dict[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Write `checkpoint-<step>` under `folder` and return its path; a previous one of the same step is replaced.

    `extra(path)` may put more files beside ours before the manifest is made. Raises `MalmoiError` when the disk is full
    or refuses; then nothing of this checkpoint remains and the earlier ones are as they were.
    """
    folder, target = Path(folder), path_of(Path(folder), step)
    temporary = folder / f"{HIDDEN[0]}{step}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder, bytes_needed(model, optimizer), f"checkpoint-{step}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(model_tensors(model), temporary / MODEL)
        save_file(_contiguous(optimizer.state_tensors()), temporary / OPTIMIZER)
        seal(temporary, target, {**state, "step": step}, extra)
    except (OSError, SafetensorError) as error:
        raise MalmoiError(why_not_saved(error, folder, step)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def seal(
    temporary: Path, target: Path, state: dict[str, Any], extra: Callable[[Path], None] | None = None, form: int = 1
) -> None:
    """Make a checkpoint of a folder that holds the tensors: add the state, flush all, the manifest last, and appear."""
    text = json.dumps(state, ensure_ascii=False, indent=1, allow_nan=False)
    (temporary / STATE).write_text(text + "\n", encoding="utf-8")
    if extra is not None:
        extra(temporary)
    files = {
        file.relative_to(temporary).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256_and_flush(file)}
        for file in sorted(temporary.rglob("*"))
        if file.is_file()
    }
    manifest = temporary / MANIFEST
    entries = {"format": form, "step": state["step"], "files": files}
    manifest.write_text(json.dumps({**entries, "sha256": _digest_of(entries)}, indent=1), encoding="utf-8")
    _sha256_and_flush(manifest)
    _flush_folder(temporary)
    _swap_in(temporary, target)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once, under their first name) and buffers that belong to the state."""
    kept = model.state_dict()
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return _contiguous(tensors)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def bytes_needed(model: nn.Module, optimizer: Optimizers) -> int:
    """What a checkpoint takes on the disk (before the first step: what it will take once the optimizers have state)."""
    weights = sum(tensor.nbytes for tensor in model_tensors(model).values())
    momenta = sum(tensor.nbytes for tensor in optimizer.state_tensors().values())
    return weights + (momenta or optimizer.expected_bytes()) + (1 << 16)


def require_space(folder: Path, needed: int, what: str) -> int:
    """The free bytes of the disk under `folder`; `MalmoiError`, with both numbers, if they are fewer than `needed`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MalmoiError(
            f"{folder}: the disk is too full for {what}: it needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are "
            f"free. Make some space (older runs, save_total_limit: 1) or choose another folder; then resume."
        )
    return free


def latest(folder: Path | str, on_skip: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole checkpoint under `folder`, or None when there is none.

    Damaged ones are passed over; `on_skip` is told each one's path and what is wrong with it.
    """
    for step in reversed(steps_in(Path(folder))):
        path = path_of(Path(folder), step)
        fault = fault_of(path)
        if fault is None:
            return path
        if on_skip is not None:
            on_skip(f"{path} is damaged and was passed over: {fault}.")
    return None


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words; None if every file is the one that was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop("sha256") != _digest_of(manifest):
            return f"{MANIFEST} is not the file that was written (its own SHA-256 differs)"
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so the writing was not finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name in (MODEL, OPTIMIZER, STATE) if manifest.get("format") == 1 else (STATE,):
        if name not in files:
            return f"{MANIFEST} does not list {name}"
    for name, (size, digest) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
        if _sha256(file) != digest:
            return f"{name} is not the file that was written (its SHA-256 differs)"
    return None


def read_state(path: Path | str) -> dict[str, Any]:
    """The `state` that a checkpoint was saved with."""
    return json.loads((Path(path) / STATE).read_text(encoding="utf-8"))


def load(path: Path | str, model: nn.Module, optimizer: Optimizers | None = None) -> dict[str, Any]:
    """Put a checkpoint's weights (and optimizer state) into `model` and `optimizer`, bit for bit; return its state.

    The checkpoint must be whole (`latest` and `fault_of` see to that) and belong to a model of the same shape:
    otherwise `MalmoiError` names the first tensor that does not fit, and nothing was changed.
    """
    path = Path(path)
    try:
        state = read_state(path)
        if (path / SHARDS).is_dir():  # many processes wrote it
            from malmoi.train.sharded_checkpoint import read_whole

            weights, momenta = read_whole(path)
        else:
            weights = load_file(path / MODEL)
            momenta = load_file(path / OPTIMIZER) if optimizer is not None else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise MalmoiError(f"{path}: cannot be read: {error}.") from error
    put_weights(model, weights, path / MODEL)
    if optimizer is not None:
        optimizer.load_state_tensors(momenta)
    return state


def put_weights(model: nn.Module, weights: dict[str, Tensor], source: Path | str = "weights") -> None:
    """Copy tensors, named as by `model_tensors`, into the model; `MalmoiError`, and no change, if one does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise MalmoiError(
                f"{source}: '{name}' is {found.get(name, 'absent')} there, but {expected.get(name, 'absent')} in the "
                f"model. The checkpoint belongs to another model configuration."
            )
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, tensor in weights.items():
            targets[name].copy_(tensor)


def prune(folder: Path | str, limit: int, best: int | None = None) -> None:
    """Delete all but the newest `limit` checkpoints and the best one; also what an interrupted save left behind."""
    folder = Path(folder)
    keep = {*steps_in(folder)[-limit:], best}
    for step in steps_in(folder):
        if step not in keep:
            _remove(path_of(folder, step))
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.startswith(HIDDEN):
            shutil.rmtree(entry, ignore_errors=True)


def set_aside_after(folder: Path | str, step: int) -> None:
    """Rename checkpoints newer than `step` to `damaged-checkpoint-<step>`: a resume has passed over them.

    Nobody reads or counts them any more, so they cannot push a whole one out; a person may still look at them.
    """
    for newer in steps_in(Path(folder)):
        if newer > step:
            path = path_of(Path(folder), newer)
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _remove(path: Path) -> None:
    """Out of sight in one rename, then deleted: a kill in between leaves no checkpoint that lacks some of its files."""
    aside = path.with_name(f"{HIDDEN[1]}{path.name}-{os.getpid()}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _swap_in(temporary: Path, target: Path) -> None:
    if target.exists():
        _remove(target)
    temporary.rename(target)
    _flush_folder(target.parent)


def _digest_of(entries: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_and_flush(file: Path) -> str:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    return _sha256(file)


def _flush_folder(folder: Path) -> None:
    """Make a folder's entries durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def why_not_saved(error: BaseException, folder: Path, step: int) -> str:
    """What to tell a person whose checkpoint could not be written."""
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    reason = "the disk is full" if full else text
    before = [str(path_of(folder, other)) for other in steps_in(folder) if other != step]
    rest = f"Training can be resumed from {before[-1]}" if before else "No earlier checkpoint exists"
    return f"{path_of(folder, step)} could not be written: {reason}. {rest}; make room first."
