"""Model folders: what we train opens elsewhere, and what is published opens here.

A folder holds `config.json` (what the network is), `generation_config.json` (how it speaks), `model.safetensors` (the
weights; shards and an index where they are large), the tokenizer's files and `README.md` (the model card). Names are
translated by the tables in `families.py`; nothing in a folder is ever run.

Everything that can be wrong with a folder is told as one `MalmoiError` before a model comes into being.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from malmoi.config import GenerationConfig, MalmoiError, ModelConfig, nearest
from malmoi.formats import families, hub, loading, weights
from malmoi.formats.atomic import carry, recover, replaced
from malmoi.formats.card import FACTS, card, may_replace, read_facts
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import foreign

CONFIG, GENERATION, CARD = "config.json", "generation_config.json", "README.md"
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
                said.setdefault(families.EXTRA, {})["vocabulary"] = _mark(vocabulary)
            _write_json(new / GENERATION, _to_generation(model.generation_config))
            if facts is not None:
                _write_json(new / FACTS, facts)
            if may_replace(new / CARD):
                (new / CARD).unlink(missing_ok=True)
                page = card(config, family, folder.name, read_facts(new))
                (new / CARD).write_text(page, encoding="utf-8")
            _write_json(new / CONFIG, said)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def read_config(folder: str | Path) -> ModelConfig:
    """The `ModelConfig` of a model folder, ours or another family's; no weights are touched."""
    folder = Path(folder).expanduser()
    said = _read_json(folder / CONFIG)
    try:
        return families.from_config(said)
    except MalmoiError as error:
        raise MalmoiError(f"{folder / CONFIG}: {error}") from None


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
    _check_tokenizer(folder, config)
    stored = loading.open_weights(folder, _read_json(folder / CONFIG), count_parameters(config))
    with torch.device("meta"):
        model = GPT4LMHeadModel(config)
    model.load_state_dict(loading.read_state(stored, model, wanted), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = _read_generation(folder, model.generation_config)
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


def _check_tokenizer(folder: Path, config: ModelConfig) -> None:
    vocabulary = foreign.vocabulary(folder)
    if vocabulary is None:
        return
    file = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.json"
    largest = max(vocabulary.values(), default=-1)
    if largest >= config.vocab_size:
        raise MalmoiError(
            f"{folder}: {file} knows token ids up to {largest}, but the model's vocabulary ends at "
            f"{config.vocab_size - 1} (vocab_size={config.vocab_size} in config.json). The tokenizer belongs to "
            f"another model; put back the one that this model was trained with."
        )
    extra = _read_json(folder / CONFIG).get(families.EXTRA)
    mark = extra.get("vocabulary") if isinstance(extra, dict) else None
    if mark is not None and file == "tokenizer.json" and mark != _mark(vocabulary):
        raise MalmoiError(
            f"{folder}: tokenizer.json is not the tokenizer that this model was saved with (its vocabulary differs). "
            f"Put back the right one; if it is meant, delete 'vocabulary' under '{families.EXTRA}' in config.json."
        )


def _mark(vocabulary: Mapping[str, int]) -> str:
    """A short name for a vocabulary, the same however its file is laid out."""
    lines = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])), ensure_ascii=True)
    return hashlib.blake2b(lines.encode("ascii"), digest_size=16).hexdigest()


def _read_generation(folder: Path, fallback: GenerationConfig) -> GenerationConfig:
    """`generation_config.json` as far as we know its keys (other programs write many more)."""
    path = folder / GENERATION
    if not path.is_file():
        return fallback
    known = {
        name: value
        for name, value in _read_json(path).items()
        if name in GenerationConfig.model_fields and value is not None
    }
    try:
        return fallback.replace(**known)
    except MalmoiError as error:
        raise MalmoiError(f"{path}: {error}") from None


def _to_generation(config: GenerationConfig) -> dict[str, Any]:
    """What differs from the neutral settings, so that a setting that means nothing is not written."""
    neutral = GenerationConfig().model_dump(mode="json")
    said = {name: value for name, value in config.model_dump(mode="json").items() if value != neutral[name]}
    return {"_from_model_config": False, **said}


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file, so {path.parent} is not a model folder.") from None
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise MalmoiError(f"{path}: is not valid JSON ({error}). The file is damaged or cut short.") from None
    if not isinstance(value, dict):
        raise MalmoiError(f"{path}: must hold a JSON object, but holds a {type(value).__name__}.")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.unlink(missing_ok=True)  # never write through a link into the old folder
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
