"""A training run of a model that sees: what `vision` in a recipe selects.

    recipe -> documents with pictures -> tokenizer -> batches -> language model, tower, projector -> training -> folder

Stages and folder are those of `malmoi.cli.pipeline`, with two differences. There is no token file: pixels do not go
into one, so documents are read anew at each start, which a recipe with small pictures can afford. And the finished
model is a LLaVA folder (`malmoi.formats.llava`), which transformers opens; `malmoi describe` reads with it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli import pipeline, preparing
from malmoi.cli.console import language
from malmoi.cli.folders import MODEL, RECIPE, model_folder
from malmoi.config import MalmoiError, ParallelConfig, Recipe

if TYPE_CHECKING:
    from malmoi.data.corpus import Document
    from malmoi.tokens.picture import Picture
    from malmoi.train.loop import Step
    from malmoi.vision.seeing import SeeingModel

MOST_SAID = 160  # tokens of an answer, where nobody says how many


def run(settings: pipeline.Settings, folder: Path, *, resume: bool, show: pipeline.Show) -> pipeline.Result:
    """Train as a recipe with `vision` says; see `pipeline.run`."""
    from malmoi.formats import llava
    from malmoi.train import loop

    recipe, train = settings.recipe, settings.train.replace(memorization_samples=0)  # that reads token files
    _check(recipe)
    pipeline.check_folder(folder, resume)
    unfinished = preparing.is_unfinished(folder)
    if resume and not unfinished:
        preparing.check_resumed(recipe, folder)
    is_new = not resume and not unfinished
    preparing.begin(folder, recipe)
    try:
        tokenizer = pipeline.prepare_tokenizer(settings, folder, show)
        show(pipeline.Stage("tokens", "reading documents and pictures"))
        documents = list(pipeline.read_documents(recipe.data.sources, train.seed))
        model = build_model(settings, tokenizer)
        batches, held_out = build_batches(model, documents, tokenizer, settings)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        own = parameters - model.language_model.num_parameters()
        show(pipeline.Stage("model", f"{parameters:,} parameters, {own:,} of them in tower and projector"))
        if not (folder / RECIPE).is_file():
            pipeline.write_recipe(settings, model.config.replace(image_token_id=None), folder)
            preparing.end(folder)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    last: Step | None = None
    tokens = sum(len(lesson.ids) for lesson in batches.lessons)
    show(pipeline.Stage("train", f"{tokens:,} tokens and places to learn from"))
    for last in loop.train(
        model, batches, train, folder=folder, held_out=held_out, resume=resume, tokenizer=tokenizer, recipe=recipe,
        language=language(),
    ):  # fmt: skip
        show(last)
    interrupted = last is not None and "interrupted" in last.events
    if not interrupted:
        show(pipeline.Stage("save", f"writing {folder / MODEL}"))
        llava.save(model, folder / MODEL, tokenizer)
    return pipeline.Result(folder, None if interrupted else folder / MODEL, last, parameters, tokens, interrupted)


def describe(folder: str | Path, picture: Picture, prompt: str, max_new_tokens: int | None) -> str | None:
    """What the model of a LLaVA folder says to a picture, greedily; None where the folder is another model's."""
    from malmoi.formats.folder import CONFIG, read_json

    place = Path(model_folder(folder))
    if not (place / CONFIG).is_file() or read_json(place / CONFIG).get("model_type") != "llava":
        return None
    from malmoi.formats import llava
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    tokenizer = GPT4Tokenizer.from_pretrained(place)
    return llava.load(place).describe(tokenizer, [picture, prompt], max_new_tokens or MOST_SAID, stop=None).strip()


def _check(recipe: Recipe) -> None:
    mixed = any(source.weight is not None or source.epochs is not None for source in recipe.data.sources)
    for wrong, name in (
        (recipe.start_from is not None, "start_from"),
        (recipe.data.validation, "data.validation"),
        (mixed, "weight and epochs of sources"),
        (recipe.parallel != ParallelConfig(), "parallel"),
    ):
        if wrong:
            raise MalmoiError(f"A recipe with 'vision' does not take {name}. Leave it out, or leave 'vision' out.")


def build_model(settings: pipeline.Settings, tokenizer: Any) -> SeeingModel:
    """The recipe's language model with one more row, the placeholder's, and a vision of fresh weights."""
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.vision.seeing import SeeingModel

    config = pipeline.build_model(settings, tokenizer).config
    rows = config.vocab_size
    model = GPT4LMHeadModel(config.replace(vocab_size=rows + 1, image_token_id=rows))
    model.initialize(settings.train.seed)
    assert settings.recipe.vision is not None
    return SeeingModel.new(model, settings.recipe.vision, settings.train.seed)


def build_batches(
    model: SeeingModel, documents: Sequence[Document], tokenizer: Any, settings: pipeline.Settings
) -> tuple[Any, Any]:
    """Training batches and held-out ones (None where nothing is held out), and the album of both for the model."""
    from malmoi.data.encoding import hashed_text
    from malmoi.vision.batches import SeeingBatches

    share, train = settings.recipe.data.held_out, settings.train

    def is_aside(document: Document) -> bool:
        return int.from_bytes(hashlib.sha256(hashed_text(document)).digest()[:8], "little") / 2**64 < share

    sides = [is_aside(document) for document in documents]
    shape: dict[str, Any] = {
        "vocab_size": model.config.vocab_size,
        "image_size": model.vision.config.image_size,
        "features": model.vision.config.features,
        "sequence_length": train.sequence_length,
        "batch_size": train.per_device_train_batch_size,
        "seed": train.seed,
    }
    learned = [document for document, aside in zip(documents, sides, strict=True) if not aside]
    batches = SeeingBatches(learned, tokenizer, **shape)
    model.album = batches.album
    if not any(sides):
        return batches, None
    measured = [document for document, aside in zip(documents, sides, strict=True) if aside]
    held_out = SeeingBatches(measured, tokenizer, **shape, after=batches.album)
    model.album = held_out.album
    return batches, held_out
