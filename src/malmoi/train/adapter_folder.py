"""An adapter as a folder that PEFT reads, and PEFT's adapters here.

    adapter_config.json         rank, scale, which layers, and where the model lies that it belongs to
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight (r, in) and .lora_B.weight (out, r)

The layers have Hugging Face's names. For most families these are ours; GPT-2 keeps queries, keys and values in one
matrix, `c_attn`, and so does its adapter. Both directions are exact:

    reading   one A serves all three of ours, and B is cut into three:        B = [B_q; B_k; B_v]
    writing   the three stand side by side in one adapter of three times      A = [A_q; A_k; A_v]
              the rank, whose B is zero off the diagonal                      B = diag(B_q, B_k, B_v)

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from malmoi.config import LoraConfig, MalmoiError, nearest
from malmoi.formats import weights
from malmoi.formats.atomic import recover, replaced
from malmoi.formats.renaming import Place
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.folder import read_json, write_text
from malmoi.train.adapter_names import Layer, base_state, by_pattern, layers_of, places_of, promised, shortest
from malmoi.train.adapters import WHOLE, LoraLinear, adapted, let_learn_whole, put_lora, whole_modules

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Keys of adapter_config.json that we follow, or that say nothing about what is computed.
UNDERSTOOD = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "fan_in_fan_out", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("init_lora_weights", "ensure_weight_tying", "megatron_config", "megatron_core", "loftq_config"),
    *("eva_config", "qalora_group_size", "runtime_config"),
}
NEUTRAL = (None, False, "none", {}, [])
# Ways to draw the first A; all others (pissa, olora, corda, loftq ...) change the weights of the model as well.
KEEPS_THE_MODEL = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class _Addition:
    """What an adapter adds to one of their layers: scale * B (out, r) @ A (r, in)."""

    a: torch.Tensor
    b: torch.Tensor
    r: int
    alpha: float


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, not a model."""
    return (Path(folder).expanduser() / CONFIG).is_file()


def base_of(folder: str | Path) -> str:
    """The model that an adapter belongs to: a folder (a relative path counts from the adapter's), or a hub name."""
    folder = Path(folder).expanduser()
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise MalmoiError(f"{folder / CONFIG}: does not name the model it belongs to (base_model_name_or_path).")
    for path in (folder / name, Path(name).expanduser()):
        if path.is_dir():
            return os.path.normpath(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MalmoiError(
            f"{folder}: the model that this adapter belongs to is not at {os.path.normpath(folder / name)}. Move it "
            f"back, or write its place as base_model_name_or_path into {CONFIG}."
        )
    return name


# ---- writing --------------------------------------------------------------------------------------------------------


def save_adapter(model: GPT4LMHeadModel, folder: str | Path, base: str | Path | None = None) -> None:
    """Write the model's adapter as a folder, all at once, in PEFT's format.

    `base` is the folder (or hub name) of the model without the adapter; a folder is recorded relative to the adapter's,
    so that the two may move together. Raises `MalmoiError` when the model has no adapter, an adapter holds NaN, or the
    disk refuses.
    """
    folder = Path(folder).expanduser().absolute()
    ours = adapted(model)
    if not ours:
        raise MalmoiError("The model has no adapter to save.")
    recover(folder)
    _refuse_strangers(folder)
    layers = [layer for layer in layers_of(model) if any(name in ours for name in layer.ours)]
    first = next(iter(ours.values()))
    additions = {layer.theirs: _joined(model, layer, first.use_rslora) for layer in layers}
    tensors = {f"{name}.lora_A.weight": addition.a for name, addition in additions.items()}
    tensors |= {f"{name}.lora_B.weight": addition.b for name, addition in additions.items()}
    whole, whole_tensors = _whole(model)
    tensors = {
        f"{PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in (tensors | whole_tensors).items()
    }
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise MalmoiError(f"The adapter's '{name}' holds NaN or infinity: training diverged. Nothing was written.")
    (r, alpha), _ = Counter((addition.r, addition.alpha) for addition in additions.values()).most_common(1)[0]
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": _recorded(base, folder),
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": first.lora_dropout.p,
        "use_rslora": first.use_rslora,
        "target_modules": shortest(list(additions), [layer.theirs for layer in layers_of(model)]),
        "rank_pattern": {re.escape(name): one.r for name, one in additions.items() if one.r != r},
        "alpha_pattern": {re.escape(name): one.alpha for name, one in additions.items() if one.alpha != alpha},
        "modules_to_save": whole or None,
        "ensure_weight_tying": bool(whole) and model.config.tie_word_embeddings,
        "fan_in_fan_out": any(layer.transposed for layer in layers),
        "bias": "none",
        "init_lora_weights": True,
    }
    with replaced(folder) as new:
        try:
            save_file(tensors, new / TENSORS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None
        write_text(new / CONFIG, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def _joined(model: GPT4LMHeadModel, layer: Layer, use_rslora: bool) -> _Addition:
    """The additions to our layers as one to theirs; parts that share an A keep one."""
    parts = [model.get_submodule(name) for name in layer.ours]
    present = [part for part in parts if isinstance(part, LoraLinear)]
    if len(parts) == 1:
        only = present[0]
        return _Addition(only.lora_A.weight, only.lora_B.weight, only.r, only.alpha)
    readers: list[torch.Tensor] = []
    rows = [part.out_features for part in parts if isinstance(part, nn.Linear)]
    places: list[tuple[LoraLinear, int, int]] = []  # (ours, its first row of B, which A)
    for number, part in enumerate(parts):
        if not isinstance(part, LoraLinear):
            continue
        weight = part.lora_A.weight.detach()
        which = next((i for i, known in enumerate(readers) if torch.equal(known, weight)), len(readers))
        if which == len(readers):
            readers.append(weight)
        places.append((part, sum(rows[:number]), which))
    a = torch.cat(readers)
    b = a.new_zeros(sum(rows), len(a))
    starts = [sum(len(known) for known in readers[:i]) for i in range(len(readers))]
    r = len(a)
    scale = present[0].scale
    for part, row, which in places:
        columns = slice(starts[which], starts[which] + part.r)
        b[row : row + part.out_features, columns] = part.lora_B.weight.detach() * (part.scale / scale)
    return _Addition(a, b, r, scale * (r**0.5 if use_rslora else r))


def _whole(model: GPT4LMHeadModel) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The modules that learned whole: their names and their tensors, as Hugging Face's."""
    marked = [name for name, module in model.named_modules() if getattr(module, WHOLE, False)]
    mine = {f"{name}.{part}" for name in marked for part, _ in model.get_submodule(name).named_parameters()}
    state = base_state(model)
    found, tensors = [], {}
    for place in places_of(model):
        if not mine.intersection(place.ours):
            continue
        if not mine.issuperset(place.ours):
            raise MalmoiError(f"modules_to_save: {place.theirs} is one matrix there and must be named as a whole.")
        tensors[place.theirs] = place.whole(state)
        if place.ours == ("model.embed_tokens.weight",) and model.config.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors[place.theirs].clone()  # PEFT reads the shared table under both names
        module = place.theirs.rpartition(".")[0]
        found += [module] if module not in found else []
    return found, tensors


def _recorded(base: str | Path | None, folder: Path) -> str | None:
    """A folder relative to the adapter's; anything else (a hub name) as it is."""
    if base is None or not Path(base).expanduser().is_dir():
        return None if base is None else str(base)
    try:
        return Path(os.path.relpath(Path(base).expanduser().absolute(), folder)).as_posix()
    except ValueError:  # another drive
        return str(Path(base).expanduser().absolute())


def _refuse_strangers(folder: Path) -> None:
    """A folder that holds other things than an adapter is not meant to be replaced."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not is_adapter(folder):
        raise MalmoiError(f"{folder}: is there already and holds no adapter. Choose a new or empty folder.")


# ---- reading --------------------------------------------------------------------------------------------------------


def load_adapter(model: GPT4LMHeadModel, folder: str | Path, trainable: bool = False) -> list[str]:
    """Put the adapter of a folder (ours or PEFT's) on `model`, in place; returns the names of the adapted layers.

    With `trainable` it goes on learning; everything else is frozen. Raises `MalmoiError`, and leaves the model as it
    was, for an adapter of another kind or for a model of another shape, and for files that are missing or damaged.
    """
    folder = Path(folder).expanduser()
    recover(folder)
    if adapted(model):
        raise MalmoiError("The model has an adapter already. Merge it first (merge_adapter), then load another one.")
    said = _read_config(folder)
    entries = _entries(folder)
    layers = {layer.theirs: layer for layer in layers_of(model)}
    additions = _additions(folder, said, entries, layers, model)
    rest = {name: entry for name, entry in entries.items() if ".lora_" not in name}
    whole = _read_whole(folder, said, rest, model)
    rslora = bool(said.get("use_rslora"))
    model.requires_grad_(False)
    names = []
    for theirs, addition in additions.items():
        ours = layers[theirs].ours
        rows = [len(model.get_parameter(f"{name}.weight")) for name in ours]
        for name, b in zip(ours, addition.b.split(rows), strict=True):
            layer = put_lora(model, name, addition.r, addition.alpha, rslora, float(said.get("lora_dropout") or 0.0))
            with torch.no_grad():
                layer.lora_A.weight.copy_(addition.a)
                layer.lora_B.weight.copy_(b)
            names.append(name)
    _put_whole(model, whole)
    model.requires_grad_(False)
    if trainable:
        for layer in adapted(model).values():
            layer.lora_A.requires_grad_(True)
            layer.lora_B.requires_grad_(True)
        for module in model.modules():
            if getattr(module, WHOLE, False):
                module.requires_grad_(True)
    return names


def _read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`, as far as it asks for nothing that we would compute differently."""
    path = folder / CONFIG
    if not path.is_file():
        raise MalmoiError(f"{folder}: holds no {CONFIG}, so it is not an adapter.")
    said = read_json(path)
    if said.get("peft_type") != "LORA":
        raise MalmoiError(f"{path}: peft_type is {said.get('peft_type')!r}; only 'LORA' is supported.")
    if said.get("init_lora_weights") not in KEEPS_THE_MODEL:
        raise MalmoiError(
            f"{path}: init_lora_weights={said['init_lora_weights']!r} changes the model's own weights, which this "
            f"folder does not hold. PEFT can convert it (path_initial_model_for_weight_conversion)."
        )
    for key, value in said.items():
        if key not in UNDERSTOOD and value not in NEUTRAL:
            raise MalmoiError(f"{path}: {key}={value!r:.60} is not supported; this adapter would be computed wrongly.")
    try:
        LoraConfig(r=said["r"], lora_alpha=said["lora_alpha"], lora_dropout=said.get("lora_dropout") or 0.0)
        for key, value in {**(said.get("rank_pattern") or {}), **(said.get("alpha_pattern") or {})}.items():
            re.compile(key)
            float(value)
    except KeyError as error:
        raise MalmoiError(f"{path}: does not say {error.args[0]}. The file is damaged.") from None
    except (TypeError, AttributeError, ValueError, re.error) as error:
        raise MalmoiError(f"{path}: {error}") from None
    return said


def _entries(folder: Path) -> dict[str, weights.Entry]:
    path = folder / TENSORS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise MalmoiError(f"{folder}: adapter_model.bin may run code when opened and is not read; save as safetensors.")
    return {name.removeprefix(PREFIX): entry for name, entry in weights.read_header(path).items()}


def _read(entry: weights.Entry, name: str) -> torch.Tensor:
    """One tensor; numbers that are not finite are refused."""
    try:
        with safe_open(str(entry.file), framework="pt") as file:
            tensor = file.get_tensor(PREFIX + name).clone()
    except (SafetensorError, OSError, ValueError) as error:
        raise MalmoiError(f"{entry.file}: '{name}' cannot be read: {error}.") from None
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise MalmoiError(
            f"{entry.file}: '{name}' holds NaN, infinity or no numbers at all. The training run that wrote it had "
            f"diverged; take an earlier checkpoint."
        )
    return tensor


def _additions(
    folder: Path,
    said: Mapping[str, Any],
    entries: Mapping[str, weights.Entry],
    layers: Mapping[str, Layer],
    model: GPT4LMHeadModel,
) -> dict[str, _Addition]:
    """Every pair of A and B, with names, shapes and ranks checked against the model before any number is used."""
    file = folder / TENSORS
    found: dict[str, dict[str, str]] = {}
    for name in entries:
        if ".lora_" in name:
            match = re.fullmatch(r"(.*)\.lora_([AB])\.weight", name)
            if match is None or match[1] not in layers:
                theirs = name.partition(".lora_")[0]
                raise MalmoiError(
                    f"{file}: adapts '{theirs}', but this model has no such linear layer.{nearest(theirs, layers)} "
                    f"The adapter belongs to a model of another shape."
                )
            found.setdefault(match[1], {})[match[2]] = name
    missing = [f"{name}.lora_{half}.weight" for name, pair in found.items() for half in "AB" if half not in pair]
    missing += [f"{name}.lora_A.weight" for name in promised(said, layers) if name not in found]
    if missing or not found:
        raise MalmoiError(f"{file}: is incomplete: {weights.listed(missing) or 'no adapter tensor'} is missing.")
    additions = {}
    for theirs, pair in found.items():
        shapes = [model.get_parameter(f"{name}.weight").shape for name in layers[theirs].ours]  # (out, in)
        r = int(by_pattern(said.get("rank_pattern"), theirs, said["r"]))
        wanted = {"A": (r, shapes[0][1]), "B": (sum(shape[0] for shape in shapes), r)}
        for half, shape in wanted.items():
            if entries[pair[half]].shape != shape:
                raise MalmoiError(
                    f"{file}: '{pair[half]}' has shape {list(entries[pair[half]].shape)}, but this model and rank {r} "
                    f"ask for {list(shape)}. The adapter belongs to a model of another shape."
                )
        alpha = float(by_pattern(said.get("alpha_pattern"), theirs, said["lora_alpha"]))
        a, b = (_read(entries[pair[half]], pair[half]) for half in "AB")
        additions[theirs] = _Addition(a, b, r, alpha)
    return additions


def _read_whole(
    folder: Path, said: Mapping[str, Any], rest: Mapping[str, weights.Entry], model: GPT4LMHeadModel
) -> list[tuple[Place, torch.Tensor]]:
    """The tensors of modules_to_save, each with its place in the model."""
    state = base_state(model)
    known = {place.theirs: place for place in places_of(model)}
    due = [name for name in known for end in said.get("modules_to_save") or () if _inside(name, end)]
    tied = model.config.tie_word_embeddings
    if (
        tied
        and not said.get("ensure_weight_tying")
        and any("embed_tokens" in part for name in due for part in known[name].ours)
    ):
        raise MalmoiError(
            f"{folder / CONFIG}: changes the embeddings alone, but this model's output reads the same table "
            f"(tie_word_embeddings). Only an adapter with ensure_weight_tying fits."
        )
    missing = [name for name in due if name not in rest and not (tied and name == "lm_head.weight")]
    if missing:
        raise MalmoiError(f"{folder / TENSORS}: is incomplete: {weights.listed(missing)} is missing.")
    found = []
    for name, entry in rest.items():
        if tied and name == "lm_head.weight":
            continue
        if name not in due:
            raise MalmoiError(f"{folder / TENSORS}: '{name}' is not expected: {CONFIG} does not name it.")
        shape = tuple(known[name].whole(state).shape)
        if entry.shape != shape:
            raise MalmoiError(
                f"{folder / TENSORS}: '{name}' has shape {list(entry.shape)}, but this model asks for {list(shape)}."
            )
        found.append((known[name], _read(entry, name)))
    return found


def _inside(name: str, end: str) -> bool:
    """Whether a tensor belongs to a module that `end` names, as PEFT matches modules_to_save."""
    return f".{name.rpartition('.')[0]}".endswith(f".{end}")


def _put_whole(model: GPT4LMHeadModel, whole: Iterable[tuple[Place, torch.Tensor]]) -> None:
    state = base_state(model)
    for place, tensor in whole:
        with torch.no_grad():
            for index, view in place.views(state):
                view.copy_(tensor[index])
        modules = {name.rpartition(".")[0] for name in place.ours}
        let_learn_whole(model, whole_modules(model, modules))
