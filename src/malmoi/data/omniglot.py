"""Omniglot -> DOCUMENTS: characters of the world's alphabets, each written by twenty hands (Lake et al., 2015).

A zip (or a folder with zips) holds one-bit pictures as `.../ALPHABET/characterNN/XXXX_YY.png`, YY being the hand. A
caption names the alphabet and the character's number. The drawings of two of the twenty hands are kept aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data.archives import members
from malmoi.data.captions import LANGUAGES, Captioned, describing, drawing
from malmoi.data.corpus import Document
from malmoi.tokens.picture import Picture

LICENSE = "MIT"
HANDS_ASIDE = (19, 20)
_PLACE = re.compile(r"(?:.*/)?([^/]+)/character(\d+)/\d+_(\d+)\.png")
_NAMES = {  # alphabet -> Korean, French (masculine: un caractère ...)
    "Balinese": ("발리", "balinais"),
    "Early_Aramaic": ("고대 아람", "araméen ancien"),
    "Greek": ("그리스", "grec"),
    "Korean": ("한국", "coréen"),
    "Latin": ("라틴", "latin"),
}


def documents(argument: str, seed: int = 0) -> Iterator[Document]:
    """The training documents of an archive: each drawing to describe, and to draw, in one language each."""
    for number, item in enumerate(read(argument, "train")):
        languages = [LANGUAGES[randomness.key(seed, "omniglot language", number, i) % 3] for i in range(2)]
        yield describing(item, languages[0])
        yield drawing(item, languages[1], seed)


def read(place: str | Path, part: str) -> Iterator[Captioned]:
    """The drawings of the part "train", or of "aside", what training never sees."""
    place = Path(place).expanduser()
    archives = sorted(place.glob("*.zip")) if place.is_dir() else [place]
    if not archives:
        raise MalmoiError(f"{place}: holds no .zip of characters.")
    for archive in archives:
        count = 0
        for name, data in members(archive):
            if (found := _PLACE.fullmatch(name)) is None:
                continue
            count += 1
            alphabet, character, hand = found[1], int(found[2]), int(found[3])
            if (hand in HANDS_ASIDE) == (part == "aside"):
                yield Captioned(Picture(data), captions(alphabet, character), f"omniglot/{name}", LICENSE)
        if not count:
            raise MalmoiError(f"{archive}: holds no picture ALPHABET/characterNN/XXXX_YY.png.")


def captions(alphabet: str, character: int) -> dict[str, str]:
    """What a character is called. An alphabet without a translation keeps its English name."""
    english = alphabet.replace("_", " ")
    korean, french = _NAMES.get(alphabet, (english, english))
    return {
        "en": f"{english} character {character}",
        "ko": f"{korean} 문자 {character}번",
        "fr": f"caractère {french} {character}",
    }
