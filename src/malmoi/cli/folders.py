"""Where a person points: a model folder, a run's folder (its `model/` is meant), or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

MODEL = "model"  # of a run's folder
TOKENS = "tokens"  # of a run's folder: the token file
RECIPE = "recipe.yaml"  # of a run's folder and of the model folder made by it: every setting, filled in


def model_folder(name: str | Path) -> str | Path:
    """The model folder that is meant; a hub name is passed on."""
    path = Path(name)
    if (path / MODEL / "config.json").is_file() and not (path / "config.json").is_file():
        return path / MODEL
    if (path / RECIPE).is_file() and (path / TOKENS).is_dir() and not (path / "config.json").is_file():
        raise MalmoiError(f"{path}: is a run without a model yet. Let it finish: malmoi train --resume --out {path}")
    return name if str(name) == name and not path.exists() else path


def open_model(name: str | Path) -> tuple[GPT4LMHeadModel, GPT4Tokenizer]:
    """The model and its tokenizer, checked to belong together."""
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

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
