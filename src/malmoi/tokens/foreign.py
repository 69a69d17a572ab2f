"""Reading `tokenizer.json`, whoever wrote it: what its tokens are in bytes, and which ones text must never reach.

Two families are read. *Byte-level* BPE (GPT-2, Llama 3, Qwen, ours) spells each byte as one printable character.
*Llama 2's* BPE spells a space as U+2581 and falls back to tokens named `<0x0A>` for bytes that it has no character for.
Both are told apart by the decoder that the file declares, never by a name.

A control token is what the file declares as `special`; added tokens that it declares as ordinary (Qwen's `<think>`) are
words like any other, which text may spell.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from malmoi.config import MalmoiError
from malmoi.tokens import folder as files

_ROLES = ("eos_token", "bos_token", "pad_token")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def load(folder: Path) -> tuple[Tokenizer, dict[str, Any], str | None]:
    """The library's tokenizer, the settings (with eos, bos and pad found) and the chat template of a folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MalmoiError(f"{path}: there is no such file, so that {folder} holds no tokenizer that Malmoi can read.")
    description = files.read_json(path)
    tokenizer = _build(path, description)
    settings = _settings(folder, tokenizer)
    template = settings.pop("chat_template", None)
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if (folder / "chat_template.jinja").is_file():
        template = files.read_text(folder / "chat_template.jinja")
    return tokenizer, settings, template if isinstance(template, str) else None


def _build(path: Path, description: dict[str, Any]) -> Tokenizer:
    model = description.get("model")
    kind = model.get("type", "BPE" if "merges" in model else None) if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise MalmoiError(
            f"{path}: holds a {kind or 'missing'} model; Malmoi reads BPE tokenizers (GPT-2, Llama, Qwen ...)."
        )
    try:
        changed = _protect(path, description, model)
        text = json.dumps(description, ensure_ascii=False) if changed else files.read_text(path)
        return Tokenizer.from_str(text)
    except MalmoiError:
        raise
    except Exception as error:  # the library raises bare Exception; a shape that is not its own breaks _protect
        raise MalmoiError(f"{path}: is JSON, but not a tokenizer: {error}. The file is damaged.") from None


def _protect(path: Path, description: dict[str, Any], model: dict[str, Any]) -> bool:
    """Take away the merges whose product spells a control token; say whether there were any.

    With them gone, no text can become a control token: BPE gives single characters (or bytes) and what merges make of
    them. Some converted vocabularies have such merges; only texts that spell the control token are affected.
    """
    control = {token["content"] for token in description.get("added_tokens", ()) if token.get("special")}
    if model.get("ignore_merges") and any(content in model["vocab"] for content in control):
        raise MalmoiError(
            f"{path}: looks whole words up in a vocabulary that holds control tokens (ignore_merges), so that a text "
            f"could become one. Malmoi does not load such a tokenizer."
        )

    def product(merge: Any) -> str:
        return "".join(merge.split(" ", 1) if isinstance(merge, str) else merge)

    kept = [merge for merge in model["merges"] if product(merge) not in control]
    if len(kept) == len(model["merges"]):
        return False
    model["merges"] = kept
    return True


def _settings(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """`tokenizer_config.json`, completed from the places where older folders name eos, bos and pad."""
    path = folder / "tokenizer_config.json"
    settings = files.read_json(path) if path.is_file() else {}
    if any(settings.get(role) is None for role in _ROLES) and (folder / "special_tokens_map.json").is_file():
        older = files.read_json(folder / "special_tokens_map.json")
        settings.update({role: older[role] for role in _ROLES if settings.get(role) is None and older.get(role)})
    if settings.get("eos_token") is None and (folder / "config.json").is_file():
        index = files.read_json(folder / "config.json").get("eos_token_id")
        index = index[0] if isinstance(index, list) and index else index
        content = tokenizer.id_to_token(index) if isinstance(index, int) and index >= 0 else None
        if content is not None:
            settings["eos_token"] = content
    if settings.get("eos_token") is None:
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        known = [name for name in ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>") if name in special]
        if not known:
            raise MalmoiError(
                f"{path}: {'names no eos_token' if path.is_file() else 'there is no such file'}, and nothing else in "
                f"{folder} says which token ends a text. Add "
                f'{{"eos_token": "..."}} to it.'
            )
        settings["eos_token"] = known[0]
    for role in _ROLES:
        value = settings.get(role)
        content = value.get("content") if isinstance(value, dict) else value
        if content is not None and (not isinstance(content, str) or tokenizer.token_to_id(content) is None):
            raise MalmoiError(f"{path}: {role} is {content!r}, but tokenizer.json has no such token.")
    return settings


# -------------------------------------------------------------------- tokens in bytes


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 bytes as themselves, the other 68 as U+0100, U+0101 ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _decoder_types(tokenizer: Tokenizer) -> set[str]:
    """The names of the steps of the decoder that the file declares."""
    decoder = tokenizer.decoder
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {step["type"] for step in (state, *state.get("decoders", ()))}


def token_bytes_table(tokenizer: Tokenizer, size: int) -> list[bytes]:
    """The bytes of each id from 0 to `size` - 1."""
    steps = _decoder_types(tokenizer)
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    alphabet = byte_alphabet()

    def of(index: int) -> bytes:
        piece = tokenizer.id_to_token(index)
        if piece is None:
            return b""
        if index in added:
            return added[index].encode()
        if "ByteLevel" in steps:
            return (
                bytes(alphabet[character] for character in piece) if set(piece) <= alphabet.keys() else piece.encode()
            )
        if "ByteFallback" in steps and (found := _BYTE_TOKEN.fullmatch(piece)):
            return bytes([int(found[1], 16)])
        return piece.replace("\u2581", " ").encode() if steps else piece.encode()

    return [of(index) for index in range(size)]


def strips_first_space(tokenizer: Tokenizer) -> bool:
    """Whether the decoder drops the space that the encoder put before the first word (Llama 2's habit)."""
    if "ByteLevel" in _decoder_types(tokenizer):
        return False
    index = tokenizer.token_to_id("\u2581")
    return index is not None and tokenizer.decode([index, index]) == " "
