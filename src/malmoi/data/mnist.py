"""MNIST -> DOCUMENTS: handwritten digits with the digit's name in three languages.

A folder holds the usual IDX files (LeCun, Cortes & Burges), packed or not: `train-images-idx3-ubyte[.gz]`,
`train-labels-idx1-ubyte[.gz]`, and the same for a part that is kept aside, called `valid-` or `t10k-`. A digit becomes
a picture of 32 x 32 pixels, ink on white.

Eight thousand digits are few. So each is described several times, turned, sheared, scaled and moved a little as other
hands would have written it; it is drawn as it is.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data.captions import LANGUAGES, Captioned, Variation, describing, drawing, varied
from malmoi.data.corpus import Document
from malmoi.tokens.picture import Picture

SIDE = 32
VARIED = 11  # documents of each digit as other hands would have written it, beside the one as it is
HANDS = Variation(turn=0.26, shear=0.2, scale=0.12, move=2)
LICENSE = "CC-BY-SA-3.0"
CAPTIONS = {
    "en": [f"the digit {w}" for w in ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]],
    "ko": [f"숫자 {w}" for w in ["영", "일", "이", "삼", "사", "오", "육", "칠", "팔", "구"]],
    "fr": [f"le chiffre {w}" for w in ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"]],
}
_MAX_BYTES = 2**28


def documents(argument: str, seed: int = 0) -> Iterator[Document]:
    """The training documents of a folder: for each digit one to draw it and `1 + VARIED` to describe it."""
    pixels, digits = read(argument, "train")
    for number, (picture, digit) in enumerate(zip(pixels, digits, strict=True)):
        captions = {language: CAPTIONS[language][digit] for language in LANGUAGES}
        languages = [LANGUAGES[randomness.key(seed, "mnist language", number, i) % 3] for i in range(VARIED + 2)]
        whole = Captioned(Picture.of(picture), captions, f"mnist/{number}", LICENSE)
        yield drawing(whole, languages[-1], seed)
        yield describing(whole, languages[0])
        for variant in range(1, VARIED + 1):
            made = Picture.of(varied(picture, HANDS, randomness.generator(seed, "mnist varied", number, variant)))
            yield describing(Captioned(made, captions, f"mnist/{number}.{variant}", LICENSE), languages[variant])


def read(folder: str | Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 32, 32, 3) uint8 and digits (N,) of the part "train", or of "aside", what training never sees.

    Raises `MalmoiError` for files that are missing, damaged, or do not belong together.
    """
    folder = Path(folder).expanduser()
    images, labels = (_find(folder, part, kind) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    grey, digits = idx(images, 3), idx(labels, 1)
    if len(grey) != len(digits) or grey.shape[1] > SIDE or grey.shape[2] > SIDE or (digits > 9).any():
        raise MalmoiError(
            f"{images}: has {len(grey)} pictures of {grey.shape[1]} x {grey.shape[2]}; {labels.name} has {len(digits)} "
            f"labels. They must be as many, at most {SIDE} pixels on a side, with labels 0 to 9."
        )
    top, left = (SIDE - grey.shape[1]) // 2, (SIDE - grey.shape[2]) // 2
    ink = np.zeros((len(grey), SIDE, SIDE), np.uint8)
    ink[:, top : top + grey.shape[1], left : left + grey.shape[2]] = grey
    return np.repeat((255 - ink)[..., None], 3, axis=-1), digits.astype(np.int64)


def _find(folder: Path, part: str, kind: str) -> Path:
    names = ["train"] if part == "train" else ["valid", "t10k"]
    tried = [folder / f"{name}-{kind}{packed}" for name in names for packed in (".gz", "")]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise MalmoiError(f"{folder}: holds none of {', '.join(path.name for path in tried)}.")
    return found


def idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: zero, zero, 8, the number of dimensions, their sizes (big-endian), the bytes."""
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            data = file.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise MalmoiError(f"{path}: cannot be read ({error}).") from None
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes([0, 0, 8, dimensions]):
        raise MalmoiError(f"{path}: is not an IDX file of unsigned bytes in {dimensions} dimension(s).")
    shape = tuple(int(size) for size in np.frombuffer(data[4:head], ">u4"))
    needed = int(np.prod(shape, dtype=object))
    if needed != len(data) - head:
        raise MalmoiError(f"{path}: says {' x '.join(map(str, shape))}, but holds {len(data) - head:,} bytes.")
    return np.frombuffer(data[head:], np.uint8).reshape(shape)
