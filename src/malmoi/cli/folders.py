"""Where a person points: a model, a run (its `model/` is meant), an adapter (on its model), or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

MODEL = "model"  # of a run's folder
ADAPTER = "adapter"  # of the folder of a run with lora
TOKENS = "tokens"  # of a run's folder: the token file
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's name
RECIPE = "recipe.yaml"  # of a run's folder and of the model folder made by it: every setting, filled in


def model_folder(name: str | Path) -> str | Path:
    """The model folder that is meant; a hub name is passed on."""
    path = Path(name)
    if (path / MODEL / "config.json").is_file() and not (path / "config.json").is_file():
        return path / MODEL
    if (path / RECIPE).is_file() and (path / TOKENS).is_dir() and not (path / "config.json").is_file():
        raise MalmoiError(f"{path}: is a run without a model yet. Let it finish: malmoi train --resume --out {path}")
    if (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file():
        raise MalmoiError(
            f"{path}: is an adapter, which is no model by itself. Merge it into one first: "
            f"malmoi adapter merge {path} --to FOLDER"
        )
    return name if str(name) == name and not path.exists() else path


def open_model(name: str | Path) -> tuple[GPT4LMHeadModel, GPT4Tokenizer]:
    """The model and its tokenizer, checked to belong together; an adapter is merged into the model it belongs to."""
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    adapter = Path(name).expanduser()
    if (adapter / ADAPTER_CONFIG).is_file():
        from malmoi.train.adapter_folder import base_of, load_adapter
        from malmoi.train.adapters import merge_adapter

        folder = model_folder(base_of(adapter))
        model = GPT4LMHeadModel.from_pretrained(folder)
        load_adapter(model, adapter)
        merge_adapter(model)
    else:
        folder = model_folder(name)
        model = GPT4LMHeadModel.from_pretrained(folder)
    tokenizer = GPT4Tokenizer.from_pretrained(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise MalmoiError(
            f"{folder}: the tokenizer knows {tokenizer.vocab_size} tokens, but the model only "
            f"{model.config.vocab_size}. Put back the tokenizer.json that was saved with this model."
        )
    model.eval()
    return model, tokenizer
