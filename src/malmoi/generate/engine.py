"""The engine: prompts in, sequences out, at once (`generate`) or piece by piece (`stream`).

    prompts -> checked and padded (prompts) -> settings completed (settings) -> tokens, step by step (inflight)
            -> text without broken characters or stop strings -> sequences

A sequence ends with an end-of-text token ("eos"), at a stop string ("stop") or at its length ("length"). What a row
writes does not depend on the others in its batch: its draws are a function of the seed, the position and the number of
the sample, and padding is invisible to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.inflight import InFlight
from malmoi.generate.prompts import Prompts, read
from malmoi.generate.settings import Resolved, given, new_tokens, resolve
from malmoi.generate.trace import ALTERNATIVES, TokenTrace
from malmoi.tokens.stream import StopScanner

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

__all__ = ["Finish", "Generated", "Token", "generate", "resolve", "stream"]

Finish = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Generated:
    """What was written: N = prompts * num_return_sequences rows, the samples of a prompt side by side.

    `sequences` (N, T) int64 holds prompt and new tokens, padded on the right with the padding (or end-of-text) id; a
    prompt that was padded on the left still is. `new_tokens` are the new ids of each row, the end-of-text token and
    those of a stop string included; `texts` (with a tokenizer) end before them. `seed` (with sampling) repeats it all.
    """

    sequences: Tensor
    new_tokens: list[list[int]]
    finish_reasons: list[Finish]
    config: GenerationConfig
    texts: list[str] | None = None
    traces: list[list[TokenTrace]] | None = None

    @property
    def seed(self) -> int | None:
        return self.config.seed if self.config.do_sample else None


@dataclass(frozen=True, slots=True)
class Token:
    """One step of a stream. `text` is what can be shown now, often nothing: a part of a character waits for its rest,
    the beginning of a stop string until it is clear. The last one has the reason why no more follow."""

    id: int
    text: str
    trace: TokenTrace | None = None
    finish_reason: Finish | None = None


def generate(
    model: GPT4LMHeadModel,
    input_ids: Any,
    config: GenerationConfig | None = None,
    *,
    attention_mask: Any = None,
    tokenizer: GPT4Tokenizer | None = None,
    trace: bool | int = False,
    **settings: Any,
) -> Generated:
    """Continue every prompt.

    `input_ids`: a list of ids, a list of lists, an array, a tensor (T,) or (B, T) padded on the left with its
    `attention_mask`, or what a tokenizer returned. `settings` are fields of `GenerationConfig`, completed from the
    model's `generation_config`; `config` instead of them is a whole record. `tokenizer` is needed for `stop_strings`,
    `texts` and the bytes in traces. `trace` asks for a `TokenTrace` a token (a number: with so many alternatives).

    Raises `MalmoiError` for prompts and settings that make no sense, and for NaN in the logits.
    """
    prompts, config, eos_ids = _prepare(model, input_ids, attention_mask, config, settings, tokenizer)
    flight = InFlight(model, prompts, config, eos_ids=eos_ids, alternatives=_alternatives(trace), vocabulary=tokenizer)
    rows = len(prompts.lengths) * config.num_return_sequences
    limits = [new_tokens(config, prompts.lengths[row // config.num_return_sequences]) for row in range(rows)]
    texts = [_Text(tokenizer, config.stop_strings) for _ in range(rows)] if tokenizer is not None else None
    written: list[list[int]] = [[] for _ in range(rows)]
    traces: list[list[TokenTrace]] = [[] for _ in range(rows)]
    reasons: list[Finish] = ["length"] * rows
    ends = frozenset(eos_ids)
    for row, token, why in _steps(flight):
        tokens = written[row]
        tokens.append(token)
        if why is not None:
            traces[row].append(why)
        if token in ends:
            reasons[row] = "eos"
        elif texts is not None and texts[row].push(token):
            reasons[row] = "stop"
        elif len(tokens) < limits[row]:
            continue
        elif texts is not None and texts[row].finish():
            reasons[row] = "stop"
        flight.end(row)
    return Generated(
        sequences=_sequences(prompts, written, config, eos_ids),
        new_tokens=written,
        finish_reasons=reasons,
        config=config,
        texts=[text.take() for text in texts] if texts is not None else None,
        traces=traces if trace is not False else None,
    )


def stream(
    model: GPT4LMHeadModel,
    tokenizer: GPT4Tokenizer,
    prompt_ids: Any,
    config: GenerationConfig | None = None,
    trace: bool | int = False,
    **settings: Any,
) -> Iterator[Token]:
    """Continue one prompt, a `Token` at a time; the texts joined are what `generate` gives with the same seed.

    Mistakes are raised by the call itself, before the first token is asked for.
    """
    prompts, config, eos_ids = _prepare(model, prompt_ids, None, config, settings, tokenizer)
    if len(prompts.lengths) * config.num_return_sequences != 1:
        raise MalmoiError(
            "A stream writes one sequence. Give one prompt and num_return_sequences=1, or use generate()."
        )
    flight = InFlight(model, prompts, config, eos_ids=eos_ids, alternatives=_alternatives(trace), vocabulary=tokenizer)
    return _stream(flight, _Text(tokenizer, config.stop_strings), new_tokens(config, prompts.lengths[0]))


def _steps(flight: InFlight) -> Iterator[tuple[int, int, TokenTrace | None]]:
    """All tokens of all rows, until each row is ended. A model in training is put to evaluation meanwhile."""
    training = flight.model.training
    if training:
        flight.model.eval()
    try:
        while flight.alive:
            yield from flight.step()
    finally:
        if training:
            flight.model.train()


def _stream(flight: InFlight, text: _Text, limit: int) -> Iterator[Token]:
    ends = frozenset(flight.eos_ids)
    while flight.alive:
        ((row, token, why),) = flight.step()
        reason: Finish | None = None
        if token in ends:
            reason = "eos"
        elif text.push(token):
            reason = "stop"
        elif flight.written == limit:
            reason = "stop" if text.finish() else "length"
        if reason is not None:
            flight.end(row)
        yield Token(token, text.take(ended=reason is not None), why, reason)


class _Text:
    """The text of one row while its tokens arrive: whole characters, nothing from a stop string on."""

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


def _prepare(
    model: GPT4LMHeadModel,
    input_ids: Any,
    attention_mask: Any,
    config: GenerationConfig | None,
    settings: Mapping[str, Any],
    tokenizer: GPT4Tokenizer | None,
) -> tuple[Prompts, GenerationConfig, tuple[int, ...]]:
    """Checked prompts, complete settings, the ids that end a text."""
    base = model.generation_config
    if config is not None and settings:
        raise MalmoiError(f"Give either a GenerationConfig or single settings ({', '.join(settings)}), not both.")
    wished = config.eos_token_id if config is not None else settings.get("eos_token_id")
    eos_ids = _ids(wished, base.eos_token_id, model.config.eos_token_id)
    vocab_size = model.config.vocab_size
    if any(not 0 <= token < vocab_size for token in eos_ids):
        raise MalmoiError(f"eos_token_id={wished} is outside the model's vocabulary, 0 to {vocab_size - 1}.")
    pads = (config.pad_token_id if config is not None else settings.get("pad_token_id"), base.pad_token_id)
    pad = next((pad for pad in (*pads, model.config.pad_token_id) if pad is not None), None)
    prompts = read(input_ids, attention_mask, vocab_size=vocab_size, pad_token_id=pad, eos_ids=eos_ids)
    longest, context = max(prompts.lengths), model.config.max_position_embeddings
    if config is None:
        config = resolve(settings, base, longest, context)
    elif not isinstance(config, Resolved):
        config = resolve(given(config), None, longest, context)
    elif longest + 1 > (config.max_length or context):
        config = resolve({"max_length": config.max_length}, config, longest, context)  # says what does not fit
    if config.stop_strings and tokenizer is None:
        raise MalmoiError(
            "stop_strings are text, so generate() needs the tokenizer as well: generate(..., tokenizer=...)."
        )
    changes: dict[str, Any] = {"eos_token_id": eos_ids, "pad_token_id": pad}
    if config.do_sample and config.seed is None:
        changes["seed"] = int(torch.randint(2**62, ()))  # torch.manual_seed makes a whole script repeatable
    device = model.device
    mask = prompts.mask.to(device) if prompts.mask is not None else None
    return Prompts(prompts.ids.to(device), mask, prompts.lengths), config.replace(**changes), eos_ids


def _ids(*wishes: int | Sequence[int] | None) -> tuple[int, ...]:
    """The first that is not None, as a tuple; an empty one means that nothing ends a text."""
    for wish in wishes:
        if wish is not None:
            return (wish,) if isinstance(wish, int) else tuple(wish)
    return ()


def _alternatives(trace: bool | int) -> int | None:
    return None if trace is False else ALTERNATIVES if trace is True else int(trace)


def _sequences(prompts: Prompts, written: list[list[int]], config: GenerationConfig, eos_ids: Sequence[int]) -> Tensor:
    """Prompts and what follows them (N, T), filled up on the right."""
    fill = config.pad_token_id if config.pad_token_id is not None else eos_ids[0] if eos_ids else 0
    ids = prompts.ids.repeat_interleave(config.num_return_sequences, 0)
    width = max(len(row) for row in written)
    new = torch.tensor([row + [fill] * (width - len(row)) for row in written], dtype=ids.dtype, device=ids.device)
    return torch.cat((ids, new), dim=1)
