"""`malmoi adapter`: an adapter and the model that it belongs to, made into one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from malmoi.cli.console import console, print_json
from malmoi.cli.folders import ADAPTER, model_folder
from malmoi.config import MalmoiError

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def adapter() -> None:
    """Work with LoRA adapters (folders with adapter_config.json, PEFT's format).

    `malmoi train --lora` makes one; `malmoi chat`, `generate` and `eval` open one like a model.
    """


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder, or the run that made it.")],
    to: Annotated[Path, typer.Option("--to", help="The model folder to write.")],
    base: Annotated[
        str | None, typer.Option(help="The model to merge into; otherwise the one that the adapter names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fold an adapter into its model and save the result as an ordinary model folder.

    Nothing is written unless the merged model gives the same logits as the adapted one.

    [bold]Examples[/bold]

    \b
    malmoi adapter merge runs/french/adapter --to runs/french/merged
    malmoi adapter merge someones-adapter --base Qwen/Qwen3-0.6B --to models/mine
    """
    from malmoi.formats import huggingface
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer
    from malmoi.train.adapter_folder import base_of, is_adapter, load_adapter
    from malmoi.train.adapters import merge_adapter

    place = folder / ADAPTER if is_adapter(folder / ADAPTER) else folder
    if not is_adapter(place):
        raise MalmoiError(f"{folder}: is not an adapter (no adapter_config.json).")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise MalmoiError(f"{to}: is there already. Choose a new folder, so that no model is replaced by mistake.")
    name = model_folder(base or base_of(place))
    model = GPT4LMHeadModel.from_pretrained(name)
    tokenizer = GPT4Tokenizer.from_pretrained(name)
    layers = load_adapter(model, place)
    found = merge_adapter(model)
    huggingface.save(model, to, tokenizer=tokenizer)
    if as_json:
        print_json({"model": str(to), "base": str(name), "layers": layers, "difference": found.difference})
        return
    console().print(
        f"{to}: {len(layers)} matrices changed; logits agree within {found.difference:.1g}.",
        markup=False,
        soft_wrap=True,
    )
