"""Starting from a finished model: what `start_from`, `lora` and `freeze` of a recipe mean for a run.

A continued run keeps the model's tokenizer and the rows and batches that the model was trained with, and warms the
learning rate up once more (Ibrahim et al., 2024: a model whose learning rate has ended needs it high again to learn,
and a warm-up to get there unharmed). With `lora` the run ends with two folders: `adapter/`, which PEFT reads, and
`model/`, the adapter merged into the weights, written only after both were found to give the same logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli.folders import ADAPTER, RECIPE, model_folder
from malmoi.config import LoraConfig, MalmoiError, Recipe, TrainConfig, nearest

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train.adapters import MergeCheck

# Of the settings that a model was trained by, those that another run on it takes over.
KEPT = (
    *("sequence_length", "per_device_train_batch_size", "gradient_accumulation_steps", "optimizer"),
    *("learning_rate", "matrix_learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("muon_momentum", "max_grad_norm", "lr_scheduler_type"),
)
WARMUP = 0.1  # of the run: the optimizer knows nothing of the model yet
SHORT = {  # of --lora
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "target_modules",
    "rslora": "use_rslora",
    "save": "modules_to_save",
}


def defaults(recipe: Recipe) -> TrainConfig:
    """How a run that starts from a model learns where its recipe does not say."""
    assert recipe.start_from is not None
    before = _settings_of(Path(model_folder(recipe.start_from)))
    values: dict[str, Any] = {name: before[name] for name in KEPT if name in before}
    if not values:
        values = {"sequence_length": min(TrainConfig().sequence_length, _context(recipe.start_from))}
    if recipe.lora is not None:
        values["optimizer"] = "adamw"  # Muon evens out all directions of a matrix; a thin factor has few, on purpose
    return TrainConfig().replace(**values, warmup_steps=WARMUP)


def check(recipe: Recipe) -> None:
    """What can be said against a recipe's start before anything is read."""
    if recipe.start_from is not None and (recipe.model or recipe.size):
        raise MalmoiError("start_from takes the model as it is; leave out size and model, or start_from.")
    if recipe.lora is not None and recipe.start_from is None:
        raise MalmoiError("lora adapts a finished model: name it by start_from (malmoi train --from FOLDER).")


def check_resumed(recipe: Recipe, folder: Path) -> None:
    """An adapted run goes on with the same adapter."""
    before = Recipe.from_yaml(folder / RECIPE).lora
    if before != recipe.lora:
        raise MalmoiError(
            f"{folder}: this run began with lora: {_said(before)}, and is to go on with {_said(recipe.lora)}. Put the "
            f"old settings back (malmoi train --resume --out {folder} takes them), or choose another --out."
        )


def model_to_start_from(recipe: Recipe, train: TrainConfig, vocabulary: int) -> GPT4LMHeadModel:
    """The model of `start_from` in float32, with the recipe's adapter; `vocabulary` is the tokenizer's size."""
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train.adapters import add_lora, freeze
    from malmoi.train.vocabulary import grow_vocabulary

    assert recipe.start_from is not None
    model = GPT4LMHeadModel.from_pretrained(model_folder(recipe.start_from), dtype="float32")
    if vocabulary > model.config.vocab_size and (recipe.images or recipe.image_tokenizer):
        grow_vocabulary(model, vocabulary, train.seed)  # of the tokens of pictures
    elif vocabulary > model.config.vocab_size:
        raise MalmoiError(
            f"{recipe.start_from}: has a vocabulary of {model.config.vocab_size}, but the tokenizer has "
            f"{vocabulary} tokens. Leave out `tokenizer` to use the model's own."
        )
    context = model.config.max_position_embeddings
    if train.sequence_length > context:
        raise MalmoiError(
            f"train.sequence_length={train.sequence_length} is longer than the context of {recipe.start_from}, "
            f"{context} tokens. Set it to {context} or less."
        )
    if recipe.lora is not None:
        add_lora(model, recipe.lora, seed=train.seed)
    freeze(model, train.freeze)  # training does so itself; here a misspelt pattern is said before anything is written
    return model


def save_adapter(model: GPT4LMHeadModel, recipe: Recipe, folder: Path) -> MergeCheck:
    """Write the adapter of a finished run and merge it into `model`, which is then an ordinary one."""
    from malmoi.train import adapter_folder
    from malmoi.train.adapters import merge_adapter

    assert recipe.start_from is not None
    adapter_folder.save_adapter(model, folder / ADAPTER, base=model_folder(recipe.start_from))
    return merge_adapter(model)


def lora_from(words: str) -> dict[str, Any]:
    """`r=8,alpha=16,dropout=0.05,targets=q_proj+v_proj` as the fields of `LoraConfig`; an empty text: its defaults."""
    import yaml

    found: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        name, sign, value = word.partition("=")
        field = SHORT.get(name, name)
        if not sign or field not in LoraConfig.model_fields:
            known = [*LoraConfig.model_fields, *SHORT]
            raise MalmoiError(
                f"--lora wants NAME=VALUE pairs such as r=8,alpha=16,targets=q_proj+v_proj (given: {word!r})."
                f"{nearest(name, known)}"
            )
        several = field in ("target_modules", "modules_to_save")
        found[field] = value.split("+") if several else yaml.safe_load(value)
    return found


def _settings_of(folder: Path) -> dict[str, Any]:
    """The `train` section of the recipe that lies in a model folder; empty where there is none."""
    if not (folder / RECIPE).is_file():
        return {}
    import yaml

    try:
        said = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
        return dict(said["train"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}  # a note for people, and not what a model needs to be opened


def _context(name: str) -> int:
    from malmoi.formats import hub, huggingface

    return huggingface.read_config(hub.find(model_folder(name))).max_position_embeddings


def _said(lora: LoraConfig | None) -> str:
    return "nothing" if lora is None else str(lora.model_dump(mode="json"))
