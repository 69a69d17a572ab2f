"""`malmoi quantise`: a model with smaller numbers, which the native engine reads as they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from malmoi.cli.console import console, print_json, table
from malmoi.cli.evaluate import working
from malmoi.cli.folders import MODEL, model_folder, open_model

if TYPE_CHECKING:
    from malmoi.data.corpus import Document
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.native.calibration import Rounded
    from malmoi.tokens.tokenizer import GPT4Tokenizer

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

HELD_OUT = 10  # every so many documents of --text one is measured on instead, where --held-out names no others
OWN_ROWS, OWN_LENGTH = 16, 256  # texts that a model without --text writes together, and their tokens

_TO = (
    "int8: a quarter of float32's size, hardly any loss. int4: an eighth, faster still, at a loss. bfloat16, float32: "
    "not rounded further, only laid out."
)
_HEAD = "The numbers of the embedding and the head, whose errors matter most; int8 where --to is int4, else as --to."
_METHOD = (
    "calibrated: each weight's error is made good by the others, judged on a text (GPTQ). nearest: every weight for "
    "itself; at once, and a little worse."
)
_TEXT = (
    "Files to calibrate on; a tenth of their documents is kept aside to measure on. Without, the model writes a text "
    "of its own. May be repeated."
)


@app.command()
def quantise(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    to: Annotated[Literal["int8", "int4", "bfloat16", "float32"], typer.Option("--to", help=_TO)] = "int8",
    head: Annotated[
        Literal["int8", "int4", "bfloat16", "float32"] | None, typer.Option(help=_HEAD, show_default=False)
    ] = None,
    method: Annotated[Literal["calibrated", "nearest"], typer.Option(help=_METHOD)] = "calibrated",
    text: Annotated[list[str] | None, typer.Option("--text", help=_TEXT, show_default=False)] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="Files to measure the loss on instead. May be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write; by default beside the model, named after its numbers.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Round a model's weights for the native CPU engine.

    A decoding step reads every weight once, so a model of half the bytes speaks nearly twice as fast. The folder opens
    in a fraction of a second, without torch. What rounding costs is measured: how much of the matrices' outputs is
    lost, how far the next-token probabilities of random tokens move, and, where a text is given, the bits a byte more
    that the rounded model needs for text it was not calibrated on.

    [bold]Examples[/bold]

    \b
    malmoi quantise runs/quickstart
    malmoi quantise runs/books --to int4 --text books/*.txt
    malmoi quantise runs/books --to int4 --text train.jsonl --held-out valid.jsonl --out small
    """
    from malmoi.native.library import unavailable
    from malmoi.native.prepare import check_target, description_of
    from malmoi.native.prepare import quantise as write

    source = _local(folder)
    model, tokenizer = open_model(folder)
    place = out if out is not None else _beside(source, to, head)
    check_target(place)
    description_of(model)  # refuses a model that the engine does not compute
    learn, measure = _documents(text, held_out)
    rounded = _calibrated(model, tokenizer, to, learn) if method == "calibrated" and to in ("int8", "int4") else None
    size = write(model, source, place, to, head, rounded.matrices if rounded else None)
    before = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    found: dict[str, Any] = {"folder": str(place), "bytes": size, "bytes_before": before}
    if rounded is not None:
        found["lost"] = _by_kind(rounded)
    missing = unavailable()
    found |= _measured(model, tokenizer, place, measure) if missing is None else {"divergence": None}
    if as_json:
        print_json(found)
        return
    console().print(table(("", ""), _rows(found)))
    if missing is not None:
        console().print(f"Note: {missing}", soft_wrap=True, markup=False)


def _rows(found: dict[str, Any]) -> list[tuple[str, Any]]:
    megabytes = f"{found['bytes'] / 1e6:,.1f} MB of {found['bytes_before'] / 1e6:,.1f} MB"
    rows: list[tuple[str, Any]] = [("written", found["folder"]), ("size", megabytes)]
    for kind, share in found.get("lost", {}).items():
        rows.append((f"lost of the outputs, {kind}", f"{share:.2%}"))
    if found["divergence"] is not None:
        rows.append(("divergence from the original", f"{found['divergence']:.2g} nats a token"))
    if "bits_per_byte" in found:
        after, before = found["bits_per_byte"], found["bits_per_byte_before"]
        rows.append(("held-out bits a byte", f"{before:.4f} before, {after:.4f} after: {after / before - 1:+.2%}"))
    return rows


@dataclass(frozen=True, slots=True)
class _Files:
    paths: Sequence[str]
    part: Literal["all", "learn", "measure"] = "all"

    def documents(self) -> list[Document]:
        from malmoi.config import SourceConfig
        from malmoi.data.corpus import read

        found = [document for path in self.paths for document in read(SourceConfig(path=path))]
        if self.part == "all":
            return found
        return [one for i, one in enumerate(found) if (i % HELD_OUT == HELD_OUT - 1) == (self.part == "measure")]


def _documents(text: list[str] | None, held_out: list[str] | None) -> tuple[list[Document], list[Document]]:
    """What is calibrated on, and what is measured on; never the same documents."""
    from malmoi.config import MalmoiError

    learn = _Files(text or (), "all" if held_out else "learn").documents()
    measure = _Files(held_out).documents() if held_out else _Files(text or (), "measure").documents()
    if text and not measure:
        raise MalmoiError(
            f"--text {' '.join(text)}: {len(learn)} documents are too few to keep one in {HELD_OUT} aside to measure "
            f"on. Give more, or name a file to measure on: --held-out FILE"
        )
    return learn, measure


def _calibrated(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, to: str, learn: list[Document]) -> Rounded:
    from malmoi.native.calibration import calibrated
    from malmoi.native.prepare import kind_named

    ids = calibration_ids(model, tokenizer, learn) if learn else own_text(model)
    with working("rounding block") as progress:
        return calibrated(model, kind_named(to), ids, progress)


def calibration_ids(model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, documents: list[Document]) -> Any:
    """The documents one after another, cut into rows of the model's context: a tensor (B, T)."""
    import torch

    from malmoi.cli.tokenizer import document_texts
    from malmoi.native.calibration import TOKENS

    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    found: list[int] = []
    for text in document_texts(iter(documents)):
        found += [*tokenizer.encode(text), *end]
        if len(found) >= TOKENS:
            break
    width = min(model.config.max_position_embeddings, 1024, max(len(found), 1))
    rows = min(len(found), TOKENS) // width
    return torch.tensor(found[: rows * width]).view(rows, width)


def own_text(model: GPT4LMHeadModel, seed: int = 0) -> Any:
    """Rows (B, T) that the model writes itself, from its end-of-text token on; natively where that can be."""
    import torch

    from malmoi.generate.engine import generate
    from malmoi.native.calibration import TOKENS
    from malmoi.native.core import BLOCK_SIZE, NativeModel
    from malmoi.native.library import unavailable

    length, begin = min(model.config.max_position_embeddings, OWN_LENGTH), model.config.eos_token_id
    room = OWN_ROWS * -(-length // BLOCK_SIZE)  # all rows at once
    writer = NativeModel.from_model(model, "bfloat16", num_blocks=room) if unavailable() is None else model
    wish = {"max_new_tokens": length - 1, "min_new_tokens": length - 1, "do_sample": True}
    rows: list[list[int]] = []
    with working("writing a text of its own, token") as progress:
        while len(rows) * length < TOKENS:
            first = [begin if isinstance(begin, int) else 0]
            made = generate(writer, [first], num_return_sequences=OWN_ROWS, seed=seed + len(rows), **wish)
            rows += [[*first, *new] for new in made.new_tokens]
            progress(len(rows) * length, TOKENS)
    return torch.tensor(rows)


def _by_kind(rounded: Rounded) -> dict[str, float]:
    """The mean share of the outputs' square that was lost, in attention and in the feed-forward network."""
    kinds: dict[str, list[float]] = {}
    for name, share in rounded.lost.items():
        kinds.setdefault("attention" if ".self_attn." in name else "feed-forward", []).append(share)
    return {kind: sum(shares) / len(shares) for kind, shares in kinds.items()}


def _measured(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, place: Path, measure: list[Document]
) -> dict[str, float]:
    from malmoi.evaluate import bits_per_byte
    from malmoi.native.core import NativeModel
    from malmoi.native.divergence import divergence_from

    with NativeModel.open(place) as rounded:
        found = {"divergence": divergence_from(model, rounded)}
        if measure:
            with working("measuring: document") as progress:
                found["bits_per_byte_before"] = float(
                    bits_per_byte(model, tokenizer, measure, progress=progress)["bits_per_byte"]
                )
                found["bits_per_byte"] = float(
                    bits_per_byte(rounded, tokenizer, measure, progress=progress)["bits_per_byte"]
                )
    return found


def _local(folder: str) -> Path:
    """Where the model's other files lie; a name on the hub was downloaded when the model was opened."""
    from malmoi.formats import hub

    return hub.find(model_folder(folder))


def _beside(source: Path, to: str, head: str | None) -> Path:
    name = source.absolute()
    stem = f"{name.parent.name}-{to}" if name.name == MODEL else f"{name.name}-{to}"
    return name.parent / (f"{stem}-{head}-head" if head else stem)
