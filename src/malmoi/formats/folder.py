"""What a model folder says of itself, read and written without torch: its JSON files.

`config.json` tells what the network is and `generation_config.json` how it speaks; the tokenizer's files must be those
of this very model. Whoever opens a folder asks here, with torch (`malmoi.formats.huggingface`) or without
(`malmoi.native`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.config import GenerationConfig, MalmoiError, ModelConfig
from malmoi.formats import families
from malmoi.tokens import foreign

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"


def read_config(folder: str | Path) -> ModelConfig:
    """The `ModelConfig` of a model folder, ours or another family's; no weights are touched."""
    folder = Path(folder).expanduser()
    said = read_json(folder / CONFIG)
    try:
        return families.from_config(said)
    except MalmoiError as error:
        raise MalmoiError(f"{folder / CONFIG}: {error}") from None


def read_generation(folder: Path, fallback: GenerationConfig) -> GenerationConfig:
    """`generation_config.json` as far as we know its keys (other programs write many more)."""
    path = folder / GENERATION
    if not path.is_file():
        return fallback
    known = {
        name: value
        for name, value in read_json(path).items()
        if name in GenerationConfig.model_fields and value is not None
    }
    try:
        return fallback.replace(**known)
    except MalmoiError as error:
        raise MalmoiError(f"{path}: {error}") from None


def to_generation(config: GenerationConfig) -> dict[str, Any]:
    """What differs from the neutral settings, so that a setting that means nothing is not written."""
    neutral = GenerationConfig().model_dump(mode="json")
    said = {name: value for name, value in config.model_dump(mode="json").items() if value != neutral[name]}
    return {"_from_model_config": False, **said}


def check_tokenizer(folder: Path, vocab_size: int, tokenizer: GPT4Tokenizer | None = None) -> None:
    """Raise `MalmoiError` for a tokenizer that is not this model's: with more tokens, or of another vocabulary.

    `tokenizer`: the folder's, where it has been read already.
    """
    found = foreign.vocabulary(folder) if tokenizer is None else tokenizer
    if found is None:
        return
    largest = max(found.values(), default=-1) if isinstance(found, dict) else found.vocab_size - 1
    file = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.json"
    if largest >= vocab_size:
        raise MalmoiError(
            f"{folder}: {file} knows token ids up to {largest}, but the model's vocabulary ends at "
            f"{vocab_size - 1} (vocab_size={vocab_size} in config.json). The tokenizer belongs to "
            f"another model; put back the one that this model was trained with."
        )
    extra = read_json(folder / CONFIG).get(families.EXTRA)
    saved = extra.get("vocabulary") if isinstance(extra, dict) else None
    if saved is None or file != "tokenizer.json":
        return
    if saved != mark(found if isinstance(found, dict) else found.get_vocab()):
        raise MalmoiError(
            f"{folder}: tokenizer.json is not the tokenizer that this model was saved with (its vocabulary differs). "
            f"Put back the right one; if it is meant, delete 'vocabulary' under '{families.EXTRA}' in config.json."
        )


def mark(vocabulary: Mapping[str, int]) -> str:
    """A short name for a vocabulary, the same however its file is laid out."""
    lines = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])), ensure_ascii=True)
    return hashlib.blake2b(lines.encode("ascii"), digest_size=16).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises `MalmoiError` for a file that is missing, unreadable or something else."""
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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object for people to read."""
    path.unlink(missing_ok=True)  # never write through a link into the old folder
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
