"""From the fields of a request to what the engine is asked, the same way for every route.

`temperature` is 1 where neither the client nor the model's own settings say anything, as in OpenAI's API; every other
setting that is left out is the model's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from malmoi.generate.constraint import Constraint
from malmoi.generate.pictures import text_alone
from malmoi.generate.request import Request
from malmoi.generate.settings import resolve
from malmoi.serve import schema
from malmoi.serve.errors import ApiError
from malmoi.serve.service import Answer, Piece, Service

if TYPE_CHECKING:
    from malmoi.config import GenerationConfig

EXPLAINED = 10  # alternatives of an explained token

_SEED_BITS = 53  # what a browser can read back: JavaScript has no larger whole numbers
_SAME = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")  # named alike here and there
_SAME_OF_TEXTS = ("presence_penalty", "frequency_penalty")


def settings(
    service: Service, body: schema.Writing, prompt_length: int, max_new_tokens: int | None, ends: Sequence[int] = ()
) -> GenerationConfig:
    """The complete settings of a request. Raises `MalmoiError` for a contradiction or a length that does not fit."""
    given: dict[str, Any] = {name: getattr(body, name) for name in _SAME}
    if given["seed"] is None:
        given["seed"] = secrets.randbits(_SEED_BITS)
    if given["temperature"] is None and service.base.do_sample is not False:
        given["temperature"] = service.base.temperature
    if isinstance(body, schema.Continuing):
        given.update({name: getattr(body, name) for name in _SAME_OF_TEXTS})
        given["num_return_sequences"] = body.n
        given["stop_strings"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()) or None
        given["logit_bias"] = _bias(body.logit_bias, service.engine.backend.vocab_size)
    if ends:
        given["eos_token_id"] = tuple(ends)
    return resolve({**given, "max_new_tokens": max_new_tokens}, service.base, prompt_length, service.context)


def _bias(given: dict[str, float] | None, vocab_size: int) -> dict[int, float] | None:
    if not given:
        return None
    for name in given:
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < vocab_size):
            raise ApiError(
                400, f"logit_bias: {name[:40]!r} is no token id (0 to {vocab_size - 1}).", "logit_bias", "invalid_value"
            )
    return {int(name): value for name, value in given.items()}


def wished_length(body: schema.ChatRequest | schema.CompletionRequest) -> int | None:
    """`max_completion_tokens`, or its older name."""
    newer = getattr(body, "max_completion_tokens", None)
    if newer is not None and body.max_tokens not in (None, newer):
        raise ApiError(400, "max_tokens and max_completion_tokens differ. Give one.", "max_tokens", "invalid_value")
    return newer if newer is not None else body.max_tokens


def traced(explain: bool | None, logprobs: int | None) -> bool | int:
    """How many alternatives of each token are wanted; False: no trace at all."""
    if explain:
        return max(EXPLAINED, logprobs or 0)
    return False if logprobs is None else logprobs


def make(
    service: Service,
    body: schema.Writing,
    prompt: list[int],
    max_new_tokens: int | None,
    *,
    ends: Sequence[int] = (),
    trace: bool | int = False,
    constraint: Constraint | None = None,
    text_only: bool = False,
) -> Request:
    """The engine's request. Who names a `user` shares no cached prompt with other users. `text_only`, for an answer
    that has no place for a picture: none is begun."""
    if not prompt:
        raise ApiError(400, "The prompt is empty: the model needs at least one token to go on from.", "prompt")
    config = settings(service, body, len(prompt), max_new_tokens, ends)
    if text_only and service.tokenizer.images is not None:
        config = config.replace(logit_bias=text_alone(service.tokenizer.images, config.logit_bias))
    return Request(prompt, config, salt=body.user or "", trace=trace, constraint=constraint)


def require_model(service: Service, name: str | None) -> None:
    """Refuse the name of another model: to answer in its place would be to pretend."""
    if name is not None and name != service.name:
        raise ApiError(
            404, f"There is no model {name[:100]!r} here, only {service.name!r}.", "model", "model_not_found"
        )


@dataclass
class Asked:
    """The answers of one HTTP request, one a prompt, and what has to be left when it is over."""

    closing: contextlib.AsyncExitStack
    answers: list[Answer] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.answers[0].seed

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.prompt_tokens for answer in self.answers)

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(number of the choice, piece) as they come; the choices of the second prompt follow those of the first."""
        if len(self.answers) == 1:
            async for piece in self.answers[0].pieces():
                yield piece.token.sample, piece
            return
        merged: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue()
        tasks = [asyncio.ensure_future(self._into(merged, place)) for place in range(len(self.answers))]
        try:
            open_answers = len(tasks)
            while open_answers:
                found = await merged.get()
                if found is None:
                    open_answers -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    yield found
        finally:
            for task in tasks:
                task.cancel()

    async def _into(self, merged: asyncio.Queue[tuple[int, Piece] | BaseException | None], place: int) -> None:
        answer = self.answers[place]
        first = place * answer.live.config.num_return_sequences
        try:
            async for piece in answer.pieces():
                merged.put_nowait((first + piece.token.sample, piece))
            merged.put_nowait(None)
        except Exception as error:
            merged.put_nowait(error)


async def ask(service: Service, key: str, makers: Sequence[Callable[[], Request]]) -> Asked:
    """Ask the engine; nothing stays behind if one of several is refused. The caller closes `Asked.closing`."""
    async with contextlib.AsyncExitStack() as stack:
        asked = Asked(contextlib.AsyncExitStack())
        for each in makers:
            asked.answers.append(await stack.enter_async_context(service.answering(each, key)))
        asked.closing = stack.pop_all()
        return asked
    raise AssertionError


@dataclass
class Written:
    """One choice, while it is being written."""

    text: str = ""
    pieces: list[Piece] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.token.text
        self.pieces.append(piece)
        self.finish_reason = finish(piece)


async def collect(asked: Asked, choices: int) -> list[Written]:
    """All choices, when the last one is finished."""
    written = [Written() for _ in range(choices)]
    async for number, piece in asked.pieces():
        written[number].add(piece)
    return written


def finish(piece: Piece) -> str | None:
    """OpenAI's word for why a text ended."""
    reason = piece.token.finish_reason
    return "stop" if reason == "eos" else reason


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def shown(pieces: Sequence[Piece]) -> list[Piece]:
    """The tokens of the text itself: without the one that ended it."""
    return [piece for piece in pieces if piece.token.finish_reason != "eos"]
