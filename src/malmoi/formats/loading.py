"""Between a folder's weights and a model's: names and shapes settled first, then every number straight to its place.

The model is built without memory (torch's meta device); each of its tensors is then filled from the memory map of the
files, turned, cut, unpacked and converted on the way. The weights are thus held once, plus a few rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from malmoi.config import MalmoiError
from malmoi.formats import mxfp4, weights
from malmoi.formats.families import Family, family_named, match
from malmoi.formats.renaming import Place, places
from malmoi.model.gpt import GPT4LMHeadModel

HEAD = "lm_head.weight"
PACKED_CONFIG: Mapping[str, Any] = {  # as the published folders say it
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        *("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"),
    ],
}


@dataclass(frozen=True, slots=True)
class Stored:
    """The weights of a folder, found and checked but not read: each as one tensor of its family."""

    folder: Path
    family: Family
    sources: Mapping[str, weights.Entry | mxfp4.Packed]
    strange: tuple[str, ...]  # what is no tensor of any model
    packed: bool


def open_weights(folder: Path, said: Mapping[str, Any], parameters: int) -> Stored:
    """The weights that lie in a folder, whose `config.json` is `said` and describes so many parameters.

    Raises `MalmoiError` for files that are missing, damaged or quantised in a way that is not read.
    """
    family = family_named(said)
    packed = _is_packed(folder, family, said)
    entries = weights.catalogue(folder)
    sources, strange = _unpacked(entries) if packed else (dict(entries), ())
    held = sum(math.prod(source.shape) for source in sources.values())
    if parameters > 2 * held:
        raise MalmoiError(
            f"{folder}: config.json describes {parameters:,} parameters, but the weights hold {held:,}. "
            f"The two files do not belong together."
        )
    return Stored(folder, family, sources, strange, packed)


def _is_packed(folder: Path, family: Family, said: Mapping[str, Any]) -> bool:
    """Whether the experts are MXFP4 blocks; every other quantisation is refused by its name."""
    settings = said.get("quantization_config")
    if not settings:
        return False
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if method is None and isinstance(settings, Mapping) and any(str(key).startswith("load_in_") for key in settings):
        method = "bitsandbytes"  # older folders do not say so
    if method == "mxfp4" and family.mxfp4:
        return True
    if method == "malmoi":
        raise MalmoiError(
            f"{folder}: was made by malmoi quantise, for the native engine: generate, chat and serve open it. For "
            f"everything else name the folder that it was made from."
        )
    raise MalmoiError(
        f"{folder}: the weights are quantised ({method or 'in an unknown way'}), which Malmoi does not read for "
        f"model_type '{family.model_type}'. Take the model's folder that is not quantised (float32, bfloat16 or "
        f"float16), usually published beside it under the same name without the ending."
    )


def _unpacked(
    entries: Mapping[str, weights.Entry],
) -> tuple[dict[str, weights.Entry | mxfp4.Packed], tuple[str, ...]]:
    """Pairs of blocks and scales as one source each; and the halves of pairs."""
    sources: dict[str, weights.Entry | mxfp4.Packed] = {}
    strange = []
    for name, entry in entries.items():
        stem = name.removesuffix(mxfp4.BLOCKS).removesuffix(mxfp4.SCALES)
        blocks, scales = entries.get(stem + mxfp4.BLOCKS), entries.get(stem + mxfp4.SCALES)
        if stem == name:
            sources[name] = entry
        elif blocks is None or scales is None:
            strange.append(name)
        elif entry is blocks:
            sources[stem] = mxfp4.Packed.of(stem, blocks, scales)
    return sources, tuple(strange)


def read_state(stored: Stored, model: GPT4LMHeadModel, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """All weights of a model (which stands on the meta device) under our names, in one type.

    `dtype` None: the type in which the embedding is stored. Raises `MalmoiError` for tensors that are missing, not
    expected, misshapen or not numbers.
    """
    tied = model.config.tie_word_embeddings
    ours = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == HEAD)}
    wanted = {place.theirs: place for place in places(stored.family.tensors, ours, model.config.num_hidden_layers)}
    found, extra = match(stored.family, stored.sources, wanted)
    extra = [name for name in (*stored.strange, *extra) if not (tied and name == HEAD)]  # some store it twice
    missing = sorted(set(wanted) - set(found))
    if missing or extra:
        parts = [f"missing: {weights.listed(missing)}"] if missing else []
        parts += [f"not expected: {weights.listed(extra)}"] if extra else []
        raise MalmoiError(f"{stored.folder}: the weights do not fit config.json ({'; '.join(parts)}).")
    for name, place in wanted.items():
        _check(found[name], stored.sources[found[name]], tuple(place.whole(ours).shape))
    embedding = next(place.theirs for place in wanted.values() if place.ours == ("model.embed_tokens.weight",))
    table = stored.sources[found[embedding]]
    kind = dtype or (weights.DTYPES[table.dtype] if isinstance(table, weights.Entry) else torch.bfloat16)
    state = {name: torch.empty(tensor.shape, dtype=kind) for name, tensor in ours.items()}
    for name, place in wanted.items():
        weights.pour(stored.sources[found[name]], found[name], place.views(state), place.axis)
    return state | {HEAD: state["model.embed_tokens.weight"]} if tied else state


def _check(name: str, source: weights.Entry | mxfp4.Packed, shape: tuple[int, ...]) -> None:
    if source.shape != shape:
        raise MalmoiError(
            f"{source.file}: tensor '{name}' has shape {list(source.shape)}, but config.json asks for {list(shape)}."
        )
    if isinstance(source, weights.Entry) and source.dtype not in weights.DTYPES:
        raise MalmoiError(
            f"{source.file}: tensor '{name}' has type {source.dtype}; weights are {', '.join(weights.DTYPES)}."
        )


def stored_tensors(model: GPT4LMHeadModel, family: Family, packed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """A model's weights under the family's names and in its layout, made one after another as they are asked for.

    `packed`: the experts' matrices as MXFP4 blocks. Raises `MalmoiError` for a layout that cannot be packed.
    """
    if packed and not family.mxfp4:
        raise MalmoiError(
            f"A model of type '{family.model_type}' is not stored as MXFP4: only gpt_oss folders are, and only there "
            f"do other programs understand it."
        )
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state[HEAD]
    for place in places(family.tensors, state, model.config.num_hidden_layers):
        if packed and place.rule.stacked and place.rule.transposed:
            yield from _pack(place, state)
        else:
            yield place.theirs, place.whole(state)


def _pack(place: Place, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    matrices = place.whole(state).transpose(1, 2)  # (E, out, in)
    if matrices.shape[-1] % mxfp4.BLOCK:
        raise MalmoiError(
            f"'{place.theirs}' has rows of {matrices.shape[-1]} numbers, but MXFP4 packs {mxfp4.BLOCK} at a time. "
            f"Save it without packing, or choose sizes that are multiples of {mxfp4.BLOCK}."
        )
    pairs = [mxfp4.encode(matrix) for matrix in matrices]  # an expert at a time: encoding needs room
    yield place.theirs + mxfp4.BLOCKS, torch.stack([blocks for blocks, _ in pairs])
    yield place.theirs + mxfp4.SCALES, torch.stack([scales for _, scales in pairs])
