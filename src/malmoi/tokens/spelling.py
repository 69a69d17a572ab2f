"""What a token is in bytes: the decoder that a `tokenizer.json` declares, read as data.

A piece of a vocabulary is not yet text. GPT-2's family writes every byte as one printable character (`Ġ` is a space).
Llama 2's writes a space as U+2581 and bytes without a piece of their own as `<0x0A>`. GPT-1's marks the last piece of a
word with `</w>`, where a space follows. Which it is stands in the decoder, a list of steps, and is read from there,
never from a name. Steps that are not known here are refused: a wrong guess would be garbled text.

Once every token is bytes, decoding is joining, in one go or one token at a time, and a character that was cut in two
can be waited for. Only the edges need care: Llama 2's text loses the space that its encoder put first, GPT-1's the
last one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from malmoi.config import MalmoiError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 bytes as themselves, the other 68 as U+0100, U+0101 ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


@dataclass(frozen=True)
class Spelling:
    """How the pieces of a vocabulary spell text.

    `strips_first_space`: the first space of a text is the encoder's and not the writer's. `strips_last_space`: the
    space after the last word is not there. Neither holds for a text that goes on from another.
    """

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()  # (what stands in the piece, what it means)
    strips_first_space: bool = False
    strips_last_space: bool = False

    def bytes_of(self, piece: str) -> bytes:
        """The bytes of one piece, a control token's too (those are mostly their own spelling)."""
        if self.byte_level:
            alphabet = byte_alphabet()
            try:
                return bytes([alphabet[character] for character in piece])
            except KeyError:  # an added token is spelt in plain text
                return piece.encode()
        if self.byte_fallback and (found := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(found[1], 16)])
        for written, meant in self.replacements:
            piece = piece.replace(written, meant)
        return piece.encode()


def spelling(tokenizer: Tokenizer) -> Spelling:
    """The spelling that a tokenizer's decoder declares. Raises `MalmoiError` for a decoder of another kind."""
    if tokenizer.decoder is None:
        raise MalmoiError("This tokenizer declares no decoder, so that nothing says how its tokens spell text.")
    state = json.loads(tokenizer.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
        return Spelling(byte_level=True)
    replacements: list[tuple[str, str]] = []
    first = last = False
    for index, step in enumerate(steps):
        match step:
            case {"type": "Replace", "pattern": {"String": written}, "content": meant}:
                replacements.append((written, meant))
            case {"type": "Metaspace", "replacement": written, "prepend_scheme": scheme}:
                replacements.append((written, " "))
                first = scheme != "never"
            case {"type": "BPEDecoder", "suffix": written}:
                replacements.append((written, " "))
                last = True
            case {"type": "Strip", "content": " ", "start": 0 | 1 as start, "stop": 0} if "Fuse" in kinds[:index]:
                first = bool(start)
            case {"type": "ByteFallback" | "Fuse"}:
                pass
            case _:
                raise MalmoiError(f"This tokenizer's decoder has a step that Malmoi does not know: {_shown(step)}.")
    return Spelling(
        byte_fallback="ByteFallback" in kinds,
        replacements=tuple(replacements),
        strips_first_space=first,
        strips_last_space=last,
    )


def _shown(step: Mapping[str, Any]) -> str:
    return f"{json.dumps(step, ensure_ascii=False):.120}"


class Pieces(dict[int, bytes]):
    """The bytes of each id from 0 to `size` - 1, found when they are first asked for; an id that no token has (a hole)
    is no bytes, and one outside raises `IndexError`."""

    def __init__(self, tokenizer: Tokenizer, size: int, spelt: Spelling) -> None:
        self._tokenizer, self._size, self._spelling = tokenizer, size, spelt

    def __missing__(self, index: int) -> bytes:
        if not 0 <= index < self._size:
            raise IndexError(index)
        piece = self._tokenizer.id_to_token(index)
        self[index] = found = b"" if piece is None else self._spelling.bytes_of(piece)
        return found
