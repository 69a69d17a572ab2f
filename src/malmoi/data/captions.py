"""PICTURES WITH CAPTIONS -> DOCUMENTS: what is taught about a picture that has a name in several languages.

The same pair teaches two ways. To *describe*: the picture and the language are given, the caption is learned. To
*draw*: the caption comes first and everything is learned, the picture's tokens too. One drawing in ten has no caption,
so that the model also knows what pictures look like when nothing was asked for; classifier-free guidance compares with
that (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022).

A picture is sixty-odd tokens that are given and a caption is five that are learned, so one description for each drawing
would teach little reading. A picture is therefore described several times, `varied` a little, and drawn as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from malmoi import randomness
from malmoi.data.corpus import Document
from malmoi.tokens.picture import Picture, pillow

LABELS = {"en": "English: ", "ko": "한국어: ", "fr": "Français: "}  # what stands between a picture and its caption
LANGUAGES = tuple(LABELS)
WITHOUT_CAPTION = 0.1


@dataclass(frozen=True, slots=True)
class Variation:
    """How far a picture may be turned (radians), sheared, scaled (a share) and moved (pixels) and still be the same."""

    turn: float
    shear: float
    scale: float
    move: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture and what it is called: language ("en", "ko", "fr") -> caption."""

    picture: Picture
    captions: Mapping[str, str]
    id: str
    license: str = ""


def describing(item: Captioned, language: str) -> Document:
    """The document that teaches to describe the picture in a language."""
    parts = (item.picture, LABELS[language], item.captions[language])
    return Document(parts=parts, given=((0, 2),), id=f"{item.id}/describe/{language}", license=item.license)


def drawing(item: Captioned, language: str, seed: int = 0) -> Document:
    """The document that teaches to draw the picture; a function of the item's id, the language and the seed."""
    if randomness.uniform(seed, f"caption left out {item.id} {language}") < WITHOUT_CAPTION:
        return Document(parts=(item.picture,), id=f"{item.id}/draw", license=item.license)
    parts = (item.captions[language], item.picture)
    return Document(parts=parts, id=f"{item.id}/draw/{language}", license=item.license)


def varied(pixels: np.ndarray, variation: Variation, draw: np.random.Generator) -> np.ndarray:
    """The picture (H, W, 3) uint8 turned, sheared, scaled and moved by chance, white where nothing was."""
    height, width, _ = pixels.shape
    angle, shear = draw.uniform(-variation.turn, variation.turn), draw.uniform(-variation.shear, variation.shear)
    scale = draw.uniform(1 - variation.scale, 1 + variation.scale, 2)
    move = draw.uniform(-variation.move, variation.move, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)  # output -> input
    middle = np.array([width, height]) / 2
    offset = middle - matrix @ (middle + move)
    image_module = pillow()
    moved = image_module.fromarray(pixels).transform(
        (width, height),
        image_module.Transform.AFFINE,
        (*matrix[0], offset[0], *matrix[1], offset[1]),
        image_module.Resampling.BILINEAR,
        fillcolor="white",
    )
    return np.asarray(moved)
