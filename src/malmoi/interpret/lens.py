"""What each layer looked at, and what it would have said: attention patterns and the logit lens.

Between the layers of a transformer runs one stream of numbers that every layer reads and adds to. The last layer's
stream is normed and compared with the vocabulary; nothing keeps us from doing the same after each earlier layer
(nostalgebraist, "interpreting GPT: the logit lens", 2020). What comes out is a guess that ripens: noise at first, then
the right kind of word, then the word.

The attention pattern says, for each head, how much of each earlier token it gathered. It tells where a head looked, not
why, nor that what it found there mattered.

Both are read from the production model's own taps while it takes the last step of a text, the rest of which is in the
cache: watching changes no number, and costs one row of a pattern and not its square.

S tokens seen, L layers, H heads, D hidden size, V vocabulary
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from malmoi.config import MalmoiError
from malmoi.generate.trace import likeliest
from malmoi.model.cache import Cache
from malmoi.model.taps import record

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

GUESSES = 5  # of each layer
WEIGHTS = 200_000  # of all patterns together: about a megabyte of JSON


@dataclass(frozen=True, slots=True)
class LastStep:
    """What was seen while the model read the last token of a text."""

    ids: list[int]
    streams: torch.Tensor  # (L + 1, D) as the first block finds it, then as each leaves it
    patterns: list[torch.Tensor]  # L of (H, S); a row sums to 1, less what a sink took
    logits: torch.Tensor  # (V,)


@torch.no_grad()
def watch(model: GPT4LMHeadModel, ids: Sequence[int]) -> LastStep:
    """Let the model read `ids` and watch the step of the last one.

    Raises `MalmoiError` for no ids, ids outside the vocabulary, and more ids than the context has room for.
    """
    if not ids:
        raise MalmoiError("There is nothing to look at: the text has no tokens.")
    tokens, cache = torch.tensor([list(ids)], device=model.device), Cache(len(ids))
    if len(ids) > 1:
        model.hidden_states(tokens[:, :-1], cache=cache)
    depth = model.config.num_hidden_layers
    streams = ["model.layers.0.input", *(f"model.layers.{layer}.output" for layer in range(depth))]
    patterns = [f"model.layers.{layer}.self_attn.pattern" for layer in range(depth)]
    with record(model, [*streams, *patterns]) as seen:
        logits = model(tokens[:, -1:], cache=cache).logits[0, -1]
    return LastStep(
        list(ids),
        torch.stack([seen[name][0, -1] for name in streams]),
        [seen[name][0, :, -1] for name in patterns],
        logits,
    )


@torch.no_grad()
def lens(model: GPT4LMHeadModel, streams: torch.Tensor) -> torch.Tensor:
    """The log-probabilities (L + 1, V) of the next token as each of `streams` (L + 1, D) would have said it.

    A stream that a post-norm block left is normed already, and GPT-1 has no final norm: `model.norm` is then the
    identity. The last row is the model's own answer.
    """
    return model.lm_head(model.model.norm(streams)).float().log_softmax(dim=-1)


def explain_step(
    model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer, ids: Sequence[int], token: int | None = None
) -> dict[str, Any]:
    """How the token after `ids` came about, as plain data.

    `tokens`: the last ids that were seen, from position `start` on, with their texts (a character that several tokens
    make stands with the last of them). `layers`: for the embeddings (layer 0) and each layer its likeliest `guesses`,
    its `entropy` in nats, the `probability` and `rank` that it gives to `token`, and `attention`: for each head the
    weights over `tokens`, and in `earlier` what went to tokens before `start`.
    """
    if token is not None and not 0 <= token < model.config.vocab_size:
        raise MalmoiError(f"The token {token} is outside the vocabulary, 0 to {model.config.vocab_size - 1}.")
    step = watch(model, ids)
    rows = sum(pattern.shape[0] for pattern in step.patterns)
    start = max(0, len(step.ids) - max(1, WEIGHTS // rows))
    believed = lens(model, step.streams)
    layers = []
    for layer, logprobs in enumerate(believed):
        said = _guesses(logprobs, tokenizer, token)
        pattern = step.patterns[layer - 1] if layer else None
        layers.append({"layer": layer, **said, **_attention(pattern, start)})
    spell = codecs.getincrementaldecoder("utf-8")("replace").decode
    spelled = [{"id": each, "text": spell(tokenizer.token_bytes(each))} for each in step.ids[start:]]
    return {"start": start, "tokens": spelled, "layers": layers}


def _guesses(logprobs: torch.Tensor, tokenizer: GPT4Tokenizer, token: int | None) -> dict[str, Any]:
    probabilities = logprobs.exp()
    best = [
        {"id": each, "text": _text(tokenizer, each), "probability": round(float(probabilities[each]), 6)}
        for each in likeliest(logprobs.cpu().numpy(), GUESSES)
    ]
    said: dict[str, Any] = {"guesses": best, "entropy": round(float(torch.special.entr(probabilities).sum()), 4)}
    if token is not None:
        rank = int((logprobs > logprobs[token]).sum()) + 1
        said |= {"probability": round(float(probabilities[token]), 6), "rank": rank}
    return said


def _attention(pattern: torch.Tensor | None, start: int) -> dict[str, Any]:
    if pattern is None:
        return {"attention": [], "earlier": []}
    weights = [[round(weight, 4) for weight in head] for head in pattern[:, start:].tolist()]
    return {"attention": weights, "earlier": [round(mass, 4) for mass in pattern[:, :start].sum(dim=1).tolist()]}


def _text(tokenizer: GPT4Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
