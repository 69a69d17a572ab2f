"""What is asked of the engine, and what comes back, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.prompts import Prompts
from malmoi.generate.settings import end_ids
from malmoi.generate.trace import TokenTrace
from malmoi.tokens.stream import StopScanner

if TYPE_CHECKING:
    from torch import Tensor

    from malmoi.generate.constraint import Constraint
    from malmoi.tokens.tokenizer import GPT4Tokenizer

Finish = Literal["eos", "stop", "length", "error"]


@dataclass(frozen=True)
class Request:
    """One prompt to be continued.

    `config` is completed from the model's own settings. Requests with equal `salt` may find each other's prompts in the
    cache (`blocks`). `trace` asks for a `TokenTrace` a token, a number for so many alternatives. A `constraint` says
    what may be written at all.
    """

    prompt_ids: Any  # a list of ids, an array or a tensor (T,)
    config: GenerationConfig | None = None
    salt: str = ""
    trace: bool | int = False
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a stream. `text` is what can be shown now, often nothing: a part of a character waits for its rest,
    the beginning of a stop string until it is clear. The last one has the reason why no more follow; where that is
    "error", `error` says what happened, and `id` is -1 as no token was chosen."""

    id: int
    text: str
    trace: TokenTrace | None = None
    finish_reason: Finish | None = None
    request: int = 0  # which one of a stream's requests, or the number that `Engine.submit` gave
    sample: int = 0  # which one of its num_return_sequences
    error: MalmoiError | None = None


@dataclass(frozen=True)
class Generated:
    """What was written: N = prompts * num_return_sequences rows, the samples of a prompt side by side.

    `new_tokens` are the new ids of each row, the end-of-text token and those of a stop string included; `texts` (with a
    tokenizer) end before them. `seed` (with sampling) repeats it all.
    """

    prompts: Prompts
    new_tokens: list[list[int]]
    finish_reasons: list[Finish]
    config: GenerationConfig
    texts: list[str] | None = None
    traces: list[list[TokenTrace]] | None = None
    device: Any = "cpu"

    @property
    def seed(self) -> int | None:
        return self.config.seed if self.config.do_sample else None

    @property
    def sequences(self) -> Tensor:
        """Prompts and new tokens, a tensor (N, T) int64 padded on the right with the padding (or end-of-text) id; a
        prompt that was padded on the left still is."""
        import torch

        ends = end_ids(self.config.eos_token_id)
        fill = self.config.pad_token_id if self.config.pad_token_id is not None else ends[0] if ends else 0
        width = max(len(row) for row in self.new_tokens)
        new = np.array([row + [fill] * (width - len(row)) for row in self.new_tokens], dtype=np.int64)
        ids = self.prompts.ids.repeat(self.config.num_return_sequences, axis=0)
        return torch.from_numpy(np.concatenate((ids, new), axis=1)).to(self.device)


class Text:
    """The text of one sequence while its tokens arrive: whole characters, nothing from a stop string on."""

    def __init__(self, tokenizer: GPT4Tokenizer, stops: Sequence[str]) -> None:
        self.decoder = tokenizer.stream(skip_special_tokens=True, continues=True)
        self.scanner = StopScanner(stops) if stops else None
        self.parts: list[str] = []

    def push(self, token: int) -> bool:
        """Whether the token completed a stop string."""
        return self._add(self.decoder.push(token))

    def finish(self) -> bool:
        """No more tokens: let go what was held back, which may complete a stop string."""
        stopped = self._add(self.decoder.finish())
        if self.scanner is not None:
            self.parts.append(self.scanner.finish())
        return stopped

    def take(self, ended: bool = True) -> str:
        """All the text that was not taken yet; the rest too if it has `ended`."""
        if ended:
            self.finish()
        text = "".join(self.parts)
        self.parts.clear()
        return text

    def _add(self, text: str) -> bool:
        stopped = False
        if self.scanner is not None:
            text, stopped = self.scanner.push(text)
        self.parts.append(text)
        return stopped
