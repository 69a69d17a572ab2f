"""The first page of a model folder: what the model is, what it learned from and at what price, how to open it.

A run that knows more than the model's shape puts its facts, plain data, into `training.json` beside the weights
(`malmoi.cli.facts` says which); the card is written from them at every save, in English and Korean, below the metadata
that the Hugging Face hub reads. What was not measured is said to be so; what is not known is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from malmoi.config import ModelConfig
from malmoi.formats.families import Family
from malmoi.layers import count_active_parameters, count_parameters

MARK = "<!-- Written by Malmoi at every save. Delete this line to keep what you write here. -->"
FACTS = "training.json"
LANGUAGES = ("en", "ko")


def may_replace(path: Path) -> bool:
    """Whether a card is missing or still as Malmoi wrote it; one that a person has taken over is left alone."""
    try:
        return not path.exists() or MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def read_facts(folder: Path) -> dict[str, Any] | None:
    """`training.json` of a model folder; None where there is none that can be read."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else None
    except (OSError, ValueError):
        return None


def card(config: ModelConfig, family: Family, name: str, facts: Mapping[str, Any] | None = None) -> str:
    """`README.md` with the metadata that the hub reads; `facts` are those of the run that made the model."""
    title = str((facts or {}).get("name") or name)
    head = yaml.safe_dump(_metadata(family, title, facts or {}), sort_keys=False, allow_unicode=True, width=1000)
    try:
        bodies = [_body(words()[language], config, family, name, facts or {}) for language in LANGUAGES]
    except (KeyError, TypeError, ValueError, AttributeError):  # facts of another version, or changed by hand
        bodies = [_body(words()[language], config, family, name, {}) for language in LANGUAGES]
    return f"---\n{head}---\n{MARK}\n\n# {title}\n\n{bodies[0]}\n---\n\n*한국어*\n\n{bodies[1]}"


@functools.cache
def words() -> dict[str, dict[str, str]]:
    """The texts of the card by language."""
    return yaml.safe_load(resources.files("malmoi.formats").joinpath("card.yaml").read_text(encoding="utf-8"))


def _metadata(family: Family, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's keys. Its `datasets` are names on the hub, which files are not: those stand in the table below."""
    said: dict[str, Any] = {
        "license": "other",
        "library_name": "transformers" if family.model_type != "malmoi" else "malmoi",
        "pipeline_tag": "text-generation",
        "tags": ["malmoi"],
    }
    if facts.get("languages"):
        said["language"] = list(facts["languages"])
    results = facts.get("results") or {}
    measured = [
        {"type": kind, "name": label, "value": round(float(results[key]), 4)}
        for key, kind, label in (
            ("bits_per_byte", "bits_per_byte", "Bits per byte"),
            ("held_out_loss", "loss", "Held-out loss (nats per token)"),
        )
        if results.get(key) is not None
    ]
    if measured:
        said["metrics"] = [metric["type"] for metric in measured]
        task = {"type": "text-generation", "name": "Text Generation"}
        held_out = {"type": "held-out", "name": "Text kept aside from the training data"}
        said["model-index"] = [{"name": name, "results": [{"task": task, "dataset": held_out, "metrics": measured}]}]
    return said


def _body(say: Mapping[str, str], config: ModelConfig, family: Family, name: str, facts: Mapping[str, Any]) -> str:
    """The page in one language."""
    total, active = count_parameters(config), count_active_parameters(config)
    shape = say["shape_is"].format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv=config.num_key_value_heads,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
    )
    parts = [
        say["intro"],
        _table(
            [
                (say["size"], say["active" if active != total else "parameters"].format(total=total, active=active)),
                (say["shape"], shape),
                (say["licence"], say["licence_is"]),
            ]
        ),
    ]
    if facts:
        parts += _data(say, facts["data"], facts["training"])
        parts += [f"## {say['training']}", _table(_training(say, facts))]
        parts += [f"## {say['results']}", _table(_results(say, facts["results"]))]
        if facts.get("energy"):
            parts += [f"## {say['energy']}", _energy(say, facts["energy"]), say["energy_note"]]
    parts += _loading(say, family, name)
    if facts:
        command = f"```sh\nmalmoi train path/to/{name}/recipe.yaml --out runs/again\n```"
        parts += [f"## {say['again']}", say["again_is"], command, say["again_exact"]]
    limits = say["limits_are"]
    if facts:
        limits += " " + say["limits_size"].format(tokens=facts["training"]["tokens"], total=total)
        if facts["results"].get("recites"):
            limits += " " + say["limits_recites"]
    parts += [f"## {say['limits']}", limits]
    return "\n\n".join(parts) + "\n"


def _data(say: Mapping[str, str], data: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    columns = say["data_columns"]
    rows = [columns, "|" + "---|" * (columns.count("|") - 1)]
    for source in data["sources"]:
        numbers = (f"{source[key]:,}" for key in ("documents", "tokens", "bytes"))
        named = (_cell(source["name"]), _cell(source["license"] or say["unknown"]))
        rows.append(f"| {' | '.join((*named, *numbers))} | `{source['fingerprint']}` |")
    if data["validation"]:
        held_out = say["held_files"]
    else:
        held_out = (
            say["held_share"].format(share=f"{data['held_out'] * 100:g}%") if data["held_out"] else say["held_none"]
        )
    parts = [f"## {say['data']}", "\n".join(rows), say["data_note"].format(held_out=held_out, sha256=data["sha256"])]
    if training.get("start_from"):
        parts.append(say["start"].format(start=training["start_from"]))
    return parts


def _training(say: Mapping[str, str], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    training, machine = facts["training"], facts["machine"]
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    rows = [
        (say["steps"], f"{training['steps']:,}"),
        (
            say["tokens"],
            say["tokens_is"].format(
                tokens=training["tokens"], batch=training["batch_tokens"], row=training["sequence_length"]
            ),
        ),
        (
            say["optimizer"],
            say["optimizer_is"].format(
                optimizer=training["optimizer"],
                rate=training["learning_rate"],
                schedule=training["schedule"],
                decay=training["weight_decay"],
            ),
        ),
        (say["numbers"], say["numbers_is"].format(dtype=training["dtype"], seed=training["seed"])),
    ]
    if training.get("lora_rank"):
        rows.append((say["adapted"], say["adapted_is"].format(r=training["lora_rank"])))
    if training.get("freeze"):
        rows.append((say["frozen"], ", ".join(training["freeze"])))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    return [
        *rows,
        (say["time"], f"{training['seconds']:,.0f} s"),
        (say["machine"], say["machine_is"].format(name=machine["name"], threads=machine["threads"], gpu=gpu)),
        (say["versions"], versions),
    ]


def _results(say: Mapping[str, str], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    def number(key: str, form: str = ".4f") -> str:
        return say["not_measured"] if results.get(key) is None else format(results[key], form)

    nothing = say["not_measured"]
    losses = say["losses_is"].format(
        training=number("training_loss"),
        held_out=number("held_out_loss"),
        best=number("best_held_out_loss"),
        step=number("best_step", ",d"),
    )
    if results.get("held_out_loss") is None:
        losses = nothing
    recited = nothing
    if (found := results.get("memorization")) is not None:
        chance = "" if found["held_out"] is None else say["chance"].format(held_out=found["held_out"])
        said = {key: found[key] for key in ("training", "samples", "length")}
        recited = say["recited_is"].format(**said, chance=chance)
    rows = [
        (say["losses"], losses),
        (
            say["bits"],
            nothing if results.get("bits_per_byte") is None else say["bits_is"].format(bits=number("bits_per_byte")),
        ),
        (say["gap"], nothing if results.get("gap") is None else say["gap_is"].format(gap=number("gap", "+.4f"))),
        (say["recited"], recited),
    ]
    if results.get("skipped"):
        rows.append((say["skipped"], f"{results['skipped']:,}"))
    return rows


def _energy(say: Mapping[str, str], energy: Mapping[str, Any]) -> str:
    per_token = energy["joules_per_token"]
    return say["energy_is"].format(
        joules=f"{energy['joules']:,.1f} J ({energy['kilowatt_hours']:.3g} kWh)",
        per_token=say["not_measured"] if per_token is None else f"{per_token:.3g} J",
        method=energy["method"],
    )


def _loading(say: Mapping[str, str], family: Family, name: str) -> list[str]:
    ours = f"""```python
from malmoi import GPT4LMHeadModel, GPT4Tokenizer
tokenizer = GPT4Tokenizer.from_pretrained("path/to/{name}")
model = GPT4LMHeadModel.from_pretrained("path/to/{name}")
```"""
    parts = [f"## {say['loading']}", ours]
    if family.model_type == "malmoi":
        return [*parts, say["nowhere"]]
    theirs = f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("path/to/{name}")
model = AutoModelForCausalLM.from_pretrained("path/to/{name}")
```"""
    return [*parts, say["elsewhere"].format(architecture=family.architecture), theirs]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)))


def _cell(text: str) -> str:
    """Text that cannot leave its cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
