"""EMOJI -> DOCUMENTS: drawings in several styles with names in three languages; or any pictures with such labels.

A folder holds `labels.jsonl` (or .jsonl.xz), a record an emoji:

    {"id": "1f34e", "base": "1f34e", "subgroup": "food-fruit", "name_en": "red apple", "name_ko": "빨간 사과",
     "name_fr": "pomme rouge", "keywords_en": ["apple", "fruit", "red"], ...}

and for each style its pictures, `STYLE/ID.png` or packed as `STYLE.tar.xz`; pictures beside the labels are one style.
Everything but the id and the names may be left out.

What training never sees is a function of the emoji alone (`is_aside`): about a tenth of the emoji in all their styles
(those that the labels themselves mark as not for training, and one in twenty more), and of one in ten others one style,
to ask whether a thing is known again when another hand has drawn it. The variants of one emoji that differ in skin tone
alone are left out: they would be half of the data and say little.

Two drawings of each thing are few, so each is described turned, sheared, scaled and moved a little, too. None is
mirrored: left is not right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.data.archives import members
from malmoi.data.captions import LANGUAGES, Captioned, Variation, describing, drawing, varied
from malmoi.data.corpus import Document
from malmoi.data.records import json_records
from malmoi.data.streams import open_bytes, read_lines
from malmoi.tokens.picture import Picture

SECOND_STYLE = "emojitwo"  # of which some drawings are kept aside although training sees the emoji in the first style
VARIED = 3  # descriptions of each drawing in each language, varied, beside the one as it is
HANDS = Variation(turn=0.15, shear=0.08, scale=0.12, move=3)  # an arrow still points where it pointed
LICENSES = {"noto": "Apache-2.0", "emojitwo": "CC-BY-4.0"}  # of the drawings; of a person's own we know nothing


@dataclass(frozen=True, slots=True)
class Emoji:
    """One thing: its names and keywords by language, what kind of thing it is, and its drawings by style."""

    id: str
    names: Mapping[str, str]
    keywords: Mapping[str, tuple[str, ...]]
    kind: str
    aside: bool
    drawings: Mapping[str, Picture]

    def trained(self) -> dict[str, Picture]:
        """The drawings that training sees."""
        kept = {} if self.aside else self.drawings
        return {style: picture for style, picture in kept.items() if not self.second_style_aside(style)}

    def second_style_aside(self, style: str) -> bool:
        """Whether this drawing of a known emoji is kept aside: its other style is seen, this one is not."""
        return not self.aside and style == SECOND_STYLE and len(self.drawings) > 1 and _share("second", self.id) < 0.1


def documents(argument: str, seed: int = 0) -> Iterator[Document]:
    """The training documents of a folder: in every language each drawing is drawn once and described `1 + VARIED`
    times."""
    for emoji in read(argument):
        for style, picture in emoji.trained().items():
            id, license = f"emoji/{emoji.id}/{style}", LICENSES.get(style, "")
            item, pixels = Captioned(picture, emoji.names, id, license), np.asarray(picture.open())
            for language in LANGUAGES:
                yield describing(item, language)
                yield drawing(item, language, seed)
                for variant in range(1, VARIED + 1):
                    draw = randomness.generator(seed, f"emoji varied {id} {language}", variant)
                    made = Picture.of(varied(pixels, HANDS, draw))
                    yield describing(Captioned(made, emoji.names, f"{id}.{variant}", license), language)


def read(folder: str | Path) -> list[Emoji]:
    """All emoji of a folder that have a drawing, those kept aside too, in the order of the labels.

    Raises `MalmoiError` for a folder without labels or pictures and for a record without id or names, with its line.
    """
    folder = Path(folder).expanduser()
    labels = next((folder / name for name in ("labels.jsonl", "labels.jsonl.xz") if (folder / name).is_file()), None)
    if labels is None:
        raise MalmoiError(f"{folder}: holds no labels.jsonl (or labels.jsonl.xz), a record of names for each picture.")
    styles = _styles(folder)
    found = []
    with open_bytes(str(labels)) as stream:
        for number, record in json_records(read_lines(stream, str(labels)), str(labels)):
            if record.get("skin_tone"):
                continue
            emoji = _emoji(record, styles, f"{labels}: line {number}")
            found += [emoji] if emoji.drawings else []
    if not found:
        raise MalmoiError(
            f"{folder}: of no record in {labels.name} there is a picture ID.png, STYLE/ID.png or in a tar."
        )
    return found


def _styles(folder: Path) -> dict[str, dict[str, Picture]]:
    """Style -> id -> picture."""
    styles: dict[str, dict[str, Picture]] = {}
    for archive in sorted(folder.glob("*.tar*")):
        style = archive.name.split(".")[0]
        if not style.endswith("skin_tones"):
            found = {Path(name).stem: Picture(data) for name, data in members(archive)}
            styles[re.sub(r"_\d+$", "", style)] = found
    for place in sorted({path.parent for path in folder.glob("*.png")} | {p.parent for p in folder.glob("*/*.png")}):
        styles[place.name] = {path.stem: Picture(path) for path in sorted(place.glob("*.png"))}
    return styles


def _emoji(record: Mapping[str, Any], styles: Mapping[str, Mapping[str, Picture]], where: str) -> Emoji:
    id = record.get("id")
    names = {language: record.get(f"name_{language}") for language in LANGUAGES}
    missing = [f"name_{language}" for language, name in names.items() if not isinstance(name, str) or not name]
    if not isinstance(id, str) or missing:
        raise MalmoiError(f"{where}: has no {', '.join(missing) or 'id'} (texts).")
    base = str(record.get("base") or id)
    return Emoji(
        id=id,
        names={language: str(name) for language, name in names.items()},
        keywords={language: tuple(map(str, record.get(f"keywords_{language}") or ())) for language in LANGUAGES},
        kind=str(record.get("subgroup") or ""),
        aside=is_aside(base, str(record.get("split") or "train")),
        drawings={style: pictures[id] for style, pictures in styles.items() if id in pictures},
    )


def is_aside(base: str, split: str = "train") -> bool:
    """Whether training never sees this emoji, in any style."""
    return split != "train" or _share("emoji", base) < 0.05


def _share(purpose: str, name: str) -> float:
    digest = hashlib.blake2b(f"malmoi emoji {purpose} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
