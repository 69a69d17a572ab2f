"""DOCUMENTS -> IDS: a text, a conversation or texts and pictures in a row, each as ids and a loss mask.

After this nobody knows what a document was: the token file holds ids, and a byte for each that says whether the model
shall learn it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from malmoi.config import MalmoiError
from malmoi.data.corpus import Document
from malmoi.tokens import chat
from malmoi.tokens.interleave import encode_parts
from malmoi.tokens.picture import Picture


def hashed_text(document: Document) -> bytes:
    """The bytes that a document's hash is over, and whose number is its size."""
    text = document.text
    whole = document.messages if document.messages is not None else document.parts
    if whole is not None:
        text = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_picture_hash)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalmoiError(
            f"Document {document.id or document.source or '?'}: character {error.start} is half of a character "
            f"(a lone surrogate), which no file can hold."
        ) from None


def _picture_hash(picture: Picture) -> dict[str, str]:
    return {"picture": picture.digest()}


def encode(batch: list[Document], tokenizer: Any) -> tuple[list[Sequence[int]], list[Sequence[int] | None]]:
    """Ids of each document with its end-of-text token, and the loss mask of those that are not learned as a whole."""
    texts = [document.text for document in batch if document.messages is None and document.parts is None]
    plain, interleaved = iter(tokenizer.encode_batch(texts)), iter(_parts(batch, tokenizer))
    end_of_text = tokenizer.eos_token_id
    ids: list[Sequence[int]] = []
    masks: list[Sequence[int] | None] = []
    for document in batch:
        if document.parts is not None:
            row, mask = _interleaved(document, next(interleaved))
            ids.append([*row, end_of_text])
            masks.append([*mask, 1] if document.given else None)
            continue
        if document.messages is None:
            ids.append([*next(plain), end_of_text])
            masks.append(_learned(document, ids[-1], tokenizer) if document.given else None)
            continue
        try:
            rendered, mask = chat.render(tokenizer, document.messages)
        except MalmoiError as error:
            raise MalmoiError(f"Document {document.id or document.source or '?'}: {error}") from None
        rendered, mask = list(rendered), [int(bool(bit)) for bit in mask]
        if not rendered or rendered[-1] != end_of_text:
            rendered.append(end_of_text)
            mask.append(mask[-1] if mask else 0)  # learned where the last word was the model's own
        ids.append(rendered)
        masks.append(mask)
    return ids, masks


def _parts(batch: list[Document], tokenizer: Any) -> list[list[list[int]]]:
    """The ids of each part of each document that is made of parts: all together, which is many times faster."""
    documents = [document for document in batch if document.parts is not None]
    if not documents:
        return []
    try:
        rows = iter(encode_parts(tokenizer, [part for document in documents for part in document.parts or ()]))
        return [[next(rows) for _ in document.parts or ()] for document in documents]
    except MalmoiError:  # one of them cannot be read: which?
        for document in documents:
            try:
                encode_parts(tokenizer, document.parts or ())
            except MalmoiError as error:
                raise MalmoiError(f"Document {document.id or document.source or '?'}: {error}") from None
        raise


def _interleaved(document: Document, rows: list[list[int]]) -> tuple[list[int], list[int]]:
    """The ids of texts and pictures in a row, and their loss mask: 0 in given parts."""
    given = {part for start, end in document.given for part in range(start, end)}
    mask = [int(number not in given) for number, row in enumerate(rows) for _ in row]
    return [index for row in rows for index in row], mask


def _learned(document: Document, ids: Sequence[int], tokenizer: Any) -> Sequence[int]:
    """The loss mask of a text with given parts: 0 for tokens that begin in one."""
    control = set(tokenizer.special_tokens.values())  # one that begins every text, in some tokenizers, covers nothing
    mask, begin = [1] * len(ids), 0
    place = -int(tokenizer.adds_first_space)  # how many bytes of the text the tokens before have covered
    ends = [tuple(len(document.text[:edge].encode()) for edge in span) for span in document.given]
    for index, token in enumerate(ids[:-1]):
        while begin < len(ends) and max(place, 0) >= ends[begin][1]:
            begin += 1
        if begin == len(ends):
            break
        mask[index] = int(max(place, 0) < ends[begin][0])
        place += 0 if token in control else len(tokenizer.token_bytes(token))
    return mask
