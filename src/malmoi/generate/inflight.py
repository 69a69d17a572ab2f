"""Rows being written together: read the prompts once, then one token for every row at each step.

The prompts are read in one pass that fills the key/value cache; a prompt that several sequences continue is read once
and its cache copied. A row that has ended stays in the batch as a passenger until half of the rows are passengers, and
then all of them leave at once: what is copied over a whole generation stays below twice the cache, however the endings
fall. Columns that are padding in every row left go with them, so that a short prompt beside a long one can still use
the whole context.

Nothing here looks at text: what ends a row is the caller's business (`engine`).

P prompts, N = P * num_return_sequences rows asked for, A rows still in the batch, S columns so far, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from malmoi.config import GenerationConfig
from malmoi.generate import sampling
from malmoi.generate.prompts import Prompts
from malmoi.generate.trace import Observer, TokenTrace, Vocabulary
from malmoi.model.cache import Cache

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel

_AHEAD = 512  # columns for which memory is taken at the start; the cache doubles from there


class InFlight:
    """A batch of rows in the course of being written.

    `step()` gives one new token for every row that is alive; `end(row)` says that a row needs no more. Rows are
    numbered as in the result: row r continues prompt r // num_return_sequences, as its sample r % num_return_sequences.
    """

    def __init__(
        self,
        model: GPT4LMHeadModel,
        prompts: Prompts,
        config: GenerationConfig,
        *,
        eos_ids: Sequence[int] = (),
        alternatives: int | None = None,  # of the trace; None: no trace
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.model, self.config, self.eos_ids = model, config, list(eos_ids)
        self.alternatives, self.vocabulary = alternatives, vocabulary
        self.copies = config.num_return_sequences
        self.slots = list(range(len(prompts.lengths) * self.copies))  # which row stands at each place of the batch
        self.alive = set(self.slots)
        self.prompt_lengths = prompts.lengths
        self.written = 0  # tokens that every row alive has got
        self.prompts: Prompts | None = prompts
        self.cache: Cache | None = None
        self.ids = prompts.ids  # (A, S) kept up to date only where the past must be read again
        self.mask = prompts.mask  # (A, S) or None
        self.last = prompts.ids[:, -1]  # (A,) the newest token
        self.seen: Tensor | None = None  # (A, V) for the repetition penalty

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int, TokenTrace | None]]:
        """(row, id, trace) of one new token for each row alive."""
        logits = self._read_prompts() if self.prompts is not None else self._read_last()
        observer = Observer(logits) if self.alternatives is not None else None
        shaped = sampling.shape(
            logits,
            self.config,
            seen=self.seen,
            forbidden=self.eos_ids if self.written < self.config.min_new_tokens else (),
            watch=observer,
        )
        positions = [self.prompt_lengths[row // self.copies] + self.written for row in self.slots]
        if self.config.do_sample:
            assert self.config.seed is not None
            samples = [row % self.copies for row in self.slots]
            self.last = sampling.sample(shaped, sampling.draws(self.config.seed, positions, samples))
        else:
            self.last = sampling.greedy(shaped)
            if observer is not None:
                observer.greedy(self.last)
        self.written += 1
        traces: Sequence[TokenTrace | None] = [None] * len(self.slots)
        if observer is not None and self.alternatives is not None:
            traces = observer.traces(self.last, positions, self.vocabulary, self.alternatives)
        return [step for step in zip(self.slots, self.last.tolist(), traces, strict=True) if step[0] in self.alive]

    def end(self, row: int) -> None:
        """The row is finished: `step` gives no more tokens for it."""
        self.alive.discard(row)

    def _read_prompts(self) -> Tensor:
        """One pass over the prompts, each read once whatever the number of its sequences: logits (N, V)."""
        prompts, self.prompts = self.prompts, None
        assert prompts is not None
        if self.config.use_cache:
            self.cache = Cache(capacity=min(self.model.config.max_position_embeddings, prompts.ids.shape[1] + _AHEAD))
        logits = self._forward(prompts.ids, prompts.mask)
        if self.config.repetition_penalty != 1:
            self.seen = _occurrences(prompts, logits.shape[-1])
        if self.copies > 1:
            logits = logits.repeat_interleave(self.copies, 0)
            self._keep([row // self.copies for row in self.slots])
        return logits

    def _read_last(self) -> Tensor:
        """Read the newest token of each row: logits (A, V)."""
        new = self.last.unsqueeze(-1)  # (A, 1)
        if self.seen is not None:
            self.seen.scatter_(1, new, True)
        if self.cache is None:
            self.ids = torch.cat((self.ids, new), dim=1)
            if self.mask is not None:
                self.mask = torch.cat((self.mask, torch.ones_like(new, dtype=torch.bool)), dim=1)
        columns = self.cache.length + 1 if self.cache is not None else self.ids.shape[1]
        if 2 * len(self.alive) <= len(self.slots) or columns > self.model.config.max_position_embeddings:
            new = self._leave(new)
        if self.cache is None:
            return self._forward(self.ids, self.mask)
        return self._forward(new, None)

    def _forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The next token's logits (A, V), in float32 at least; dropout is off even in the middle of training."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            output = self.model(ids, attention_mask=mask, cache=self.cache, logits_to_keep=1)
        finally:
            if training:
                self.model.train()
        logits = output.logits[:, -1]
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def _leave(self, new: Tensor) -> Tensor:
        """Passengers get off, and with them the columns that are padding in every row left; `new` (A, 1) likewise."""
        places = [place for place, row in enumerate(self.slots) if row in self.alive]
        if len(places) < len(self.slots):
            self.slots = [self.slots[place] for place in places]
            new = new[places]
            self._keep(places)
        mask = self.cache.real if self.cache is not None else self.mask
        empty = 0 if mask is None else int(mask.any(0).long().argmax())
        if empty and self.cache is not None:
            self.cache.drop(empty)
        elif empty and self.mask is not None:
            self.ids, self.mask = self.ids[:, empty:], self.mask[:, empty:]
        return new

    def _keep(self, places: list[int]) -> None:
        """Keep the rows at these places, in this order; a place may be named several times."""
        index = torch.tensor(places, device=self.ids.device)
        if self.cache is not None:
            self.cache.select(index)
        else:
            self.ids = self.ids[index]
            self.mask = None if self.mask is None else self.mask[index]
        if self.seen is not None:
            self.seen = self.seen[index]


def _occurrences(prompts: Prompts, vocabulary: int) -> Tensor:
    """(P, V), true where a token occurs in a prompt; padding is not in it."""
    real = prompts.mask if prompts.mask is not None else torch.ones_like(prompts.ids, dtype=torch.bool)
    counts = torch.zeros((prompts.ids.shape[0], vocabulary), dtype=torch.int32, device=prompts.ids.device)
    return counts.scatter_add_(1, prompts.ids, real.int()) > 0
