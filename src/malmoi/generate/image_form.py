"""Pictures, once begun, are whole: the constraint that a vocabulary with pictures always brings.

A picture is a fixed number of tokens: its beginning, the grid's size, the codes row by row, its end. A model that was
trained on pictures nearly always writes them so; "nearly" would now and then be half a picture that nobody can paint.
So inside a picture only what comes next is allowed, outside only its beginning, and that only where the rest has room.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError
from malmoi.tokens.interleave import ImageIds


class Matcher(Protocol):
    """How far one sequence has come in a rule for what may be written."""

    @property
    def complete(self) -> bool:
        """Whether the text is accepted as it is and nothing can follow."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (V,)."""
        ...

    def consume(self, token: int) -> None:
        """The token was written."""
        ...

    def copy(self) -> Matcher:
        """The same state, to go another way from here."""
        ...


class ImageForm:
    """Whole pictures only, and outside of them what `text` (another matcher) allows.

    `room` is how many tokens may still be written, `inside` how many of an unfinished picture the prompt ends with.
    """

    def __init__(self, ids: ImageIds, vocab_size: int, room: int, inside: int = 0, text: Matcher | None = None) -> None:
        if inside and room < ids.length - inside:
            raise MalmoiError(
                f"The prompt has begun a picture that needs {ids.length - inside} more tokens, but only {room} may be "
                f"written. Set max_new_tokens to {ids.length - inside} or more."
            )
        self.ids, self.vocab_size, self.room, self.inside, self.text = ids, vocab_size, room, inside, text

    @property
    def complete(self) -> bool:
        return not self.inside and self.text is not None and self.text.complete

    def allowed(self) -> NDArray[np.bool_]:
        ids = self.ids
        codes = slice(ids.first, ids.first + ids.count)
        if not self.inside:
            allowed = np.ones(self.vocab_size, dtype=bool) if self.text is None else self.text.allowed().copy()
            allowed[[ids.end, ids.size]] = False
            allowed[codes] = False
            allowed[ids.begin] &= self.room >= ids.length
            return allowed
        allowed = np.zeros(self.vocab_size, dtype=bool)
        allowed[ids.size if self.inside == 1 else ids.end if self.inside == ids.length - 1 else codes] = True
        return allowed

    def consume(self, token: int) -> None:
        self.room -= 1
        if self.inside:
            self.inside = (self.inside + 1) % self.ids.length
        elif token == self.ids.begin:
            self.inside = 1
        elif self.text is not None:
            self.text.consume(token)

    def copy(self) -> ImageForm:
        text = self.text.copy() if self.text is not None else None
        return ImageForm(self.ids, self.vocab_size, self.room, self.inside, text)
