"""One training run from beginning to end: the table of contents of the whole project in one function.

    recipe -> settings filled in -> documents -> tokenizer -> token file -> batches -> model -> training -> model folder

`run` is what `malmoi train` and `malmoi quickstart` call. It leaves one folder:

    recipe.yaml        the run as it was asked for, every default filled in (`malmoi train recipe.yaml` repeats it)
    tokenizer/         learned from the data, or a copy of the one that was given
    image_tokenizer/   with `images`: what was learned of the data's pictures (tokenizer/ holds it, too)
    tokens/            the token file (`malmoi data show` reads it), validation/ where other files are measured on
    checkpoint-<step>/ config.yaml versions.json metrics.jsonl loss.png: the training loop's own records
    model/             the finished model folder
    adapter/           with `lora`: what was learned, apart from the model it was learned on

A mistake found before training begins (a missing file, a misspelt setting) leaves no folder behind. From then on,
`resume=True` goes on where the run stopped, with the tokenizer and the tokens that are there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli import facts, preparing, transfer
from malmoi.cli.console import language
from malmoi.cli.folders import MODEL, RECIPE, TOKENS, model_folder
from malmoi.cli.image_tokenizer import with_images
from malmoi.cli.tokenizer import document_texts
from malmoi.config import DataConfig, GenerationConfig, MalmoiError, ModelConfig, Recipe, SourceConfig, TrainConfig

if TYPE_CHECKING:
    from malmoi.data.corpus import Document
    from malmoi.data.tokenfile import TokenFile
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer
    from malmoi.train.loop import Step

TOKENIZER, VALIDATION = "tokenizer", "validation"
DEFAULT_SIZE = "nano"
SAMPLE_BYTES = 32 << 20  # of text that a tokenizer is learned from
MOST_CHECKED = 16 << 30  # bytes of tokens that are hashed again before a run goes on: some ten seconds
VILLAGE_PART = 4_000  # documents that a process makes at a time
VILLAGE_SAMPLE = 6_000  # of its documents: the village says the same things in new ways, and its vocabulary is small


@dataclass(frozen=True, slots=True)
class Stage:
    """Something other than a training step that a person may want to see: what is being done, how far it is."""

    name: str  # "tokenizer", "tokens", "model", "train", "save"
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. `last` is the last step of this session; `interrupted` says that it can go on."""

    folder: Path
    model_folder: Path | None  # None: interrupted, there is no finished model yet
    last: Step | None
    parameters: int
    train_tokens: int  # in the token file, seen or not
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """A recipe with everything that follows from it. `model` is None where the model comes from a folder."""

    recipe: Recipe
    vocab_size: int
    train: TrainConfig
    generation: GenerationConfig


Show = Callable[["Stage | Step"], None]

# Of a size's settings, those that are left to follow anew where a recipe changes the one before the colon.
FOLLOWERS = {
    "hidden_size": ("head_dim", "intermediate_size", "moe_intermediate_size"),
    "num_attention_heads": ("head_dim", "num_key_value_heads"),
    "num_hidden_layers": ("layer_types",),
    "feed_forward": ("intermediate_size", "moe_intermediate_size"),
    "intermediate_size": ("moe_intermediate_size",),
}


def run(recipe: Recipe, folder: str | Path, *, resume: bool = False, show: Show = lambda _: None) -> Result:
    """Train as `recipe` says, in `folder`; `show` is called with every stage and every step.

    Raises `MalmoiError` for settings, files and folders that cannot work, before anything is written where that is
    possible.
    """
    from malmoi.train import job, loop

    folder = Path(folder)
    settings = resolve(recipe)
    if recipe.vision is not None:
        from malmoi.cli import seeing

        return seeing.run(settings, folder, resume=resume, show=show)
    world = job.of(recipe)
    if recipe.start_from is None:
        planned = model_config(recipe, settings.recipe.size, settings.vocab_size, settings.train)
        world.check(recipe.parallel, planned, settings.train)
    restarted = job.restarted()
    resume = resume or (restarted and (folder / RECIPE).is_file())
    if world.first and not restarted:
        check_folder(folder, resume)
    unfinished = preparing.is_unfinished(folder)
    if resume and not unfinished:
        preparing.check_resumed(settings.recipe, folder)
        transfer.check_resumed(recipe, folder)
    is_new = not resume and not unfinished and world.first
    if world.first:
        preparing.begin(folder, settings.recipe)
    try:
        if not world.first:
            world.wait()  # the first process reads the texts, the others what it made of them
        tokenizer = prepare_tokenizer(settings, folder, show)
        tokens = prepare_tokens(settings, folder, tokenizer, show)
        if world.first:
            if resume:
                check_tokens(tokens, show)
            world.wait()
        model = build_model(settings, tokenizer)
        show(Stage("model", _described(model)))
        if world.first and not (folder / RECIPE).is_file():
            write_recipe(settings, model.config, folder)
            preparing.end(folder)
        world.take(model, recipe.parallel, settings.train)
        batches, held_out = build_batches(settings, tokens, folder, *world.rows)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise

    last: Step | None = None
    show(Stage("train", f"{tokens.train.num_tokens:,} tokens to learn from"))
    steps = loop.train(
        model, batches, settings.train, folder=folder, held_out=held_out, resume=resume, tokenizer=tokenizer,
        recipe=recipe, world=world, language=language(),
    )  # fmt: skip
    if resume and world.first:
        write_recipe(settings, model.config, folder)  # only now: a changed setting may have been refused
    for last in steps:
        show(last)
    interrupted = last is not None and "interrupted" in last.events
    whole = None if interrupted else world.whole(model, folder)
    finished = save_model(whole, tokenizer, settings, folder, show) if whole is not None else None
    world.leave()
    return Result(folder, finished, last, world.num_parameters(model), tokens.train.num_tokens, interrupted)


# ---- settings -------------------------------------------------------------------------------------------------------


def resolve(recipe: Recipe) -> Settings:
    """Everything that follows from a recipe, checked before a single file is read."""
    from malmoi import presets

    _check_sources(recipe.data)
    transfer.check(recipe)
    size = recipe.size or (None if recipe.model or recipe.start_from else DEFAULT_SIZE)
    asked = recipe.model_fields_set
    vocab_size = recipe.vocab_size
    if size is not None and "vocab_size" not in asked:
        vocab_size = presets.size(size).vocab_size
    if recipe.start_from is not None:
        defaults = transfer.defaults(recipe)
    else:
        optimizer = recipe.train.get("optimizer", TrainConfig().optimizer)
        defaults = presets.train_defaults(size, optimizer) if size is not None else TrainConfig()
    train = defaults.replace(**recipe.train)
    if "vocab_size" in recipe.model:
        raise MalmoiError("model.vocab_size follows from the tokenizer. Set the recipe's own vocab_size instead.")
    if recipe.start_from is None:
        model_config(recipe, size, vocab_size, train)  # a misspelt field is said now
    generation = GenerationConfig(**recipe.generation)
    filled = recipe.replace(size=size, vocab_size=vocab_size, train=train.model_dump(mode="json"))
    return Settings(filled, vocab_size, train, generation)


def model_config(recipe: Recipe, size: str | None, vocab_size: int, train: TrainConfig) -> ModelConfig:
    """A size's configuration with the recipe's own fields over it; what followed from those follows again."""
    from malmoi import presets

    fields = dict(recipe.model)
    base = presets.size(size, vocab_size).model_dump() if size is not None else {}
    for name, followers in FOLLOWERS.items():
        if name in fields:  # what followed from the size's own value follows from the new one
            for follower in followers:
                base.pop(follower, None)
    config = ModelConfig(**{**base, "vocab_size": vocab_size, **fields})
    if train.sequence_length > config.max_position_embeddings:
        if "max_position_embeddings" in fields:
            raise MalmoiError(
                f"train.sequence_length={train.sequence_length} is longer than "
                f"model.max_position_embeddings={config.max_position_embeddings}. Make one of them equal to the other."
            )
        config = config.replace(max_position_embeddings=train.sequence_length)
    return config


def check_folder(folder: Path, resume: bool) -> None:
    """A run never writes over another one."""
    if preparing.is_unfinished(folder):
        return
    if resume:
        if not (folder / RECIPE).is_file():
            raise MalmoiError(f"{folder}: there is no run here to go on with (no {RECIPE}).")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds a run already" if (folder / RECIPE).is_file() else "is there already and is not empty"
        raise MalmoiError(f"{folder}: {what}. Go on with it (--resume), choose another --out, or delete it.")


# ---- the stages -----------------------------------------------------------------------------------------------------


def prepare_tokenizer(settings: Settings, folder: Path, show: Show) -> GPT4Tokenizer:
    """The run's own tokenizer: there already, given by the recipe, or learned from the data now."""
    from malmoi.data.pictures import pictures_of
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    recipe = settings.recipe
    if (folder / TOKENIZER / "tokenizer.json").is_file():
        return GPT4Tokenizer.from_pretrained(folder / TOKENIZER)
    given = recipe.tokenizer or recipe.start_from
    if given is not None:
        tokenizer = GPT4Tokenizer.from_pretrained(model_folder(given))
    else:
        from malmoi.tokens.vocabulary import learn

        show(Stage("tokenizer", f"learning {settings.vocab_size:,} tokens"))
        sample = itertools.chain.from_iterable(_sample(source) for source in recipe.data.sources)
        tokenizer = learn(
            document_texts(sample), settings.vocab_size, sample_bytes=SAMPLE_BYTES, seed=settings.train.seed
        )
    pictures = itertools.chain.from_iterable(map(pictures_of, read_documents(recipe.data.sources, settings.train.seed)))
    tokenizer = with_images(tokenizer, recipe, pictures, folder, lambda text: show(Stage("tokenizer", text)))
    aside = folder / f".{TOKENIZER}.building-{os.getpid()}"  # its files appear together or not at all
    tokenizer.save_pretrained(aside)
    aside.rename(folder / TOKENIZER)
    return tokenizer


def prepare_tokens(settings: Settings, folder: Path, tokenizer: GPT4Tokenizer, show: Show) -> TokenFile:
    """The token file of the run, and of the validation files where the recipe names some."""
    from malmoi.data.shards import build
    from malmoi.data.tokenfile import TokenFile

    data = settings.recipe.data

    def one(place: Path, sources: tuple[SourceConfig, ...], held_out: float) -> TokenFile:
        if (place / "manifest.json").is_file():
            made = TokenFile.open(place, tokenizer=tokenizer)
            if made.manifest["held_out"] != held_out:
                raise MalmoiError(
                    f"{place}: was built with --held-out {made.manifest['held_out']:g}, but this run needs "
                    f"{held_out:g}. Build it again so, or set data.held_out."
                )
            return made

        def progress(documents: int, tokens: int, size: int) -> None:
            show(Stage("tokens", f"{place.name}: {documents:,} documents, {tokens:,} tokens, {size / 1e6:,.1f} MB"))

        parts = village_parts(sources, settings.train.seed)
        if parts:  # made up, not read: every processor can make its own part
            workers = min(os.cpu_count() or 1, len(parts))
            return build(
                parts, tokenizer, place, held_out=held_out, progress=progress, workers=workers if workers > 1 else 0
            )
        documents = read_documents(sources, settings.train.seed)
        return build(documents, tokenizer, place, held_out=held_out, progress=progress)

    if data.validation:
        one(folder / VALIDATION, data.validation, 0.0)
    return one(folder / TOKENS, data.sources, 0.0 if data.validation else data.held_out)


def check_tokens(tokens: TokenFile, show: Show) -> None:
    """Before a run goes on: is what it learns from still what was written? (A new token file was hashed as it was.)"""
    size = sum(facts["size"] for entry in tokens.manifest["shards"] for facts in entry["files"].values())
    if size > MOST_CHECKED:
        show(Stage("tokens", f"{size / 1e9:,.0f} GB: too much to read again; only sizes were checked"))
        return
    tokens.verify()


def build_model(settings: Settings, tokenizer: GPT4Tokenizer) -> GPT4LMHeadModel:
    """A new model, its weights drawn from the run's seed; or the one to start from."""
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.train.adapters import freeze

    recipe = settings.recipe
    if recipe.start_from is not None:
        return transfer.model_to_start_from(recipe, settings.train, len(tokenizer))
    config = model_config(recipe, recipe.size, len(tokenizer), settings.train)
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    model = GPT4LMHeadModel(config.replace(**special))
    model.initialize(settings.train.seed)
    freeze(model, settings.train.freeze)
    return model


def _described(model: GPT4LMHeadModel) -> str:
    """A model in one line."""
    from malmoi.train.adapters import adapted, learning

    learns, total, matrices = learning(model), model.num_parameters(), len(adapted(model))
    said = f"{total:,} parameters, {model.config.num_hidden_layers} layers"
    if learns < total:
        said += f"; {learns:,} of the parameters learn ({learns / total:.1%})"
    return f"{said}; an adapter on {matrices} matrices" if matrices else said


def build_batches(
    settings: Settings, tokens: TokenFile, folder: Path, part: int = 0, parts: int = 1
) -> tuple[Any, Any]:
    """Training batches by the recipe's mixture, and held-out batches (None where nothing is held out).

    Of the training batches only the rows of one of `parts` processes that share them.
    """
    from malmoi.data.batches import Batches, held_out_batches
    from malmoi.data.mixture import Mixture
    from malmoi.data.tokenfile import TokenFile

    data, train = settings.recipe.data, settings.train
    shape = (train.sequence_length, train.per_device_train_batch_size)
    mixed = any(source.weight is not None or source.epochs is not None for source in data.sources)
    batches = Batches(
        Mixture.from_config(tokens, data) if mixed else tokens.train,
        *shape,
        seed=train.seed,
        rank=part,
        world_size=parts,
    )
    measured = TokenFile.open(folder / VALIDATION).view() if data.validation else tokens.held_out
    if len(measured) == 0:
        return batches, None
    return batches, held_out_batches(measured, *shape, max_tokens=train.eval_tokens)


def write_recipe(settings: Settings, config: ModelConfig, folder: Path) -> None:
    """`recipe.yaml`, written when everything before training has worked."""
    from malmoi.tokens.folder import write_text

    own = {key: value for key, value in config.model_dump(mode="json").items() if key != "vocab_size"}
    from_folder = settings.recipe.start_from is not None
    filled = settings.recipe if from_folder else settings.recipe.replace(model=own)
    write_text(folder / RECIPE, filled.to_yaml())


def save_model(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, settings: Settings, folder: Path, show: Show) -> Path:
    """The model folder, with the settings that it was trained by."""
    from malmoi.formats import huggingface
    from malmoi.tokens.folder import write_text
    from malmoi.train.record import CONFIG

    place = folder / MODEL
    if settings.recipe.lora is not None:
        merge = transfer.save_adapter(model, settings.recipe, folder)
        same = f"merged: logits of {merge.tokens} tokens within {merge.difference:.1g} of the adapter's"
        show(Stage("save", f"adapter written; {same}"))
    show(Stage("save", f"writing {place}"))
    own = model.generation_config.model_dump()
    model.generation_config = GenerationConfig(**{**own, **settings.recipe.generation})
    huggingface.save(model, place, tokenizer=tokenizer, facts=facts.gather(settings.recipe, folder))
    trained_by = folder / CONFIG if (folder / CONFIG).is_file() else folder / RECIPE
    write_text(place / RECIPE, trained_by.read_text(encoding="utf-8"))
    return place


# ---- reading --------------------------------------------------------------------------------------------------------


def village_parts(sources: Sequence[SourceConfig], seed: int) -> list[Callable[[], Iterator[Document]]]:
    """The village in parts that several processes can make; none where anything else is read as well."""
    from malmoi.data.corpus import VILLAGE, VILLAGE_DOCUMENTS

    parts: list[Callable[[], Iterator[Document]]] = []
    for source in sources:
        name, _, number = (source.path if isinstance(source.path, str) else " ".join(source.path)).partition(":")
        if name != VILLAGE or not (number or "0").isdecimal():
            return []
        total = int(number) if number else VILLAGE_DOCUMENTS
        for start in range(0, total, VILLAGE_PART):
            parts.append(functools.partial(_village_part, source, seed, start, min(start + VILLAGE_PART, total)))
    return parts


def _village_part(source: SourceConfig, seed: int, start: int, stop: int) -> Iterator[Document]:
    from malmoi.data import village
    from malmoi.data.corpus import source_name

    name = source_name(source)
    for document in village.documents(seed, start=start, stop=stop):
        yield dataclasses.replace(document, source=name, license=source.license or document.license)


def read_documents(sources: Sequence[SourceConfig], seed: int) -> Iterator[Document]:
    """The documents of all sources, one after another."""
    from malmoi.data.corpus import read

    return itertools.chain.from_iterable(read(source, seed=seed) for source in sources)


def _sample(source: SourceConfig) -> Iterator[Document]:
    """The documents that a tokenizer is learned from: all files, some of the endless village."""
    from malmoi.data.corpus import VILLAGE, read

    paths = (source.path,) if isinstance(source.path, str) else source.path
    endless = any(path.partition(":")[0] == VILLAGE for path in paths)
    return read(source, max_documents=VILLAGE_SAMPLE if endless else None)


def _check_sources(data: DataConfig) -> None:
    """Standard input can be read once, but a tokenizer and a token file both want to read it."""
    for source in (*data.sources, *data.validation):
        paths = (source.path,) if isinstance(source.path, str) else source.path
        if "-" in paths:
            raise MalmoiError(
                "Training reads its text twice (for the tokenizer and for the tokens), and standard input can be read "
                "only once. Write it into a file first."
            )
