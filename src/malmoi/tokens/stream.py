"""Tokens to text while they arrive: no broken character, no half of a stop string.

A byte-level token may end in the middle of a character: one Hangul syllable is three bytes, an emoji four, and a model
emits them as it pleases. `StreamDecoder` shows only what is whole. It holds back what is *certainly* incomplete: the
first bytes of a character, a joiner (U+200D) that waits for what it joins, one half of a flag. What merely *could* go
on (an emoji that another may be joined to, a letter that an accent may follow) is shown at once, since any text could
go on; the unit is the code point. So a family emoji appears as its first member and grows.

`StopScanner` does the same for stop strings: text that may be the beginning of one waits until it is clear.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable

from malmoi.config import MalmoiError

_JOINER = "\u200d"


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _whole_length(text: str) -> int:
    """How much of `text` may be shown: all but trailing joiners and an unpaired half of a flag."""
    end = len(text)
    while end and text[end - 1] == _JOINER:
        end -= 1
    start = end
    while start and _is_flag_half(text[start - 1]):
        start -= 1
    return end - (end - start) % 2


class StreamDecoder:
    """Text from tokens one at a time; the pieces joined are `decode` of all of them.

    `unfinished` holds the bytes of a character that has begun and is not whole. `finish` never shows them: a reply that
    a length limit cut inside a character ends before that character (`decode` would put U+FFFD there).
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        skip: Collection[int] = (),
        strip_first_space: bool = False,
        strip_last_space: bool = False,
        prefix: str = "",
    ) -> None:
        self._token_bytes = token_bytes
        self._skip = skip
        self._strip_first = strip_first_space
        self._strip_last = strip_last_space
        self._prefix = prefix  # text that waits for the first token, as the space between GPT-1's words does
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begin()

    def _begin(self) -> None:
        self._decoder.reset()
        self._held = self._prefix
        self._at_start = True

    @property
    def unfinished(self) -> bytes:
        """The bytes of a character that has begun: empty, or one to three bytes."""
        return self._decoder.getstate()[0]

    def push(self, token_id: int) -> str:
        """One more token; the text that can be shown now, often empty for a part of a character."""
        if token_id in self._skip:
            return ""
        text = self._decoder.decode(self._token_bytes(token_id))
        if self._at_start and text:
            text = text.removeprefix(" ") if self._strip_first else text
            self._at_start = False
        text = self._held + text
        length = _whole_length(text)
        if self._strip_last and text[:length].endswith(" "):
            length -= 1
        self._held = text[length:]
        return text[:length]

    def finish(self) -> str:
        """What was held back and is whole; the decoder is then ready for another text."""
        text = self._held.removesuffix(" ") if self._strip_last else self._held
        self._begin()
        return text


class StopScanner:
    """Watches streamed text for stop strings, across any borders between the pieces.

    The stop string that is complete first wins (of two that end together, the longer one): the same answer however the
    text was cut into pieces, and it never waits for a longer stop string once a shorter one is there.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        for index, stop in enumerate(self._stops):
            if not isinstance(stop, str) or not stop:
                raise MalmoiError(f"Stop string {index} is {stop!r}, but a stop string is a text that is not empty.")
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    @property
    def stopped(self) -> bool:
        return self.found is not None

    def push(self, text: str) -> tuple[str, bool]:
        """More text: what is safe to show, and whether a stop string was met (neither it nor what follows is shown)."""
        if self.found is not None:
            return "", True
        text = self._held + text
        matches = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            _, start, self.found = min(matches)
            self._held = ""
            return text[:start], True
        keep = self._overlap(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """The end of the text: what was held back turned out not to be a stop string."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, text: str) -> int:
        """The length of the longest end of `text` with which some stop string begins."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(len(stop) > length and text.endswith(stop[:length]) for stop in self._stops):
                return length
        return 0
