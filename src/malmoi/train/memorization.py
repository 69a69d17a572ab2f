"""Does the model recite? How often it continues a text that it has learned from word for word.

The loss says how surprised a model is, not whether it copies. So it is given beginnings of passages and continues them
greedily; each continuation is searched for in the training tokens. Beginnings from training texts show what was learned
by heart (Carlini et al. 2021 and 2023 call such passages extractable); beginnings from held-out texts, treated in the
same way, show how much would be found by chance, because language repeats itself.

S samples, P tokens of a beginning, N tokens of a continuation, T training tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from malmoi import randomness

LENGTHS = (32, 16, 8)  # of beginning and continuation: the first for which there are passages long enough
MOST_TOKENS = 1 << 21  # of training text that are searched
HARMLESS = 0.05  # share of copies, beyond that of held-out beginnings, up to which nothing is advised

# What a model's own generation_config may ask for, and what is not asked for here.
PLAIN: dict[str, Any] = {"max_length": 2 * LENGTHS[0], "repetition_penalty": 1.0, "stop_strings": ()}

WORDS = {
    "measured": {
        "en": (
            "Memorisation: given {length} tokens of {samples} training passages, the model continued {training:.0%} of "
            "them word for word for {length} tokens{chance}. Longest copy: {longest} tokens."
        ),
        "ko": (
            "암기: 학습한 글 {samples}곳의 앞부분 {length}토큰을 주자 {training:.0%}를 {length}토큰 동안 글자 그대로 "
            "이어 썼습니다{chance}. 가장 긴 베낌은 {length}토큰 가운데 {longest}토큰입니다."
        ),
    },
    "chance": {"en": " (held-out passages: {held_out:.0%})", "ko": "(학습하지 않은 글: {held_out:.0%})"},
    "recites": {
        "en": (
            "It recites its training texts. What helps, most first: more text; stopping at the best evaluation; fewer "
            "epochs; residual_dropout: 0.1 to 0.3; label_smoothing: 0.1; more weight_decay; a smaller model."
        ),
        "ko": (
            "학습한 글을 외워서 쓰고 있습니다. 효과가 큰 순서로: 글을 더 모으기; 가장 좋은 평가에서 멈추기; "
            "에폭 줄이기; residual_dropout: 0.1~0.3; label_smoothing: 0.1; weight_decay 높이기; 모델 줄이기."
        ),
    },
    "fine": {"en": "It does not recite: nothing to do.", "ko": "외워 쓰지 않습니다. 그대로 두면 됩니다."},
}


@dataclass(frozen=True, slots=True)
class Memorization:
    """What the continuations showed. A copy: all of its tokens stand in one piece somewhere in the training text."""

    samples: int
    length: int  # tokens of a beginning, and of a continuation
    training: float  # share of copies where the beginning was a training text's
    held_out: float | None  # the same for beginnings that were not learned from; None: there were none long enough
    longest: int  # tokens of the longest piece of a continuation that stands in the training text

    @property
    def recites(self) -> bool:
        return self.training - (self.held_out or 0.0) > HARMLESS

    def text(self, language: str = "en") -> str:
        chance = "" if self.held_out is None else WORDS["chance"][language].format(held_out=self.held_out)
        numbers = {**asdict(self), "chance": chance}
        verdict = WORDS["recites" if self.recites else "fine"][language]
        return f"{WORDS['measured'][language].format(**numbers)} {verdict}"


def measure(
    model: Any, learned_from: Sequence[Any], held_out: Sequence[Any], samples: int, seed: int = 0
) -> Memorization | None:
    """Let the model continue `samples` passages of each kind of batches; None where no passage is long enough.

    `learned_from` are training batches that the model has seen; the copies are searched for in their tokens. The
    model's weights and mode are as before afterwards.
    """
    for length in LENGTHS:
        prompts = passages(learned_from, samples, length, seed)
        if len(prompts):
            break
    else:
        return None
    tokens = np.concatenate([batch.input_ids.cpu().numpy().ravel() for batch in learned_from])
    others = passages(held_out, samples, length, seed)
    was_training = model.training
    model.eval()
    try:
        copied = longest_copies(continuations(model, prompts, length), tokens)
        by_chance = longest_copies(continuations(model, others, length), tokens) if len(others) else None
    finally:
        model.train(was_training)
    return Memorization(
        len(prompts),
        length,
        float((copied == length).mean()),
        None if by_chance is None else float((by_chance == length).mean()),
        int(copied.max()),
    )


def seen(batches: Any, count: int) -> list[Any]:
    """Of the first `count` training batches those of the first epoch, up to `MOST_TOKENS` tokens."""
    chosen: list[Any] = []
    tokens = 0
    for number in range(min(count, batches.steps_per_epoch(0))):
        chosen.append(batches.batch(number))
        tokens += chosen[-1].input_ids.numel()
        if tokens >= MOST_TOKENS:
            break
    return chosen


def passages(batches: Sequence[Any], samples: int, length: int, seed: int) -> np.ndarray:
    """(S, P) beginnings, each followed in its own document by `length` tokens that are learned; drawn by the seed."""
    found: list[tuple[int, int, int]] = []
    for number, batch in enumerate(batches):
        documents, learned = batch.document_ids.cpu().numpy(), batch.labels.cpu().numpy() != -100
        ends = documents.shape[1] - 2 * length + 1
        if ends < 1:
            continue
        one_document = documents[:, :ends] == documents[:, 2 * length - 1 :]
        before = np.cumsum(np.pad(learned, ((0, 0), (1, 0))), axis=1)
        after = length - 1 + np.arange(ends)  # the position whose label is the continuation's first token
        all_learned = before[:, after + length] - before[:, after] == length
        found += [(number, int(row), int(column)) for row, column in np.argwhere(one_document & all_learned)]
    if not found:
        return np.empty((0, length), np.int64)
    draw = randomness.generator(seed, "memorization")
    chosen = draw.choice(len(found), size=min(samples, len(found)), replace=False)
    places = [found[index] for index in chosen]
    rows = [batches[number].input_ids[row, column : column + length] for number, row, column in places]
    return torch.stack(rows).cpu().numpy()


def continuations(model: Any, prompts: np.ndarray, length: int) -> np.ndarray:
    """(S, N) what the model finds likeliest after prompts (S, P), token by token."""
    ids = torch.from_numpy(prompts).to(next(model.parameters()).device)
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=length, min_new_tokens=length, temperature=0, **PLAIN)
    return made[:, prompts.shape[1] :].cpu().numpy()


def longest_copies(samples: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(S,) the length of the longest piece of each sample (S, N) that stands in `tokens` (T,).

    Every piece of a length has a fingerprint (a polynomial over random 64-bit values, wrapped), for which sums over all
    beginnings are enough; what a piece of n tokens finds, its parts find too, so the length is searched bit by bit.
    """
    S, N = samples.shape
    size = int(max(samples.max(initial=0), tokens.max(initial=0))) + 1
    values = randomness.generator(0, "copies").integers(0, 1 << 64, size=size, dtype=np.uint64)
    text, pieces = _Fingerprints(values[tokens]), _Fingerprints(values[samples])
    longest = np.zeros(S, np.int64)
    bit = 1 << (N.bit_length() - 1)
    while bit:
        for length in np.unique(longest) + bit:
            rows = np.flatnonzero(longest + bit == length)
            if length > min(N, len(tokens)):
                continue
            wanted = pieces.of(int(length))[rows]  # (rows, N - length + 1)
            there = np.isin(wanted, _among(text.of(int(length)), wanted))
            longest[rows[there.any(axis=1)]] = length
        bit >>= 1
    return longest


def _among(many: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Those of `many` that may be among `few`: a table of their highest 20 bits leaves few to compare."""
    table = np.zeros(1 << 20, bool)
    table[(few >> np.uint64(44)).ravel()] = True
    return many[table[many >> np.uint64(44)]]


class _Fingerprints:
    """The fingerprints of all pieces of one length, for any length, of values (..., T)."""

    def __init__(self, values: np.ndarray) -> None:
        base = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse
        inverse = np.uint64(pow(int(base), -1, 1 << 64))
        count = values.shape[-1]
        powers = np.cumprod(np.concatenate([[np.uint64(1)], np.full(count - 1, base)]), dtype=np.uint64)
        self.back = np.cumprod(np.concatenate([[np.uint64(1)], np.full(count - 1, inverse)]), dtype=np.uint64)
        sums = np.cumsum(values * powers, axis=-1, dtype=np.uint64)
        self.sums = np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)

    def of(self, length: int) -> np.ndarray:
        """(..., T - length + 1)"""
        parts = self.sums[..., length:] - self.sums[..., : self.sums.shape[-1] - length]
        return parts * self.back[: parts.shape[-1]]
