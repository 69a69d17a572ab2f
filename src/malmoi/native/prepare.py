"""A model made ready for the native engine: rounded where that is asked for, packed, and saved as a folder.

What is rounded: the matrices, which are nearly all of a model. Norms, biases, learned positions and the routers of
experts stay float32: they are small, and a router's near ties would tip. The embedding is rounded like the head,
because where the two are tied they are one table; the head has its own choice of numbers, since its errors go straight
into the probabilities (int4 models keep an int8 head unless told otherwise).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError, nearest
from malmoi.native.description import FREQUENCIES, Description, Tensor, describe, tensors
from malmoi.native.interface import Kind
from malmoi.native.packed import GROUP, LAYOUT_VERSION, Packed, pack
from malmoi.native.packed_folder import CONFIG, METHOD, WEIGHTS, Opened, write_weights
from malmoi.native.rounding import round_int4, round_int8

if TYPE_CHECKING:
    import torch

    from malmoi.model.gpt import GPT4LMHeadModel

KINDS = {kind.name.lower(): kind for kind in Kind}
_BITS = {Kind.FLOAT32: 32, Kind.BFLOAT16: 16, Kind.INT8: 8, Kind.INT4: 4}
_NOT_CARRIED = {CONFIG, WEIGHTS, "model.safetensors.index.json", "README.md"}


def kind_named(name: str) -> Kind:
    """A kind of numbers by the name that people write."""
    if name not in KINDS:
        raise MalmoiError(f"There is no kind of numbers '{name}'.{nearest(name, KINDS)} Known: {', '.join(KINDS)}.")
    return KINDS[name]


def description_of(model: GPT4LMHeadModel) -> tuple[Description, NDArray[np.float32] | None]:
    """What the engine is told about a model, and how fast its rotary pairs turn.

    Raises `UnsupportedModelError` for what the engine does not compute.
    """
    from malmoi.model.position import frequencies

    config = model.config
    if config.positions != "rotary":
        return describe(config.model_dump()), None
    turning, factor = frequencies(config.rope_parameters, config.head_dim)
    return describe(config.model_dump(), factor), turning.numpy()


def packed_tensors(
    model: GPT4LMHeadModel, kind: Kind, head: Kind, rounded: Mapping[str, Packed] | None = None
) -> Iterator[tuple[str, Packed | NDArray[np.float32]]]:
    """Every tensor that the engine reads, packed one after another as they are asked for.

    `rounded`: matrices that are packed already (`malmoi.native.calibration`).

    Raises `MalmoiError` for weights that are not finite, or that are not the model's own (an adapter's).
    """
    description, turning = description_of(model)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    wanted = list(tensors(description))
    known = {tensor.name for tensor in wanted} | ({"lm_head.weight"} if description["tied"] else set())
    strange = sorted(set(state) - known)
    if strange:
        raise MalmoiError(
            f"The native engine does not know the tensor '{strange[0]}' ({len(strange)} such). Merge an adapter first."
        )
    for tensor in wanted:
        if tensor.name == FREQUENCIES:
            assert turning is not None
            yield tensor.name, turning
            continue
        numbers = _numbers(tensor.name, state[tensor.name])
        if tensor.form == "vector":
            yield tensor.name, numbers
        elif rounded and tensor.name in rounded:
            yield tensor.name, rounded[tensor.name]
        else:
            yield tensor.name, _packed(tensor, numbers, kind, head)


def _numbers(name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
    numbers = tensor.float().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise MalmoiError(f"Tensor '{name}' holds NaN or infinity: the training run that made it had diverged.")
    return numbers


def _packed(tensor: Tensor, numbers: NDArray[np.float32], kind: Kind, head: Kind) -> Packed:
    chosen = head if tensor.role in ("embedding", "head") else Kind.FLOAT32 if tensor.form == "router" else kind
    if chosen not in (Kind.INT8, Kind.INT4):
        return pack(chosen, numbers)
    to_round = round_int8 if chosen == Kind.INT8 else round_int4
    if numbers.ndim == 2:
        codes, scales = to_round(numbers)
        return pack(chosen, codes, scales)
    rounded = [to_round(expert) for expert in numbers]
    return pack(chosen, np.stack([codes for codes, _ in rounded]), np.stack([scales for _, scales in rounded]))


def head_kind(kind: Kind, head: str | None) -> Kind:
    """The head's own kind: as the rest, but int8 where the rest is int4."""
    if head is not None:
        return kind_named(head)
    return Kind.INT8 if kind == Kind.INT4 else kind


def prepare(
    model: GPT4LMHeadModel, to: str = "bfloat16", head: str | None = None, rounded: Mapping[str, Packed] | None = None
) -> Opened:
    """A torch model for the engine, in memory; `to` and `head`: float32, bfloat16, int8 or int4."""
    kind = kind_named(to)
    return Opened(description_of(model)[0], dict(packed_tensors(model, kind, head_kind(kind, head), rounded)))


def check_target(target: Path) -> None:
    """Raise `MalmoiError` where something lies already; asked before a calibration of minutes, and again to write."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MalmoiError(f"{target}: is there already. Choose a new folder, so that no model is replaced by mistake.")


def quantise(
    model: GPT4LMHeadModel,
    source: Path,
    target: Path,
    to: str = "int8",
    head: str | None = None,
    rounded: Mapping[str, Packed] | None = None,
) -> int:
    """Write a model as a quantised folder, all at once, with the tokenizer and other files of `source`.

    `rounded`: matrices that `malmoi.native.calibration` has rounded; the others are rounded to the nearest here.

    Returns the bytes of the weights. Raises `MalmoiError` when the disk refuses, when the target is there already, or
    for a model that the engine does not compute.
    """
    from malmoi.formats.atomic import carry, replaced
    from malmoi.formats.families import EXTRA, to_config
    from malmoi.formats.folder import read_json

    kind = kind_named(to)
    headed = head_kind(kind, head)
    check_target(target)
    description, _ = description_of(model)
    said: dict[str, Any] = to_config(model.config)
    said["dtype"] = "float32"  # of the activations
    own = read_json(source / CONFIG).get(EXTRA) if (source / CONFIG).is_file() else None
    if isinstance(own, dict) and "vocabulary" in own:  # the mark of the tokenizer that belongs to the model
        said.setdefault(EXTRA, {})["vocabulary"] = own["vocabulary"]
    said["quantization_config"] = {
        "quant_method": METHOD,
        "bits": _BITS[kind],
        "head_bits": _BITS[headed],
        "group_size": GROUP,
        "layout_version": LAYOUT_VERSION,
        "rotary_factor": description.values["rotary_factor"],
        "model": model.config.model_dump(mode="json"),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as new:
        write_weights(new / WEIGHTS, packed_tensors(model, kind, headed, rounded))
        carry(source, new, but_not=_NOT_CARRIED | {path.name for path in source.glob("model-*.safetensors")})
        (new / CONFIG).write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return (target / WEIGHTS).stat().st_size
