"""Handing a model on: write it in somebody else's format, read it back, and only then let it stand.

An export that loads is not yet an export that is right: swapped rows, a wrong rounding or another tokenizer still give
fluent text, only worse. So what was written is read again from the disk with nothing but the file, and must give the
same token ids for texts in several languages and the same logits (for rounded numbers: the logits of our own model with
equally rounded weights). What the rounding itself costs is measured against the unrounded model. A difference is an
error, and then no file is left.
"""

from __future__ import annotations

import os
import secrets
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from malmoi.config import MalmoiError
from malmoi.formats import gguf, gguf_tokenizer, huggingface
from malmoi.formats.atomic import replaced
from malmoi.formats.families import family_of
from malmoi.formats.gguf_architectures import architecture_of
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer

HF_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = 1e-4  # of logits, where the order of additions may differ
_MAGIC = b"GGUF"
_LONGEST = 128  # tokens of a sample that the logits are compared on

SAMPLES = (
    "Once upon a time an old woman lived in a village with her cat.",
    "They've gathered 12,345 words; it's the people's dictionary, isn't it?",
    "The quick BROWN fox jumps over the lazy dog... HelloWorld, iPhone, NASA's.",
    "옛날 옛적에 한 마을에 할머니와 고양이가 살았습니다.",
    "마을 사람들은 말을 모아 사전을 만들었습니다. 그 이름은 ‘말모이’였습니다.",
    "아침 7시 30분, 기온은 영하 12.5도입니다! 어디 가세요?",
    "Il était une fois une vieille femme qui vivait dans un village avec son chat.",
    "« Où est l'été ? » demanda-t-elle. Ça va, répondit le garçon à l'œil bleu.",
    "👨‍👩‍👧‍👦 🇰🇷🇫🇷 ❤️‍🔥 😀😀 1️⃣ 🐈‍⬛",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += i;\r\n}\n",
    "   spaces \t tabs\n\n\nand lines   ",
    "日本語と中文。Привет, мир! שלום العالم",
    '{"key": [1, 2.5, null], "path": "/usr/bin/env"} https://example.org/?q=a%20b#c',
)
CASES = (  # where a pattern that knows capitals beyond a-z shows itself
    "L'ÉCOLE À L'ÎLE: ŒUVRE, ÉTÉ, Éléphant.",
    "cafe\u0301 e\u0301te\u0301 \u1112\u1161\u11ab\u1100\u1173\u11af",
)


@dataclass(frozen=True)
class Published:
    """What was written and what the comparison found.

    `numbers`: how many tensors have each type. `difference`: the largest of any logit, against our model with the same
    rounded weights. `loss` and `rounded_loss`: nats a token on the samples, before and after rounding; `divergence`:
    the mean Kullback-Leibler divergence between the two, in nats.
    """

    path: Path
    layout: str
    bytes: int
    numbers: dict[str, int]
    texts: int
    difference: float
    loss: float
    rounded_loss: float
    divergence: float
    notes: tuple[str, ...] = field(default=())


def to_gguf(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, path: Path, kind: str = "f16", name: str | None = None
) -> Published:
    """Write one GGUF file and hold it against the model; `kind` is one of `gguf.TYPES`.

    Raises `MalmoiError` for a model or tokenizer that GGUF cannot say, a full disk, or a file that does not give back
    what went in.
    """
    path = path.expanduser().absolute()
    _refuse_other_files(path)
    config = model.config
    architecture = architecture_of(config)
    places = gguf.places(config, kind)
    vocabulary = gguf_tokenizer.describe(tokenizer, config.vocab_size, _ends(model))
    size = sum(place.nbytes for place in places) + sum(len(token.encode()) + 32 for token in vocabulary.tokens) * 2
    _require_room(path.parent, size)
    new = path.with_name(f".{path.name}.{secrets.token_hex(6)}.saving")
    try:
        writer = gguf.begin(new, model, kind, name or path.stem)
        try:
            gguf_tokenizer.write(writer, vocabulary)
            gguf.finish(writer, model, kind)
        finally:
            writer.close()
        notes = [*_compare_vocabulary(new, tokenizer, vocabulary), *_notes(model, places, kind)]
        measured = _compare_model(model, gguf.rounded(model, kind), gguf.load(new, config), tokenizer)
        with new.open("r+b") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise MalmoiError(f"{path}: cannot be written: {error.strerror or error}.") from None
    finally:
        new.unlink(missing_ok=True)
    numbers = dict(Counter(place.kind for place in places))
    return Published(path, architecture.name, path.stat().st_size, numbers, notes=tuple(notes), **measured)


def to_hf(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, folder: Path, kind: str | None = None, name: str | None = None
) -> Published:
    """Write a model folder as transformers reads it, in `kind` (None: as the numbers are), and check it.

    Where transformers is installed and knows the layout, its logits and token ids are compared as well.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MalmoiError(f"{folder}: exists already. Choose a new or empty folder.")
    dtype = HF_TYPES[kind] if kind else model.dtype
    size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    _require_room(folder.parent, size)
    rounded = {key: value.to(dtype).float() for key, value in model.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in rounded.values()):
        raise MalmoiError("Some weights are larger than f16 can hold (65504); export them as bf16 or f32.")
    copy = _filled(model, {key: value.to(dtype) for key, value in rounded.items()})
    copy.generation_config = model.generation_config
    family = family_of(model.config)
    notes: list[str] = []
    with replaced(folder) as new:
        inner = new / (name or folder.name)  # the card says the folder's name
        huggingface.save(copy, inner, tokenizer)
        again, ids = huggingface.load(inner, torch.float32), GPT4Tokenizer.from_pretrained(inner)
        _same_ids(lambda text: ids.encode(text), tokenizer.encode, (*SAMPLES, *CASES))
        measured = _compare_model(model, rounded, again, tokenizer)
        if family.model_type == "malmoi":
            notes.append("this layout is Malmoi's own; other programs do not open it")
        else:
            notes.append(_compare_transformers(inner, again, tokenizer))
        for path in list(inner.iterdir()):
            path.rename(new / path.name)
        inner.rmdir()
    held = sum(path.stat().st_size for path in folder.iterdir())
    numbers = {str(dtype).removeprefix("torch."): len(copy.state_dict())}
    return Published(folder, family.architecture, held, numbers, notes=tuple(notes), **measured)


# ---------------------------------------------------------------- before writing


def _refuse_other_files(path: Path) -> None:
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) in (_MAGIC, b""):
                return
    raise MalmoiError(f"{path}: exists already and is no GGUF file. Choose another name with --out.")


def _require_room(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size * 1.01 + 2**20:
        raise MalmoiError(
            f"{folder}: has {free / 1e9:,.2f} GB free, but the export needs about {size / 1e9:,.2f} GB. Free some "
            f"space, name another place with --out, or choose a smaller --type."
        )


def _ends(model: GPT4LMHeadModel) -> tuple[int, ...]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, tuple) else () if ends is None else (ends,)


def _notes(model: GPT4LMHeadModel, places: list[gguf.Place], kind: str) -> list[str]:
    notes = []
    odd = [place for place in places if place.kind == "f16" and kind in ("q8_0", "q4_0")]
    if odd:
        notes.append(f"{len(odd)} tensors stay f16: their rows do not divide into blocks of {gguf.BLOCK}")
    if kind == "q4_0":
        notes.append("the vocabulary's tables keep 8 bits (q8_0); the rest of the matrices has 4")
    if model.config.rope_parameters.truncate is False:
        notes.append("llama.cpp begins and ends YaRN's ramp at whole pairs; this model was made without that rounding")
    return notes


# ---------------------------------------------------------------- after writing


def _compare_vocabulary(path: Path, tokenizer: GPT4Tokenizer, expected: gguf_tokenizer.Vocabulary) -> list[str]:
    """Rebuild the tokenizer from the file alone; returns what there is to tell about llama.cpp's own pattern."""
    read = gguf_tokenizer.read(gguf.values(gguf.open_file(path)))
    if (read.tokens, read.types, read.ids) != (expected.tokens, expected.types, expected.ids):
        raise MalmoiError(f"{path.name}: the vocabulary that was read back is not the one that was written.")
    texts = (*SAMPLES, *CASES)
    if expected.normalized:  # a file cannot say it, so it is done for the comparison
        texts = tuple(unicodedata.normalize("NFC", text) for text in texts)

    def ours(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    rebuilt = gguf_tokenizer.rebuild(read)
    _same_ids(lambda text: rebuilt.encode(text).ids, ours, texts)
    applied = gguf_tokenizer.rebuild(read, as_applied=True)
    differing = [text for text in texts if applied.encode(text).ids != ours(text)]
    if differing and not (read.cut and read.cut.note):
        raise MalmoiError(f"llama.cpp would cut {differing[0]!r} into other tokens than the model's own tokenizer.")
    return list(expected.notes)


def _same_ids(theirs: Callable[[str], list[int]], ours: Callable[[str], list[int]], texts: tuple[str, ...]) -> None:
    for text in texts:
        if theirs(text) != ours(text):
            raise MalmoiError(f"Read back, {text!r} becomes {theirs(text)[:8]} instead of {ours(text)[:8]}.")


@torch.no_grad()
def _compare_model(
    model: GPT4LMHeadModel, rounded: dict[str, torch.Tensor], again: GPT4LMHeadModel, tokenizer: GPT4Tokenizer
) -> dict[str, Any]:
    """Hold the reader's model against ours with equally rounded weights, and both against the unrounded one."""
    own = _filled(model, {key: value.float() for key, value in model.state_dict().items()})
    expected = _filled(model, rounded)
    exact = all(torch.equal(rounded[key], value) for key, value in again.state_dict().items())
    worst, divergence, losses, tokens = 0.0, 0.0, [0.0, 0.0], 0
    for text in SAMPLES:
        ids = torch.tensor([tokenizer.encode(text)[: min(_LONGEST, model.config.max_position_embeddings)]])
        before, ours, theirs = (one(ids).logits[0] for one in (own, expected, again))
        worst = max(worst, float((ours - theirs).abs().max()))
        for i, logits in enumerate((before, ours)):
            losses[i] += float(F.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))
        rows = before.log_softmax(-1), ours.log_softmax(-1)
        divergence += float((rows[0].exp() * (rows[0] - rows[1])).sum(-1).mean()) / len(SAMPLES)
        tokens += ids.shape[1] - 1
    if not exact or not worst <= TOLERANCE:
        raise MalmoiError(
            f"What was written does not give back the model: logits differ by {worst:.2g}"
            f"{'' if exact else ', and weights differ'}. Nothing was left behind; please report it."
        )
    loss, rounded_loss = (total / max(tokens, 1) for total in losses)
    return {
        "texts": len(SAMPLES),
        "difference": worst,
        "loss": loss,
        "rounded_loss": rounded_loss,
        "divergence": max(divergence, 0.0),
    }


def _filled(model: GPT4LMHeadModel, state: dict[str, torch.Tensor]) -> GPT4LMHeadModel:
    with torch.device("meta"):
        copy = GPT4LMHeadModel(model.config)
    copy.load_state_dict(state, strict=True, assign=True)
    copy.tie_weights()
    return copy.eval()


@torch.no_grad()
def _compare_transformers(folder: Path, model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer) -> str:
    """Open the folder in transformers too; says what was compared."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        return "transformers is not installed here, so it was not asked"
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)
    _same_ids(lambda text: ids(text)["input_ids"], tokenizer.encode, (*SAMPLES, *CASES))
    worst, scale = 0.0, 1.0
    for text in SAMPLES:
        row = torch.tensor([tokenizer.encode(text)[: min(_LONGEST, model.config.max_position_embeddings)]])
        logits = model(row).logits
        worst = max(worst, float((theirs(row).logits - logits).abs().max()))
        scale = max(scale, float(logits.abs().max()))
    if not worst <= TOLERANCE * scale:
        raise MalmoiError(
            f"transformers opens the folder but its logits differ by {worst:.2g}. Nothing was left behind."
        )
    return f"transformers opens it: logits within {worst:.1g}, the same token ids"
