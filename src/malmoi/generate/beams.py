"""Beam search: the likeliest text as a whole, looked for along several half-written texts at once.

Greedy writing takes the likeliest next token and may be led into a sentence that is unlikely as a whole. Beam search
keeps the `num_beams` likeliest beginnings, continues each by every token, and keeps the likeliest of those; texts that
end are set aside and compared by their log-probability divided by length ** `length_penalty` (Wu et al., "Google's
Neural Machine Translation System", 2016, section 7, has the idea in another form). When to stop is a matter of taste,
`early_stopping`; the rules here are those of Hugging Face transformers, so that the texts are the same.

k beams, V vocabulary
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.generate import sampling
from malmoi.generate.request import Finish, Text, Token
from malmoi.generate.trace import likeliest
from malmoi.generate.writer import Writer

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer


@dataclass(frozen=True, slots=True)
class _Finished:
    score: float
    tokens: list[int]
    reason: Finish


class BeamSearch:
    """One prompt's search. `running` holds the beams' tokens, best first; `writer` says the settings."""

    def __init__(self, writer: Writer, tokenizer: GPT4Tokenizer | None = None) -> None:
        self.writer, self.tokenizer = writer, tokenizer
        self.config, self.prompt_length = writer.config, writer.prompt_length
        self.running = [writer.tokens]
        self.scores = [0.0]  # summed log-probabilities
        self.matchers = [writer.matcher]
        self.finished: list[_Finished] = []  # best first

    def advance(self, rows: NDArray[Any]) -> list[int]:
        """Given each beam's next logits (k, V), go one token on. The beams that the new ones continue, by their old
        numbers; none when the search is over."""
        width, ends = self.config.num_beams, self.writer.eos_ids
        totals = np.stack(
            [score + self._shaped(beam, row) for beam, (score, row) in enumerate(zip(self.scores, rows, strict=True))]
        )
        # so many candidates that width of them go on even if all better ones end
        chosen = likeliest(totals.ravel(), max(2, 1 + len(ends)) * width)
        vocab_size, scores = totals.shape[1], totals.ravel()[chosen].tolist()
        parents, tokens = [i // vocab_size for i in chosen], [i % vocab_size for i in chosen]
        going_on: list[tuple[int, int, float]] = []
        merged = list(self.finished)
        for rank, (parent, token, score) in enumerate(zip(parents, tokens, scores, strict=True)):
            if score == -math.inf:
                break
            reason = self._reason(parent, token)
            if reason is None:
                going_on.append((parent, token, score))
            elif rank < width:  # what ends below the best is not good enough
                text = [*self.running[parent], token]
                merged.append(_Finished(score / self._length(text) ** self.config.length_penalty, text, reason))
        self.finished = sorted(merged, key=lambda text: -text.score)[:width]
        going_on = going_on[:width]
        if not going_on or self._over(going_on[0]):
            sampling.require_finite(0.0 if self.finished else -math.inf)
            self.running = []
            return []
        self.matchers = [self._consumed(parent, token) for parent, token, _ in going_on]
        self.running = [[*self.running[parent], token] for parent, token, _ in going_on]
        self.scores = [score for _, _, score in going_on]
        return [parent for parent, _, _ in going_on]

    def tokens(self, request: int, count: int) -> list[Token]:
        """The `count` best texts, token by token."""
        made: list[Token] = []
        for sample, best in enumerate(self.finished[:count]):
            text = Text(self.tokenizer, self.config.stop_strings) if self.tokenizer is not None else None
            new = best.tokens[self.prompt_length :]
            for place, token in enumerate(new):
                last = place == len(new) - 1
                if text is not None and not (last and best.reason == "eos"):
                    text.push(token)
                shown = text.take(ended=last) if text is not None else ""
                made.append(Token(token, shown, None, best.reason if last else None, request, sample))
        return made

    def _length(self, tokens: list[int]) -> int:
        return len(tokens) - self.prompt_length

    def _shaped(self, beam: int, row: NDArray[Any]) -> NDArray[np.float64]:
        """The next log-probabilities of a beam; settings act on them, and nothing is normalised again."""
        sampling.require_finite(float(row.max()))
        self.writer.tokens, self.writer.matcher = self.running[beam], self.matchers[beam]
        return self.writer.shaped(sampling.log_softmax(row)).astype(np.float64)

    def _reason(self, parent: int, token: int) -> Finish | None:
        """Why a beam would end with this token, if it would."""
        if token in self.writer.eos_ids:
            return "eos"
        new = [*self.running[parent][self.prompt_length :], token]
        if self.config.stop_strings and self.tokenizer is not None:
            text = Text(self.tokenizer, self.config.stop_strings)
            if any(text.push(each) for each in new) or (len(new) == self.writer.limit and text.finish()):
                return "stop"
        matcher = self._consumed(parent, token)
        if matcher is not None and matcher.complete:
            return "stop"
        return "length" if len(new) == self.writer.limit else None

    def _consumed(self, parent: int, token: int) -> Any:
        matcher = self.matchers[parent]
        if matcher is not None:
            matcher = matcher.copy()
            matcher.consume(token)
        return matcher

    def _over(self, best: tuple[int, int, float]) -> bool:
        """Whether enough texts have ended, and no running one is expected to beat the worst of them."""
        if len(self.finished) < self.config.num_beams:
            return False
        if self.config.early_stopping is True:
            return True
        parent, _, score = best
        length = self._length(self.running[parent]) + 1
        if self.config.early_stopping == "never" and self.config.length_penalty > 0:
            length = self.writer.limit
        return score / length**self.config.length_penalty <= self.finished[-1].score
