"""`malmoi params`: the parameters of a model, all four kinds that people mean by the word.

1. *Positional*: how the model knows where a token stands. Rotary ones are computed; GPT-2 learns a table.
2. *Learned*: the numbers that training sets; by module, with shapes and shares.
3. *Hyperparameters*: what was chosen for training (learning rate, batch, dropout ...).
4. *Configuration*: what was chosen for the network and for generation.

No weight is read for it: the network is laid out on torch's "meta" device, which has shapes and no memory.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli.console import console, count, print_json, short, table
from malmoi.cli.folders import RECIPE, model_folder
from malmoi.config import ModelConfig, Recipe, TrainConfig

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def params(
    model: Annotated[str, typer.Argument(help="A model folder, a run's folder, a size (nano ... large) or gpt2[-xl].")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the parameters of a model: positional, learned, hyperparameters and configuration.

    [bold]Examples[/bold]

    \b
    malmoi params runs/quickstart
    malmoi params gpt2 --json
    """
    found = describe(model)
    print_json(found) if as_json else _show(found)


def describe(name: str) -> dict[str, Any]:
    """All four kinds as plain data: `positional`, `learned`, `hyperparameters`, `configuration`."""
    config, training, generation, origin = _read(name)
    learned = _learned(config)
    return {
        "model": name,
        "positional": _positional(config),
        "learned": learned,
        "hyperparameters": {"from": origin, **(training.model_dump(mode="json") if training else {})},
        "configuration": {"model": config.model_dump(mode="json"), "generation": generation},
    }


def _read(name: str) -> tuple[ModelConfig, TrainConfig | None, dict[str, Any], str]:
    """The model's configuration, its training settings where they are known, its generation settings, and whence."""
    from malmoi import presets

    if not Path(name).exists() and "/" not in name:
        config = presets.preset(name)
        training = presets.train_defaults(name) if name in presets.SIZES else None
        return config, training, {}, "the size's defaults" if training else "unknown: a published model"
    from malmoi.formats import huggingface

    folder = model_folder(name)
    config = huggingface.read_config(folder)
    recipes = [place / RECIPE for place in (Path(folder), Path(folder).parent) if (place / RECIPE).is_file()]
    training = TrainConfig(**Recipe.from_yaml(recipes[0]).train) if recipes else None
    generation_file = Path(folder) / "generation_config.json"
    generation: dict[str, Any] = {}
    if generation_file.is_file():
        import json

        generation = json.loads(generation_file.read_text(encoding="utf-8"))
    return config, training, generation, str(recipes[0]) if recipes else "unknown: no recipe.yaml beside the model"


def _positional(config: ModelConfig) -> dict[str, Any]:
    if config.positions == "learned":
        return {
            "kind": "learned",
            "what": "a table with one learned vector for each place, added to the token's",
            "places": config.max_position_embeddings,
            "learned_parameters": config.max_position_embeddings * config.hidden_size,
        }
    theta, pairs = config.rope_parameters.rope_theta, config.head_dim // 2
    wavelengths = [2 * math.pi * theta ** (index / pairs) for index in range(pairs)]
    return {
        "kind": "rotary",
        "what": "pairs of numbers of each query and key are turned by an angle that grows with the place",
        "places": config.max_position_embeddings,
        "learned_parameters": 0,
        "theta": theta,
        "pairs_per_head": pairs,
        "wavelengths_in_tokens": [round(wavelengths[0], 2), round(wavelengths[-1], 2)],
    }


def _learned(config: ModelConfig) -> dict[str, Any]:
    """Every tensor, the layers' equal ones on one line: name, shape, how many, their sum and share."""
    import torch

    from malmoi.model.gpt import GPT4LMHeadModel

    with torch.device("meta"):
        network = GPT4LMHeadModel(config)
    total = network.num_parameters()
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, parameter in network.named_parameters():
        pattern = re.sub(r"\.(layers|experts)\.\d+\.", r".\1.*.", name)
        pattern = re.sub(r"\.(experts)\.\d+\.", r".\1.*.", pattern)
        key = (pattern, tuple(parameter.shape))
        groups[key] = groups.get(key, 0) + 1
    tensors = [
        {
            "name": name,
            "shape": list(shape),
            "copies": copies,
            "parameters": math.prod(shape) * copies,
            "share": math.prod(shape) * copies / total,
        }
        for (name, shape), copies in groups.items()
    ]
    return {"total": total, "tied_embeddings": config.tie_word_embeddings, "tensors": tensors}


def _show(found: dict[str, Any]) -> None:
    screen = console()
    learned, positional = found["learned"], found["positional"]
    screen.print(f"[bold]1. Positional[/bold]: {positional['kind']}, {positional['what']}")
    rows = [(key, value) for key, value in positional.items() if key not in ("kind", "what")]
    screen.print(table(("", ""), rows))
    screen.print(f"[bold]2. Learned[/bold]: {count(learned['total'])} ({short(learned['total'])}) numbers")
    rows = [
        (
            item["name"],
            " x ".join(map(str, item["shape"])),
            item["copies"],
            count(item["parameters"]),
            f"{item['share']:.2%}",
        )
        for item in learned["tensors"]
    ]
    screen.print(table(("module", "shape", ">copies", ">parameters", ">share"), rows))
    if learned["tied_embeddings"]:
        screen.print("lm_head.weight is model.embed_tokens.weight itself (tied) and counts once.\n")
    hyper = found["hyperparameters"]
    screen.print(f"[bold]3. Hyperparameters[/bold] ({hyper['from']})")
    if len(hyper) > 1:
        screen.print(table(("setting", "value"), [(key, value) for key, value in hyper.items() if key != "from"]))
    screen.print("[bold]4. Configuration[/bold]")
    for part, values in found["configuration"].items():
        if values:
            screen.print(table((part, "value"), [(key, _cell(value)) for key, value in values.items()]))
    screen.print("What one of them means: malmoi explain NAME")


def _cell(value: Any) -> str:
    if isinstance(value, list) and len(set(map(str, value))) == 1 and len(value) > 1:
        return f"{value[0]} x {len(value)}"
    return str(value)
