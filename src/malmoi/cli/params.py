"""`malmoi params`: the parameters of a model, all four kinds that people mean by the word.

1. *Positional*: how the model knows where a token stands. Rotary ones are computed; GPT-1 to GPT-3 learn a table.
2. *Learned*: the numbers that training sets; by kind and by tensor, with shapes, shares and bytes.
3. *Hyperparameters*: what was chosen for training (learning rate, batch, dropout ...).
4. *Configuration*: what was chosen for the network and for generation.

Nothing is built and no weight is read for it: the closed form of `malmoi.plan.counts` answers for 170 trillion
parameters as fast as for a million. Only `--kind positional` looks at weights, and only at a learned table of places.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import language, print_json
from malmoi.cli.explain import Language
from malmoi.cli.folders import model_folder
from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.interpret.parameters import Sources

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class Part(str, Enum):
    """What `--kind` may show alone: the kinds of learned tensors, and the two kinds that nobody learns."""

    positional = "positional"
    attention = "attention"
    feed_forward = "feed_forward"
    expert = "expert"
    norm = "norm"
    embedding = "embedding"
    head = "head"
    hyper = "hyper"
    configuration = "configuration"


@app.command()
def params(
    model: Annotated[
        str | None,
        typer.Argument(help="A model folder, a run's folder, or a preset's name: nano, gpt2-xl, gpt4 (see --list)."),
    ] = None,
    kind: Annotated[Part | None, typer.Option(help="Only this kind; positional explains and draws places.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List every preset with its size.")] = False,
    png: Annotated[
        Path | None, typer.Option(help="Where --kind positional draws its picture (positions.png by default).")
    ] = None,
    lang: Annotated[Language | None, typer.Option(help="Language; otherwise the environment's (LANG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the parameters of a model: positional, learned, hyperparameters and configuration.

    [bold]Examples[/bold]

    \b
    malmoi params runs/quickstart
    malmoi params --list
    malmoi params gpt4 --json
    malmoi params gpt-oss-20b --kind positional
    """
    chosen = lang.value if lang else language()
    if png is not None and kind is not Part.positional:
        raise MalmoiError("--png draws what positions do: add --kind positional.")
    if listing:
        _list(chosen, as_json)
        return
    if model is None:
        raise MalmoiError(
            "Which model? A folder or a preset's name, such as nano or gpt3-175b; all: malmoi params --list."
        )
    if kind is Part.positional:
        from malmoi.cli.params_positions import tell

        tell(model, png, chosen, as_json)
        return
    found = describe(model, kind.value if kind else None, chosen)
    if as_json:
        print_json(found)
        return
    from malmoi.cli.params_page import show

    show(found, chosen)


def describe(name: str, kind: str | None = None, language: str = "en") -> dict[str, Any]:
    """All four kinds as plain data, or one `kind` of them.

    `total`, `active`, `active_without_input_embedding` and `by_kind` ({kind: total, active, share}) stand first; then
    `bytes`, `tensors`, `positional`, `hyperparameters`, `configuration`, and `about` where the model is a preset.
    """
    from malmoi.plan import deepseek

    if name == deepseek.NAME:
        return _only(deepseek_counts(), kind)
    from malmoi.interpret.parameters import described

    found = {"model": name, "about": _about(name, language), **described(read(name))}
    return _only({key: value for key, value in found.items() if value is not None}, kind)


def _only(found: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """What stays of a description when only one kind is asked for."""
    if kind is None:
        return found
    part = {Part.hyper.value: "hyperparameters", Part.configuration.value: "configuration"}.get(kind)
    if part and part not in found:
        raise MalmoiError(f"{found['model']}: is counted in closed form only and has no {part}.")
    if part:
        return {"model": found["model"], part: found[part]}
    kept = {key: found[key] for key in found if key in ("model", "about", "total", "active")}
    kept["by_kind"] = {kind: found["by_kind"][kind]}
    kept["tensors"] = [tensor for tensor in found["tensors"] if tensor["kind"] == kind]
    return kept


def deepseek_counts() -> dict[str, Any]:
    """What is known of DeepSeek-V3, which is counted and cannot be built here."""
    from malmoi.interpret.parameters import CONVENTION
    from malmoi.plan import deepseek

    totals, by_kind = deepseek.deepseek_v3_totals(), deepseek.deepseek_v3()
    return {
        "model": deepseek.NAME,
        "about": {
            "published": "Everything: the released configuration (671B) and arXiv 2412.19437.",
            "conjecture": "Nothing. Counted in closed form: Malmoi has no latent attention and cannot build it.",
        },
        **totals._asdict(),
        "active_convention": CONVENTION,
        "tied_embeddings": False,
        "by_kind": {kind: {**count._asdict(), "share": count.total / totals.total} for kind, count in by_kind.items()},
        "multi_token_prediction": deepseek.multi_token_prediction(),
        "bytes": {"fp32": 4 * totals.total, "bf16": 2 * totals.total},
        "tensors": [],
    }


def read(name: str) -> Sources:
    """The model's configuration, its training settings where they are known, its generation settings, and whence."""
    from malmoi import presets
    from malmoi.interpret.parameters import Sources, read_folder

    if not _is_preset(name):
        from malmoi.formats import hub

        return read_folder(hub.find(model_folder(name)))
    config = presets.preset(name)
    training = presets.train_defaults(name) if name in presets.SIZES else None
    origin = (
        "the size's defaults" if training else "none: this preset says how the model is made, not how it was trained"
    )
    return Sources(config, training, {}, origin)


def _is_preset(name: str) -> bool:
    return not Path(name).exists() and "/" not in name


def _about(name: str, language: str) -> dict[str, str] | None:
    from malmoi import presets

    return presets.about(name, language)._asdict() if _is_preset(name) else None


def _list(chosen: str, as_json: bool) -> None:
    """Every preset on one line."""
    from malmoi import presets
    from malmoi.plan import counts

    rows = []
    for name in presets.NAMES:
        config = presets.preset(name)
        rows.append(
            {
                "model": name,
                **counts.totals(config)._asdict(),
                "layers": config.num_hidden_layers,
                "width": config.hidden_size,
                "heads": config.num_attention_heads,
                "experts": config.num_experts,
                "context": config.max_position_embeddings,
                "vocabulary": config.vocab_size,
                **presets.about(name, chosen)._asdict(),
            }
        )
    whole = deepseek_counts()
    closed_form = {key: whole[key] for key in ("model", "total", "active", "active_without_input_embedding")}
    rows.append({**closed_form, **whole["about"]})
    if as_json:
        print_json(rows)
        return
    from malmoi.cli.params_page import show_list

    show_list(rows, chosen)
