"""Where a person points: a model, a run (its `model/` is meant), an adapter (on its model), or a name on the hub.

Who wants to look inside a model or to train it opens it in torch (`open_model`). Who wants to hear it opens a
`Speaker`: what the generation engine runs on, which is the native engine wherever that computes the model, and torch
otherwise.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.config import GenerationConfig
    from malmoi.generate.backend import Backend
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

Choice = Literal["auto", "native", "torch", "cuda"]

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


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that is ready to speak: `Engine(speaker.backend, speaker.tokenizer)`.

    `backend` carries the model's own `generation_config`. `engine` says in a few words what computes, and `note`, where
    there is something to say, why it is not the native engine.
    """

    backend: Backend
    tokenizer: GPT4Tokenizer
    generation_config: GenerationConfig
    engine: str
    note: str | None = None


def open_speaker(
    name: str | Path, backend: Choice = "auto", *, num_blocks: int | None = None, threads: int | None = None
) -> Speaker:
    """Open any folder as something that the generation engine runs on.

    A folder of `malmoi quantise` runs natively, and torch is not imported for it. A model as it was trained runs
    natively with its own numbers (float32 or bfloat16) where the native engine is built and computes such a model, and
    in torch otherwise. `backend` asks for one of the two, or for torch on a GPU (cuda). `num_blocks` (of 32 positions)
    sizes the cache, `threads` the native engine's team.

    Raises `MalmoiError` for what is wrong with the folder, or when the backend that was asked for cannot run it.
    """
    quantised = quantised_folder(name)
    if quantised is not None:
        if backend in ("torch", "cuda"):
            raise MalmoiError(
                f"{quantised}: is quantised for the native engine, and torch does not read it. Leave --backend out, or "
                f"name the folder that it was made from."
            )
        return _open_quantised(quantised, num_blocks, threads)
    model, tokenizer = open_model(name)
    if backend == "cuda":
        _to_gpu(model)
    note = None if backend in ("torch", "cuda") else _why_not_native(model)
    if note is not None and backend == "native":
        raise MalmoiError(f"{name}: cannot run in the native engine. {note}")
    if backend in ("torch", "cuda") or note is not None:
        from malmoi.generate.torch_backend import TorchBackend

        kind = str(model.dtype).removeprefix("torch.")
        return Speaker(
            TorchBackend(model, num_blocks=num_blocks),
            tokenizer,
            model.generation_config,
            f"torch, {kind}, {model.device.type}",
            note,
        )
    from malmoi.native.core import NativeModel

    native = NativeModel.from_model(model, native_numbers(model), num_blocks=num_blocks, threads=threads)
    return Speaker(native, tokenizer, native.generation_config, native.engine)


def native_numbers(model: GPT4LMHeadModel) -> str:
    """The kind of numbers in which the native engine holds all that this model's weights say."""
    return "bfloat16" if str(model.dtype) == "torch.bfloat16" else "float32"


def quantised_folder(name: str | Path) -> Path | None:
    """The folder that is meant, if `malmoi quantise` wrote it."""
    from malmoi.formats import hub
    from malmoi.native.packed_folder import is_quantised

    if (Path(name).expanduser() / ADAPTER_CONFIG).is_file():
        return None
    folder = hub.find(model_folder(name))
    return folder if is_quantised(folder) else None


def _open_quantised(folder: Path, num_blocks: int | None, threads: int | None) -> Speaker:
    from concurrent.futures import ThreadPoolExecutor

    from malmoi.formats.folder import check_tokenizer
    from malmoi.native.core import NativeModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    with ThreadPoolExecutor(1) as beside:  # the weights are copied into huge pages while the tokenizer is read
        opening = beside.submit(NativeModel.open, folder, num_blocks=num_blocks, threads=threads)
        tokenizer = GPT4Tokenizer.from_pretrained(folder)
        native = opening.result()
    check_tokenizer(folder, native.vocab_size, tokenizer)
    return Speaker(native, tokenizer, native.generation_config, native.engine)


def _to_gpu(model: GPT4LMHeadModel) -> None:
    import torch

    if not torch.cuda.is_available():
        raise MalmoiError(
            "--backend cuda: torch finds no GPU here (`malmoi doctor` shows what there is). Leave --backend out to let "
            "the CPU compute."
        )
    model.to("cuda")


def _why_not_native(model: GPT4LMHeadModel) -> str | None:
    """Why torch has to compute this model, in one line; None where the native engine does."""
    from malmoi.native.description import UnsupportedModelError
    from malmoi.native.library import unavailable
    from malmoi.native.prepare import description_of

    try:
        description_of(model)
    except UnsupportedModelError as error:
        return str(error)
    return unavailable()


def say_note(speaker: Speaker) -> None:
    """Tell a person, beside what the model writes, why the slower engine computes."""
    if speaker.note is not None:
        print(f"({speaker.engine}: {speaker.note})", file=sys.stderr)
