"""The parameters of a model as plain data: all four kinds that people mean by the word.

1. *Positional*: how the model knows where a token stands. Rotary ones are computed; GPT-1 to GPT-3 learn a table.
2. *Learned*: the numbers that training sets; by kind and by tensor, with shapes, shares and bytes.
3. *Hyperparameters*: what was chosen for training (learning rate, batch, dropout ...), and how the loss fell.
4. *Configuration*: what was chosen for the network and for generation.

`malmoi params` prints it and the page draws it. No weight is read for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from malmoi.config import ModelConfig, Recipe, TrainConfig
from malmoi.formats.folder import GENERATION, read_config, read_json
from malmoi.plan import counts

RECIPE = "recipe.yaml"  # of a run's folder and of the model folder made by it: every setting, filled in
METRICS = "metrics.jsonl"  # of a run's folder: a JSON object a line
CURVE_POINTS = 400  # of a loss curve: more than a screen can show
CONVENTION = (
    "active: what one token passes, the input embedding included; active_without_input_embedding: without the table "
    "from which each token only reads one row (a tied table is the output table too, and stays in)"
)


class Sources(NamedTuple):
    """What a folder says of its model, and where its hyperparameters were found."""

    config: ModelConfig
    training: TrainConfig | None
    generation: dict[str, Any]
    origin: str


def read_folder(folder: Path) -> Sources:
    """The model's configuration, its training settings where a recipe lies beside it, and its generation settings.

    Raises `MalmoiError` for what is no model folder.
    """
    config = read_config(folder)
    recipes = [place / RECIPE for place in (folder, folder.parent) if (place / RECIPE).is_file()]
    training = TrainConfig(**Recipe.from_yaml(recipes[0]).train) if recipes else None
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    return Sources(
        config, training, generation, str(recipes[0]) if recipes else "unknown: no recipe.yaml beside the model"
    )


def described(sources: Sources) -> dict[str, Any]:
    """All four kinds: `total`, `active`, `active_without_input_embedding`, `by_kind`, `bytes`, `tensors`, `positional`,
    `hyperparameters`, `configuration`."""
    config, training, generation, origin = sources
    return {
        **counted(config),
        "positional": positional(config),
        "hyperparameters": {"from": origin, **(training.model_dump(mode="json") if training else {})},
        "configuration": {"model": config.model_dump(mode="json"), "generation": generation},
    }


def counted(config: ModelConfig) -> dict[str, Any]:
    """The learned parameters: sums, kinds, bytes, tensors."""
    totals, by_kind = counts.totals(config), counts.count_by_kind(config)
    return {
        **totals._asdict(),
        "active_convention": CONVENTION,
        "tied_embeddings": config.tie_word_embeddings,
        "by_kind": {kind: {**count._asdict(), "share": count.total / totals.total} for kind, count in by_kind.items()},
        "bytes": counts.storage(config),
        "tensors": [
            {**tensor._asdict(), "shape": list(tensor.shape), "share": tensor.parameters / totals.total}
            for tensor in counts.tensors(config)
        ],
    }


def positional(config: ModelConfig) -> dict[str, Any]:
    """How the model knows places, as far as the configuration says it; more: `malmoi.interpret.positions`."""
    if config.positions == "learned":
        return {
            "kind": "learned",
            "what": "a table with one learned vector for each place, added to the token's",
            "places": config.max_position_embeddings,
            "learned_parameters": config.max_position_embeddings * config.hidden_size,
        }
    rope = config.rope_parameters
    return {
        "kind": "rotary",
        "what": "pairs of numbers of each query and key are turned by an angle that grows with the place",
        "places": config.max_position_embeddings,
        "learned_parameters": 0,
        "theta": rope.rope_theta,
        "pairs_per_head": config.head_dim // 2,
        **({"stretched": rope.model_dump(exclude={"rope_theta"})} if rope.rope_type != "default" else {}),
    }


def loss_curve(folder: Path, points: int = CURVE_POINTS) -> dict[str, list[list[float]]]:
    """The losses that the run left beside its model: `train` and `validation`, each a list of [step, loss].

    At most `points` of each, evenly picked, the last one among them; empty lists where there is no run. A line that was
    cut off (the machine went down) is passed over.
    """
    curves: dict[str, list[list[float]]] = {"train": [], "validation": []}
    file = next((place / METRICS for place in (folder, folder.parent) if (place / METRICS).is_file()), None)
    for line in file.read_text(encoding="utf-8").splitlines() if file else ():
        try:
            entry = json.loads(line)
            step = entry["step"]
        except (ValueError, TypeError, KeyError):
            continue
        for curve, key in (("train", "loss"), ("validation", "val_loss")):
            if isinstance(entry.get(key), float):
                curves[curve].append([step, round(entry[key], 4)])
    return {name: _thinned(curve, points) for name, curve in curves.items()}


def _thinned(curve: list[list[float]], points: int) -> list[list[float]]:
    stride = -(-len(curve) // points) or 1
    return curve[::-1][::stride][::-1]
