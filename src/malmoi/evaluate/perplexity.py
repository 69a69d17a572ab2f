"""How well does a model predict a text? Bits per byte, and the perplexities that are the same number in other clothes.

A model that predicts well can compress: an ideal coder led by it spends -log2 p(token) bits on each token. Divided by
the text's bytes (UTF-8) this is *bits per byte*, which does not depend on how a tokenizer cuts the text and so may be
compared between models; perplexity per token may not. 8 is a model that knows nothing, about 1 is good.

The protocol, which is also the one of the held-out measure during training:

- each document is read by itself, followed by the end-of-text token; nothing of one document is seen in another;
- a document's first token has nothing before it to be predicted from: it is read, not scored, and its bytes do not
  count (where a tokenizer begins texts with a token of its own, that one is the first, and all of the text is scored);
- the end-of-text token is scored, since knowing where a text ends is part of predicting it, and has no bytes;
  `count_eos=False` leaves it out, which is how bits per byte of long files are often quoted;
- a document longer than the context is read in windows that overlap by half: every token is scored exactly once, and
  after the first window with at least half a context before it;
- of a conversation, only what the model would say (the assistant's words) is scored.

Shapes: B windows, T tokens of the longest, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from malmoi.config import MalmoiError
from malmoi.data.corpus import Document
from malmoi.generate.backend import Backend
from malmoi.tokens import chat

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

BATCH_TOKENS = 4096  # read in one pass
_AHEAD = 256  # documents encoded together and sorted by length
_LOGITS = 1 << 22  # numbers of logits held at a time: 16 MiB


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A document as the model reads it: its ids, and which of them are scored."""

    ids: list[int]
    scored: list[bool]
    words: int


def bits_per_byte(
    model: GPT4LMHeadModel | Backend,
    tokenizer: GPT4Tokenizer,
    documents: Iterable[Document | str],
    *,
    count_eos: bool = True,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float | int]:
    """Measure a model, or the backend of an engine, on documents (texts or `Document`s) by the protocol above.

    Returns `bits_per_byte`, `loss` (nats a token), `perplexity` (per token), `perplexity_per_byte`,
    `perplexity_per_word` (words are what spaces separate; an agglutinating language has few and long ones), and what
    was counted: `tokens`, `bytes`, `words` (all of what was scored), `documents` (empty ones are passed over).
    `progress(documents, bytes)` is called now and then. Memory does not grow with the number of documents.

    Raises `MalmoiError` when there is nothing to score, for what is no text, and when the model predicts NaN.
    """
    if isinstance(documents, str):
        documents = [documents]
    special = frozenset(tokenizer.special_tokens.values())
    sizes = [0 if token in special else len(tokenizer.token_bytes(token)) for token in range(len(tokenizer))]
    reader = _TorchReader(model) if isinstance(model, torch.nn.Module) else _BackendReader(model)
    _require_fit(reader.vocab_size, sizes)
    nats, tokens, size, words, read = 0.0, 0, 0, 0, 0
    with reader.reading():
        for sequences in _sequences(tokenizer, documents, special, count_eos):
            read += len(sequences)
            words += sum(sequence.words for sequence in sequences)
            for ids, targets in _batches(sequences, reader.context, batch_tokens):
                nats += reader.nats(ids, targets)
                found = targets[targets >= 0].tolist()
                tokens += len(found)
                size += sum(sizes[token] for token in found)
            if progress is not None:
                progress(read, size)
    if not tokens or not size:
        raise MalmoiError(
            f"There is nothing to measure: {read} document{'s' * (read != 1)} with text were given, and none has two "
            "tokens, of which the second could be predicted from the first. Give more text."
        )
    if not math.isfinite(nats):
        raise MalmoiError("The model predicts NaN: its weights or activations are broken. Load an earlier checkpoint.")
    return {
        "bits_per_byte": nats / math.log(2) / size,
        "loss": nats / tokens,
        "perplexity": _exp(nats / tokens),
        "perplexity_per_byte": _exp(nats / size),
        "perplexity_per_word": _exp(nats / max(words, 1)),
        "tokens": tokens,
        "bytes": size,
        "words": words,
        "documents": read,
    }


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _require_fit(vocab_size: int, sizes: Sequence[int]) -> None:
    if len(sizes) > vocab_size:
        raise MalmoiError(
            f"The tokenizer has {len(sizes)} tokens, but the model's vocabulary only {vocab_size}. "
            "Use the tokenizer that was saved with the model."
        )


# ------------------------------------------------------------------- documents -> ids


def _sequences(
    tokenizer: GPT4Tokenizer, documents: Iterable[Document | str], special: frozenset[int], count_eos: bool
) -> Iterator[list[_Sequence]]:
    """Some hundred documents at a time, encoded."""
    stream = iter(documents)
    number = 0
    while some := list(islice(stream, _AHEAD)):
        ready: list[_Sequence | None] = [None] * len(some)
        texts: list[tuple[int, str]] = []
        for place, document in enumerate(some):
            number += 1
            if isinstance(document, Document) and document.parts is not None:
                raise MalmoiError(f"Document {document.id or number} holds pictures; bits per byte are of text alone.")
            if isinstance(document, Document) and document.messages is not None:
                ids, mask = chat.render(tokenizer, document.messages)
                if any(mask):
                    words = sum(
                        len(text.split()) for role, text in chat.checked(document.messages) if role == "assistant"
                    )
                    scored = [
                        bool(said) and (count_eos or token not in special)
                        for token, said in zip(ids, mask, strict=True)
                    ]
                    ready[place] = _Sequence(ids, scored, words)
                continue
            text = document.text if isinstance(document, Document) else document
            if not isinstance(text, str):
                raise MalmoiError(f"Document {number} is {type(text).__name__}, not a text: {text!r:.80}")
            if text:
                texts.append((place, text))
        encoded = tokenizer.encode_batch([text for _, text in texts])
        for (place, text), ids in zip(texts, encoded, strict=True):
            ready[place] = _of_text(tokenizer, text, ids, special, count_eos)
        yield [sequence for sequence in ready if sequence is not None]


def _of_text(
    tokenizer: GPT4Tokenizer, text: str, ids: list[int], special: frozenset[int], count_eos: bool
) -> _Sequence:
    eos = tokenizer.eos_token_id
    unscored = b"" if ids[0] in special else tokenizer.token_bytes(ids[0])
    words = len(text.encode()[len(unscored) :].decode("utf-8", "ignore").split())
    if eos is None or not count_eos:
        return _Sequence(ids, [True] * len(ids), words)
    return _Sequence([*ids, eos], [True] * (len(ids) + 1), words)


# ------------------------------------------------------------------- ids -> windows -> batches


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """How a sequence of `length` ids is read: (start, end, first) triples.

    ids[start : end] are read, ids[first : end + 1] are scored by them (id t from what stands before t). Together the
    scored parts are ids 1 to length - 1, each exactly once. Windows overlap by half a context; the last one is moved
    back to be full.
    """
    first = 1
    while first < length:
        end = min(length - 1, context if first == 1 else first - 1 + (context + 1) // 2)
        yield max(0, end - context), end, first
        first = end + 1


def _batches(sequences: Sequence[_Sequence], context: int, batch_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of similar length together: ids (B, T), and the id to predict at each place (B, T), -1 where none is."""
    parts = sorted(
        (
            (sequence, *window)
            for sequence in sequences
            for window in windows(len(sequence.ids), context)
            if any(sequence.scored[window[2] : window[1] + 1])
        ),
        key=lambda part: part[2] - part[1],
        reverse=True,
    )
    begin = 0
    while begin < len(parts):
        width = parts[begin][2] - parts[begin][1]
        rows = parts[begin : begin + max(1, batch_tokens // width)]
        begin += len(rows)
        # padding stands on the right: no real token looks that way, so no mask is needed
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        targets = torch.full((len(rows), width), -1)
        for row, (sequence, start, end, first) in enumerate(rows):
            ids[row, : end - start] = torch.tensor(sequence.ids[start:end])
            wanted = torch.tensor(sequence.ids[first : end + 1])
            scored = torch.tensor(sequence.scored[first : end + 1])
            targets[row, first - 1 - start : end - start] = torch.where(scored, wanted, -1)
        yield ids, targets


# ------------------------------------------------------------------- who reads


class _TorchReader:
    """The model itself."""

    def __init__(self, model: GPT4LMHeadModel) -> None:
        self.model = model
        self.vocab_size, self.context = model.config.vocab_size, model.config.max_position_embeddings

    @contextmanager
    def reading(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    @torch.inference_mode()
    def nats(self, ids: Tensor, targets: Tensor) -> float:
        """The sum of -log p over all targets, the logits never held all at once."""
        model, device = self.model, self.model.device
        hidden = model.hidden_states(ids.to(device))  # (B, T, D)
        targets = targets.to(device)
        hidden, targets = hidden[targets >= 0], targets[targets >= 0]  # (N, D), (N,)
        total = 0.0
        rows = max(64, _LOGITS // self.vocab_size)
        for some, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            total += _surprise(model.lm_head(some), wanted)
        return total


class _BackendReader:
    """A backend with a cache in blocks: a window at a time, in pieces of some rows."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.vocab_size = backend.vocab_size
        self.context = min(backend.max_position, backend.num_blocks * backend.block_size)

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def nats(self, ids: Tensor, targets: Tensor) -> float:
        size, rows = self.backend.block_size, max(64, _LOGITS // self.vocab_size)
        total = 0.0
        for sequence, wanted in zip(ids.numpy().astype(np.int32), targets.numpy(), strict=True):
            length = int(np.flatnonzero(wanted >= 0)[-1]) + 1  # what stands behind is padding
            table = np.arange(-(-length // size), dtype=np.int32)[None]
            for begin in range(0, length, rows):
                places = np.arange(begin, min(begin + rows, length), dtype=np.int32)
                asked = np.flatnonzero(wanted[places] >= 0).astype(np.int32)
                logits = self.backend.step(sequence[places], places, np.zeros_like(places), table, asked)
                total += _surprise(torch.from_numpy(logits), torch.from_numpy(wanted[places[asked]]))
        return total


def _surprise(logits: Tensor, wanted: Tensor) -> float:
    """The sum of -log p of the tokens `wanted` (N,) under logits (N, V)."""
    logits = logits.float()
    chosen = logits.gather(1, wanted.unsqueeze(1)).squeeze(1)
    return float((logits.logsumexp(1) - chosen).double().sum())
