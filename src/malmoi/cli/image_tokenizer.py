"""`malmoi image-tokenizer train | report | show`: what turns pictures into tokens, and how well they come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.console import console, count, duration, print_json, setting, table
from malmoi.cli.folders import model_folder
from malmoi.config import ImageTokenizerConfig, MalmoiError, Recipe

if TYPE_CHECKING:
    from malmoi.tokens.image import ImageTokenizer
    from malmoi.tokens.picture import Picture
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="Learn to turn pictures into tokens, measure it, look at it.",
)

SHOWN = 12  # pictures side by side
Paths = Annotated[
    list[str], typer.Argument(help="Pictures, folders of pictures, records (with --image), scenes:N, emoji:FOLDER ...")
]
Folder = Annotated[str, typer.Argument(help="A folder with an image tokenizer (a model's or a run's, too).")]
Field = Annotated[str | None, typer.Option("--image", help=setting("SourceConfig", "image"))]


def _help(field: str) -> str:
    return setting("ImageTokenizerConfig", field)


@app.command()
def train(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    image: Field = None,
    size: Annotated[int | None, typer.Option("--size", help=_help("image_size"))] = None,
    grid: Annotated[int | None, typer.Option(help=_help("grid"))] = None,
    levels: Annotated[str | None, typer.Option(help=f"{_help('levels')} Such as 8,5,5,5.")] = None,
    channels: Annotated[int | None, typer.Option(help=_help("hidden_channels"))] = None,
    steps: Annotated[int | None, typer.Option(help=_help("max_steps"))] = None,
    batch_size: Annotated[int | None, typer.Option(help=_help("batch_size"))] = None,
    learning_rate: Annotated[float | None, typer.Option(help=_help("learning_rate"))] = None,
    seed: Annotated[int | None, typer.Option(help=_help("seed"))] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn an image tokenizer from pictures, and measure it on those that it never saw.

    [bold]Examples[/bold]

    \b
    malmoi image-tokenizer train photos/ --size 64 --out my-images
    malmoi image-tokenizer train labels.jsonl --image file_name --levels 8,6,5 --out my-images
    """
    from malmoi.data.pictures import pictures_from
    from malmoi.tokens.interleave import FOLDER

    if (out / FOLDER / "config.json").exists():
        raise MalmoiError(f"{out}: holds an image tokenizer already. Choose another --out, or delete it first.")
    given: dict[str, Any] = {
        "image_size": size,
        "grid": grid,
        "levels": _levels(levels),
        "hidden_channels": channels,
        "max_steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    config = ImageTokenizerConfig(**{name: value for name, value in given.items() if value is not None})
    screen = console(stderr=as_json)
    pictures = itertools.chain.from_iterable(pictures_from(path, image) for path in paths)
    _, found = learn_from(pictures, config, out, resume, lambda text: screen.print(text))
    if as_json:
        print_json({"folder": out, "config": config.model_dump(), "held_out": found})
    else:
        screen.print(
            f"{out}: {config.grid} x {config.grid} tokens a picture. Look: malmoi image-tokenizer show {out} ..."
        )


@app.command()
def report(
    folder: Folder,
    paths: Paths,
    image: Field = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How well pictures come back (PSNR, SSIM), and how many of the codes are used.

    [bold]Examples[/bold]

    \b
    malmoi image-tokenizer report runs/emoji photos/
    """
    from malmoi.data.pictures import pictures_from, pixels_of
    from malmoi.train.image_tokenizer import report as measure

    tokenizer = open_image_tokenizer(folder)
    pictures = itertools.chain.from_iterable(pictures_from(path, image) for path in paths)
    found = measure(tokenizer, pixels_of(pictures, tokenizer.config.image_size)).as_dict()
    if as_json:
        print_json(found)
        return
    console().print(
        table((">pictures", ">PSNR (dB)", ">SSIM", ">codes used", ">perplexity"), [_row(found)], title=folder)
    )


@app.command()
def show(
    folder: Folder,
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("image-tokenizer.png"),
    image: Field = None,
) -> None:
    """Pictures above, what comes back of their tokens below, as one PNG.

    [bold]Examples[/bold]

    \b
    malmoi image-tokenizer show runs/emoji apple.png pear.png --out both.png
    """
    import numpy as np

    from malmoi.data.pictures import pictures_from, pixels_of
    from malmoi.tokens.folder import write_bytes
    from malmoi.tokens.picture import png

    tokenizer = open_image_tokenizer(folder)
    size = tokenizer.config.image_size
    pictures = itertools.chain.from_iterable(pictures_from(path, image) for path in paths)
    pixels = pixels_of(pictures, size, most=SHOWN * 3 * size * size)
    painted = tokenizer.decode_pixels(tokenizer.encode_pixels(pixels))
    rows = [np.concatenate(list(each), axis=1) for each in (pixels, painted)]
    write_bytes(out, png(np.concatenate(rows)))
    console().print(f"{out}: {len(pixels)} pictures, as they were and as they come back.")


def open_image_tokenizer(name: str) -> ImageTokenizer:
    """An image tokenizer from its folder, from a model's or a run's."""
    from malmoi.tokens.image import ImageTokenizer

    place = Path(model_folder(name)).expanduser()
    return ImageTokenizer.from_pretrained(place)


def learn_from(
    pictures: Iterable[Picture],
    config: ImageTokenizerConfig,
    folder: Path,
    resume: bool,
    say: Callable[[str], None],
) -> tuple[ImageTokenizer, dict[str, float]]:
    """Learn an image tokenizer in `folder`, telling how far it is; with what it reaches on pictures kept aside."""
    from malmoi.data.pictures import pixels_of
    from malmoi.tokens.image import ImageTokenizer
    from malmoi.train.image_tokenizer import learn, split
    from malmoi.train.image_tokenizer import report as measure

    tokenizer = ImageTokenizer(config)
    known, new = split(pixels_of(pictures, config.image_size), config)
    say(f"{count(len(known))} pictures to learn from, {count(len(new))} to measure on, {tokenizer.codebook_size} codes")
    every = max(1, config.max_steps // 10)
    for step in learn(tokenizer, known, folder=folder, resume=resume):
        if step.step % every == 0:
            say(f"step {step.step} of {step.max_steps}: loss {step.loss:.3f}, {duration(step.seconds)}")
    found = measure(tokenizer, new if len(new) else known).as_dict()
    pictures_, psnr, ssim, used, perplexity = _row(found)
    say(f"{pictures_} pictures kept aside: PSNR {psnr} dB, SSIM {ssim}, codes used {used}, perplexity {perplexity}")
    return tokenizer, found


def with_images(
    tokenizer: GPT4Tokenizer,
    recipe: Recipe,
    pictures: Iterable[Picture],
    folder: Path,
    say: Callable[[str], None],
) -> GPT4Tokenizer:
    """A run's tokenizer with the image tokenizer that its recipe names, or that is learned now; as it is if neither."""
    from malmoi.tokens.interleave import FOLDER
    from malmoi.tokens.interleave import with_images as extended

    if recipe.image_tokenizer is None and recipe.images is None:
        return tokenizer
    if recipe.image_tokenizer is not None and recipe.images is not None:
        raise MalmoiError("image_tokenizer takes a finished one and images learns one: leave one of the two out.")
    if recipe.image_tokenizer is not None:
        return extended(tokenizer, open_image_tokenizer(recipe.image_tokenizer))
    assert recipe.images is not None
    if (folder / FOLDER / "config.json").is_file():
        return extended(tokenizer, open_image_tokenizer(str(folder / FOLDER)))
    return extended(tokenizer, learn_from(pictures, recipe.images, folder, True, say)[0])


def _row(found: dict[str, float]) -> tuple[str, ...]:
    used = f"{found['codes_used']} of {found['codebook_size']}"
    numbers = (f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", used, f"{found['perplexity']:.0f}")
    return (count(found["pictures"]), *numbers)


def _levels(words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise MalmoiError(f"--levels wants whole numbers, such as 8,5,5,5 (given: {words!r}).") from None
