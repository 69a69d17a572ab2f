"""Model folders: what we train opens elsewhere, and what is published opens here.

A folder holds `config.json` (what the network is), `generation_config.json` (how it speaks), `model.safetensors` (the
weights; shards and an index where they are large), the tokenizer's files and `README.md` (the model card). Names are
translated by the tables in `families.py`; nothing in a folder is ever run.

Everything that can be wrong with a folder is told as one `MalmoiError` before a model comes into being.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from malmoi.config import MalmoiError, nearest
from malmoi.formats import families, hub, loading, weights
from malmoi.formats import folder as folders
from malmoi.formats.atomic import carry, recover, replaced
from malmoi.formats.card import FACTS, card, may_replace, read_facts
from malmoi.formats.folder import CONFIG, GENERATION, read_config
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import foreign

CARD = "README.md"
NUMBER_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in weights.DTYPES.values()}


class SavesItself(Protocol):
    """A tokenizer, as far as a model folder is concerned."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write its files into the folder."""
        ...


def save(
    model: GPT4LMHeadModel,
    folder: str | Path,
    tokenizer: SavesItself | None = None,
    packed: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder, all at once: whatever stops it, the folder is what it was before.

    Other files of an existing model folder (a tokenizer saved earlier, a changed README) stay. `facts` are those of the
    run that made the model (`malmoi.formats.card`); they are kept in the folder, and its card tells them. `packed`
    stores the experts of a gpt-oss layout in four bits a weight, as that family is published (`malmoi.formats.mxfp4`):
    about a quarter of the size, and rounded. Raises `MalmoiError` when the disk refuses, when the folder holds other
    things than a model, or for a layout that cannot be packed.
    """
    folder = Path(folder).expanduser().absolute()
    recover(folder)
    _refuse_strangers(folder)
    config = model.config
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise MalmoiError("The model has an adapter. Merge it (merge_adapter), or save the adapter alone.")
    with replaced(folder) as new:
        try:
            family = families.family_of(config)
            weights.write(loading.stored_tensors(model, family, packed), new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
            carry(folder, new, but_not=_stale(folder))
            said: dict[str, Any] = families.to_config(config) | {"dtype": str(model.dtype).removeprefix("torch.")}
            if packed:
                said["quantization_config"] = dict(loading.PACKED_CONFIG)
            vocabulary = foreign.vocabulary(new) if tokenizer is not None else None
            if vocabulary is not None:
                said.setdefault(families.EXTRA, {})["vocabulary"] = folders.mark(vocabulary)
            folders.write_json(new / GENERATION, folders.to_generation(model.generation_config))
            if facts is not None:
                folders.write_json(new / FACTS, facts)
            if may_replace(new / CARD):
                (new / CARD).unlink(missing_ok=True)
                page = card(config, family, folder.name, read_facts(new))
                (new / CARD).write_text(page, encoding="utf-8")
            folders.write_json(new / CONFIG, said)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load(folder: str | Path, dtype: torch.dtype | str | None = None) -> GPT4LMHeadModel:
    """The model of a folder, in evaluation mode; `dtype` None keeps the numbers as they are stored.

    Raises one `MalmoiError` for whatever is wrong: a file that is missing, damaged or cut short, a tensor that is
    missing, superfluous, misshapen or not finite, a tokenizer that is not this model's.
    """
    folder = Path(folder).expanduser()
    recover(folder)
    if not folder.is_dir():
        raise MalmoiError(f"{folder}: there is no such folder.")
    config = read_config(folder)
    wanted = _dtype(dtype)
    folders.check_tokenizer(folder, config.vocab_size)
    stored = loading.open_weights(folder, folders.read_json(folder / CONFIG), count_parameters(config))
    with torch.device("meta"):
        model = GPT4LMHeadModel(config)
    model.load_state_dict(loading.read_state(stored, model, wanted), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = folders.read_generation(folder, model.generation_config)
    return model.eval()


def from_pretrained(name: str | Path, dtype: torch.dtype | str | None = None) -> GPT4LMHeadModel:
    """The model of a folder or of a hub name."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        raise MalmoiError(
            f"{path}: is a GGUF file, made for llama.cpp, whose numbers are mostly rounded to a few bits. Open the "
            f"folder (or the hub name) that it was made from; GGUF files usually name it as their base model."
        )
    recover(path)
    return load(hub.find(name), dtype=dtype)


def _refuse_strangers(folder: Path) -> None:
    """A folder that holds things, but no model and no tokenizer, is probably not meant to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise MalmoiError(f"{folder}: is a file, but a model is saved as a folder. Choose another name.")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not held & {CONFIG, GENERATION, weights.SINGLE, "tokenizer.json", "tokenizer_config.json"}:
        raise MalmoiError(
            f"{folder}: holds {weights.listed(sorted(held))}, but no model. A model folder is replaced as a whole; "
            f"choose a new or empty folder."
        )


def _stale(folder: Path) -> set[str]:
    """What an earlier save wrote and this one writes anew."""
    shards = {path.name for path in folder.glob("model*.safetensors")} if folder.is_dir() else set()
    return {CONFIG, GENERATION, weights.INDEX, *shards}


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    name = dtype.removeprefix("torch.")
    if name == "auto":
        return None
    if name not in NUMBER_TYPES:
        raise MalmoiError(
            f"There is no number type '{dtype}'.{nearest(name, NUMBER_TYPES)} Known: {', '.join(NUMBER_TYPES)}."
        )
    return NUMBER_TYPES[name]
