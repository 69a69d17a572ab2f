"""One sequence being written: how its next token is chosen, and when it ends.

A writer has everything that belongs to one sequence alone: settings, seed, the text so far, the state of its
constraint. Where the logits come from, alone or in a batch, first read or guessed and checked, makes no difference to
it: it is given a row and says a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from malmoi.config import GenerationConfig
from malmoi.generate import sampling
from malmoi.generate.request import Finish, Text
from malmoi.generate.trace import Observer, TokenTrace, Vocabulary

if TYPE_CHECKING:
    from malmoi.generate.image_form import Matcher


class Writer:
    """Sample `number` of a prompt. `tokens` (prompt and what follows) is shared with the scheduler's branch."""

    def __init__(
        self,
        tokens: list[int],
        config: GenerationConfig,
        *,
        eos_ids: Sequence[int],
        limit: int,  # new tokens at most
        number: int = 0,
        text: Text | None = None,
        matcher: Matcher | None = None,
        alternatives: int | None = None,  # of the trace; None: no trace
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.tokens, self.prompt_length = tokens, len(tokens)
        self.config, self.eos_ids, self.limit, self.number = config, tuple(eos_ids), limit, number
        self.text, self.matcher = text, matcher
        self.alternatives, self.vocabulary = alternatives, vocabulary

    @property
    def written(self) -> int:
        return len(self.tokens) - self.prompt_length

    def shaped(self, logits: sampling.Logits, watch: sampling.Watch | None = None) -> sampling.Logits:
        """The logits (V,) of the next token under all settings."""
        return sampling.shape(
            logits,
            self.config,
            tokens=self.tokens,
            prompt_length=self.prompt_length,
            forbidden=self.eos_ids if self.written < self.config.min_new_tokens else (),
            allowed=self.matcher.allowed() if self.matcher is not None else None,
            watch=watch,
        )

    def choose(self, logits: sampling.Logits) -> tuple[int, TokenTrace | None]:
        """The next token, and why. Raises `MalmoiError` for NaN and where nothing may be chosen."""
        sampling.require_finite(float(logits.max()))
        observer = Observer(logits) if self.alternatives is not None else None
        shaped = self.shaped(logits, observer)
        position = len(self.tokens)
        if self.config.do_sample:
            assert self.config.seed is not None
            token = sampling.sample(shaped, sampling.draw(self.config.seed, position, self.number))
        else:
            token = sampling.greedy(shaped)
        if observer is None or self.alternatives is None:
            return token, None
        if not self.config.do_sample:
            observer.greedy(token)
        return token, observer.trace(token, position, self.vocabulary, self.alternatives)

    def push(self, token: int) -> Finish | None:
        """The token is written. The reason if it was the last one."""
        self.tokens.append(token)
        if token in self.eos_ids:
            return "eos"
        stopped = self.text is not None and self.text.push(token)
        if self.matcher is not None:
            self.matcher.consume(token)
            stopped = stopped or self.matcher.complete
        if stopped:
            return "stop"
        if self.written < self.limit:
            return None
        return "stop" if self.text is not None and self.text.finish() else "length"

    def shown(self, ended: bool) -> str:
        """The text that can be shown now."""
        return self.text.take(ended) if self.text is not None else ""
