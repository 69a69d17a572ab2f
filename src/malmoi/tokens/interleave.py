"""Texts and pictures as one stream of ids, and a stream as texts and pictures again.

In the vocabulary the ids of pictures come after those of texts, as control tokens that no text can produce:

    <|begin_of_image|> <|end_of_image|> <|grid_8x8|> <|image_0|> <|image_1|> ...

and one picture of 8 x 8 cells is 67 tokens, its codes row by row:

    <|begin_of_image|> <|grid_8x8|> <|image_741|> ... <|image_12|> <|end_of_image|>

The model needs to know nothing of this: it predicts the next id. `ImageIds` is where everybody else looks it up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from malmoi.config import MalmoiError
from malmoi.tokens.picture import Picture

if TYPE_CHECKING:
    from PIL import Image

    from malmoi.tokens.image import ImageTokenizer
    from malmoi.tokens.tokenizer import GPT4Tokenizer

FOLDER = "image_tokenizer"  # beside tokenizer.json
BEGIN, END = "<|begin_of_image|>", "<|end_of_image|>"
_GRID = re.compile(r"<\|grid_(\d{1,3})x\1\|>")


def spellings(grid: int, codebook_size: int) -> list[str]:
    """The control tokens of pictures, in the order of their ids."""
    return [BEGIN, END, f"<|grid_{grid}x{grid}|>", *(f"<|image_{code}|>" for code in range(codebook_size))]


@dataclass(frozen=True, slots=True)
class ImageIds:
    """Where pictures stand in a vocabulary: `begin`, `end` and `size` (the grid's) are ids; codes are `first` to
    `first + count - 1`; `grid` is the number of cells on a side."""

    begin: int
    end: int
    size: int
    first: int
    count: int
    grid: int

    @property
    def length(self) -> int:
        """Tokens of a whole picture, its frame included."""
        return self.grid**2 + 3

    @staticmethod
    def of(special_tokens: Mapping[str, int]) -> ImageIds | None:
        """The ids of pictures among a tokenizer's control tokens; None where it has none."""
        found = next((match for match in map(_GRID.fullmatch, special_tokens) if match), None)
        if found is None or not {BEGIN, END, "<|image_0|>"} <= special_tokens.keys():
            return None
        first, count = special_tokens["<|image_0|>"], 0
        while special_tokens.get(f"<|image_{count}|>") == first + count:
            count += 1
        return ImageIds(
            special_tokens[BEGIN], special_tokens[END], special_tokens[found[0]], first, count, int(found[1])
        )

    def framed(self, codes: np.ndarray) -> list[int]:
        """A grid of codes (G, G) as the tokens of a whole picture."""
        return [self.begin, self.size, *(codes.ravel() + self.first).tolist(), self.end]

    def may_stand(self, place: int, token: int) -> bool:
        """Whether this may be token number `place` of a picture, its beginning being number 0."""
        frame = {0: self.begin, 1: self.size, self.length - 1: self.end}
        return token == frame[place] if place in frame else self.first <= token < self.first + self.count

    def unfinished(self, ids: Sequence[int]) -> int | None:
        """How many tokens of a picture stand at the end of `ids`, its beginning included; None outside of pictures.

        Raises `MalmoiError` where those are no beginning of a picture.
        """
        last = next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in (self.begin, self.end)), None)
        if last is None or ids[last] == self.end:
            return None
        inside = ids[last:]
        codes = inside[2:]
        if (
            len(inside) >= self.length
            or (len(inside) > 1 and inside[1] != self.size)
            or any(not self.first <= code < self.first + self.count for code in codes)
        ):
            raise MalmoiError(
                f"The prompt ends in a picture that is not well-formed: after {BEGIN} come the grid's size and "
                f"{self.grid**2} codes. Make it with the tokenizer's own encode_parts."
            )
        return len(inside)


def with_images(tokenizer: GPT4Tokenizer, image_tokenizer: ImageTokenizer) -> GPT4Tokenizer:
    """A tokenizer with the ids of pictures after its own; every text keeps its ids."""
    from tokenizers import AddedToken, Tokenizer  # here, since all who generate import this file

    from malmoi.tokens.tokenizer import GPT4Tokenizer

    if tokenizer.images is not None:
        raise MalmoiError("This tokenizer knows pictures already; their ids cannot change.")
    more = Tokenizer.from_str(tokenizer._tokenizer.to_str())
    names = spellings(image_tokenizer.grid, image_tokenizer.codebook_size)
    more.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    made = GPT4Tokenizer(more, tokenizer._settings, tokenizer.chat_template)
    made.image_tokenizer = image_tokenizer
    return made


def encode_parts(tokenizer: GPT4Tokenizer, parts: Sequence[str | Picture]) -> list[list[int]]:
    """The ids of each part: texts by the tokenizer, pictures by its image tokenizer.

    Raises `MalmoiError` for pictures where the tokenizer knows none.
    """
    texts = [part for part in parts if isinstance(part, str)]
    pictures = [part for part in parts if not isinstance(part, str)]
    rows = {"text": iter(tokenizer.encode_batch(texts, add_special_tokens=False)), "picture": iter(())}
    if pictures:
        if tokenizer.images is None or tokenizer.image_tokenizer is None:
            raise MalmoiError(
                "There is a picture here, but this model's tokenizer knows only text. Train one with pictures (see "
                "docs/pictures.md), or leave the picture out."
            )
        grids = tokenizer.image_tokenizer.encode_pictures(pictures)
        rows["picture"] = iter([tokenizer.images.framed(grid) for grid in grids])
    return [next(rows["text" if isinstance(part, str) else "picture"]) for part in parts]


def decode_parts(tokenizer: GPT4Tokenizer, ids: Any) -> list[str | Image.Image]:
    """A stream of ids (T,) as texts and Pillow pictures, in order; other control tokens are left out.

    Raises `MalmoiError` for a picture that is not whole.
    """
    values = [int(index) for index in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    return list(_decoded(tokenizer, values))


def _decoded(tokenizer: GPT4Tokenizer, ids: list[int]) -> Iterator[str | Image.Image]:
    known = tokenizer.images
    start = 0
    while start < len(ids):
        place = ids.index(known.begin, start) if known is not None and known.begin in ids[start:] else len(ids)
        if text := tokenizer.decode(ids[start:place], skip_special_tokens=True):
            yield text
        start = place
        if known is not None and place < len(ids):
            start += known.length
            codes = np.array(ids[place + 2 : start - 1]) - known.first
            inside = len(codes) == known.grid**2 and 0 <= codes.min() <= codes.max() < known.count
            if not inside or ids[place:start] != known.framed(codes):
                raise MalmoiError(
                    f"The picture that begins at token {place} is not whole: {known.length} tokens belong to one."
                )
            assert tokenizer.image_tokenizer is not None
            yield tokenizer.image_tokenizer.decode(codes)
