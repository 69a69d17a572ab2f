"""What a finished run tells about itself, gathered from the files of its folder: the model card is filled from it.

Plain data, so that it can lie beside the weights as `training.json` and be read by any program:

    name        of the run
    languages   codes, where they are known
    data        sources (name, license, documents, tokens, bytes, fingerprint), held_out, validation, sha256
    training    steps, tokens, batch_tokens, seconds, optimizer, learning_rate ..., start_from, lora_rank, freeze
    results     training_loss, held_out_loss, best_held_out_loss, best_step, bits_per_byte, gap, memorization, skipped
    energy      joules, kilowatt_hours, joules_per_token, method
    machine     name, threads, gpu
    versions    of Python and of what computed
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli.folders import TOKENS
from malmoi.config import Recipe, SourceConfig

if TYPE_CHECKING:
    from malmoi.data.tokenfile import TokenFile

VILLAGE_LANGUAGES = ["ko", "en", "fr"]
RESULTS = ("training_loss", "held_out_loss", "best_held_out_loss", "best_step", "gap", "memorization", "skipped")


def gather(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The facts of the run in `folder`; None where its records are not whole (then the card tells the shape alone)."""
    import yaml

    from malmoi.data.tokenfile import TokenFile
    from malmoi.train.record import CONFIG, SUMMARY, VERSIONS

    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        versions = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
        train = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))["train"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    known = all(_is_village(source) for source in recipe.data.sources) and recipe.start_from is None
    computing = ("python", "malmoi", "torch", "numpy", "tokenizers")
    return {
        "name": folder.resolve().name,
        "languages": VILLAGE_LANGUAGES if known else [],
        "data": _data(recipe, TokenFile.open(folder / TOKENS)),
        "training": _training(recipe, train, summary, versions),
        "results": _results(summary, folder, bool(train["load_best_model_at_end"])),
        "energy": summary.get("energy"),
        "machine": {
            "name": versions.get("processor") or versions["machine"],
            "threads": versions["threads"],
            "gpu": versions["gpu"],
        },
        "versions": {name: versions.get(name) for name in computing},
    }


def _data(recipe: Recipe, tokens: TokenFile) -> dict[str, Any]:
    table = tokens.documents
    sources = [
        {
            "name": source.name,
            "license": source.license,
            "documents": source.documents,
            "tokens": source.tokens,
            "bytes": source.bytes,
            "fingerprint": _fingerprint(table["hash"][table["source"] == number]),
        }
        for number, source in enumerate(tokens.sources)
    ]
    written = json.dumps(tokens.manifest["shards"], sort_keys=True)  # it holds the SHA-256 of every file
    return {
        "sources": sources,
        "held_out": tokens.manifest["held_out"],
        "validation": bool(recipe.data.validation),
        "sha256": hashlib.sha256(written.encode()).hexdigest(),
    }


def _fingerprint(hashes: Any) -> str:
    """A name for a set of documents, whatever their order."""
    import numpy as np

    return hashlib.sha256(np.sort(hashes).astype("<u8").tobytes()).hexdigest()[:16]


def _training(
    recipe: Recipe, train: dict[str, Any], summary: dict[str, Any], versions: dict[str, Any]
) -> dict[str, Any]:
    row = train["sequence_length"]
    return {
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "seconds": summary["seconds"],
        "batch_tokens": row * train["per_device_train_batch_size"] * train["gradient_accumulation_steps"],
        "sequence_length": row,
        "optimizer": train["optimizer"],
        "learning_rate": train["learning_rate"],
        "schedule": train["lr_scheduler_type"],
        "weight_decay": train["weight_decay"],
        "dtype": str(versions.get("dtype", train["dtype"])).removeprefix("torch."),
        "seed": train["seed"],
        "start_from": recipe.start_from,
        "lora_rank": recipe.lora.r if recipe.lora is not None else None,
        "freeze": list(train["freeze"]),
    }


def _results(summary: dict[str, Any], folder: Path, best_loaded: bool) -> dict[str, Any]:
    """Losses of the weights that the model holds: the best ones, if the run loaded them at its end."""
    from malmoi.train.memorization import Memorization
    from malmoi.train.record import read_metrics

    found = {name: summary.get(name) for name in RESULTS}
    measured = [line for line in read_metrics(folder) if line.get("bpb") is not None]
    if best_loaded and found["best_step"] is not None:
        found["held_out_loss"] = found["best_held_out_loss"]
        measured = [line for line in measured if line["step"] == found["best_step"]] or measured
    found["bits_per_byte"] = measured[-1]["bpb"] if measured else None
    memory = found["memorization"]
    found["recites"] = Memorization(**memory).recites if memory else False
    return found


def _is_village(source: SourceConfig) -> bool:
    from malmoi.data.corpus import VILLAGE

    paths = (source.path,) if isinstance(source.path, str) else source.path
    return all(path.partition(":")[0] == VILLAGE for path in paths)
