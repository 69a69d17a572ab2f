"""Between the event loop, which must never wait, and the engine, which computes all the time.

    route -> prepare (a small pool of threads) -> wait for a turn -> engine's thread -> tokens -> route

One thread owns the engine: it takes what has arrived (requests to begin, requests to forget), goes one step, and hands
the new tokens to the event loop. A client that goes away is forgotten before the next step begins.

Waiting is bounded and fair. At most `limits.RUNNING` requests are answered at once; of those that wait, each key's turn
comes in order, so that whoever sends a thousand requests delays his own. A turn ends with the last token, not when a
slow client has read it. What is computed outside the engine (`working`) takes places of the same number. Beyond
`limits.WAITING` the answer is 429 with the seconds after which to ask again, taken from how long answers have taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from malmoi import __version__
from malmoi.config import GenerationConfig, MalmoiError
from malmoi.energy import Meter
from malmoi.generate.engine import Engine
from malmoi.generate.preparation import Live
from malmoi.generate.request import Request, Token
from malmoi.serve import limits
from malmoi.serve.errors import ApiError, log_fault
from malmoi.serve.forms import Forms
from malmoi.serve.metrics import Metrics

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

Result = TypeVar("Result")

_SHARE = "; a step's joules are shared equally among the tokens that it wrote"


@dataclass(frozen=True, slots=True)
class Piece:
    """A token as it was written, with the seconds of its step and its share of the step's estimated joules."""

    token: Token
    seconds: float
    joules: float

    def explained(self) -> dict[str, Any]:
        """How it came to be chosen and what it cost, as plain data; of a request that is traced."""
        assert self.token.trace is not None
        return {**self.token.trace.to_dict(), "seconds": round(self.seconds, 6), "joules": round(self.joules, 6)}


@dataclass(eq=False)
class Answer:
    """The tokens of one request, as they come: `async for piece in answer.pieces()`."""

    live: Live
    key: str
    began: float = field(default_factory=time.monotonic)
    queue: asyncio.Queue[Piece | ApiError | None] = field(default_factory=asyncio.Queue)
    open_samples: int = 1
    over: bool = False
    first_token_after: float | None = None

    @property
    def seed(self) -> int:
        """Repeats the answer; 0 where nothing was drawn."""
        return self.live.config.seed or 0

    @property
    def prompt_tokens(self) -> int:
        return len(self.live.request.prompt_ids)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Raises `ApiError` where the engine could not go on, or took too long."""
        while True:
            left = self.began + limits.REQUEST_SECONDS - time.monotonic()
            try:
                piece = (
                    self.queue.get_nowait() if self.queue.qsize() else await asyncio.wait_for(self.queue.get(), left)
                )
            except asyncio.TimeoutError:
                raise ApiError(504, "The answer took too long and was ended.", code="timeout") from None
            if piece is None:
                return
            if isinstance(piece, ApiError):
                raise piece
            yield piece


class Service:
    """An engine that many may use at once, and what they need to know of its model.

    `name` is the model's, `model_hash` names its weights. `folder` is where it lies, if it does. `open_torch` opens the
    same model in torch, for who looks inside it; it is called once, when first needed.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: GPT4Tokenizer,
        name: str,
        *,
        model_hash: str = "",
        engine_name: str = "",
        folder: Path | None = None,
        open_torch: Callable[[], tuple[GPT4LMHeadModel, GPT4Tokenizer]] | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.name = engine, tokenizer, name
        self.model_hash, self.engine_name, self.folder = model_hash, engine_name, folder
        self.created = int(time.time())
        self.metrics = Metrics()
        self.meter = Meter.here()
        self.dead: str | None = None  # why nobody can be answered any more
        self._open_torch, self._torch, self._torch_lock = open_torch, None, threading.Lock()
        self.forms = Forms(tokenizer, engine.backend.vocab_size)
        self._pool = ThreadPoolExecutor(limits.THREADS, thread_name_prefix="malmoi-prepare")
        self._commands: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: dict[int, Answer] = {}  # those in the engine
        self._waiting: OrderedDict[str, deque[Answer]] = OrderedDict()  # each key's, the next key's turn first
        self._open: dict[str, int] = {}  # each key's requests, being prepared, waiting or running
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # each key's work outside the engine

    @property
    def context(self) -> int:
        return self.engine.backend.max_position

    @property
    def base(self) -> GenerationConfig:
        return self.engine.base

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: what has to be the same for the same seed to give the same answer."""
        return f"malmoi-{__version__}-{self.model_hash[:16]}"

    @property
    def energy_method(self) -> str:
        """Where the joules of a token come from."""
        return self.meter.method + _SHARE

    @property
    def load(self) -> dict[str, int]:
        pool = self.engine.scheduler.pool
        counts = {"running": self.running, "waiting": self.waiting}
        return {**counts, "blocks": pool.num_blocks, "blocks_free": pool.available}

    @property
    def running(self) -> int:
        return len(self._answers)

    @property
    def waiting(self) -> int:
        return sum(self._open.values()) - self.running

    def start(self) -> None:
        """Begin to answer, in the event loop that calls."""
        self._loop = asyncio.get_running_loop()
        self.meter.start()
        self._thread = threading.Thread(target=self._work, name="malmoi-engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """The engine's thread ends after its step; what is not answered yet is told so."""
        self._commands.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.forms.close()
        self.meter.stop()

    async def blocking(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call what takes its time in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def working(self, key: str, function: Callable[..., Result], *arguments: Any) -> Result:
        """The same for a whole request that the engine is not asked for. Of each key one is worked on at a time. Raises
        `ApiError` 429 where too many wait."""
        self._admit(key)
        try:
            async with self._turns[key]:
                return await self.blocking(function, *arguments)
        finally:
            self._give_back(key)

    def torch_model(self) -> tuple[GPT4LMHeadModel, GPT4Tokenizer]:
        """The model in torch, for looking inside; opened when first asked for. Blocks."""
        if self._open_torch is None:
            raise ApiError(400, "This server has no model that can be looked into.", code="not_available")
        with self._torch_lock:
            if self._torch is None:
                try:
                    self._torch = self._open_torch()
                except MalmoiError as error:
                    reason = str(error).replace(str(self.folder), self.name)  # no path leaves
                    raise ApiError(400, f"This needs the model in torch. {reason}", code="not_available") from None
            return self._torch

    @contextlib.asynccontextmanager
    async def answering(self, make: Callable[[], Request], key: str) -> AsyncIterator[Answer]:
        """Ask the engine, and forget the request when the block is left, finished or not.

        `make` builds the request, in a thread: it may tokenize, render and compile. Raises `ApiError` 429 where too
        many wait and 503 where the engine is dead, `MalmoiError` for what cannot be meant.
        """
        self._admit(key)
        answer: Answer | None = None
        try:
            live = await self.blocking(self._prepare, make, key)
            answer = Answer(live, key, open_samples=live.config.num_return_sequences)
            self.require_life()
            self._waiting.setdefault(key, deque()).append(answer)
            self._begin_next()
            yield answer
        finally:
            self._leave(key, answer)

    def _prepare(self, make: Callable[[], Request], key: str) -> Live:
        request = make()
        return self.engine.prepare(replace(request, salt=f"{key} {request.salt}"))  # no key finds another's prompts

    def _admit(self, key: str) -> None:
        self.require_life()
        mine = self._open.get(key, 0)
        if mine >= limits.PER_KEY or self.waiting >= limits.WAITING:
            self.metrics.refused += 1
            whose = "this key" if mine >= limits.PER_KEY else "the server"
            raise ApiError(
                429,
                f"Too many requests of {whose} are waiting. Ask again later.",
                code="rate_limit_exceeded",
                retry_after=self._seconds_until_room(),
            )
        self._open[key] = mine + 1

    def _seconds_until_room(self) -> int:
        return min(60, max(1, math.ceil(self.metrics.usual_seconds() * self.waiting / limits.RUNNING)))

    def require_life(self) -> None:
        """Raises 503 where no answer can be had any more."""
        if self.dead is not None:
            raise ApiError(503, "The engine has stopped; the server must be started again.", code="engine_dead")

    def _begin_next(self) -> None:
        while self._waiting and self.running < limits.RUNNING:
            key, queue = self._waiting.popitem(last=False)
            answer = queue.popleft()
            if queue:
                self._waiting[key] = queue  # behind the others
            self._answers[answer.live.number] = answer
            self.metrics.prompt_tokens += answer.prompt_tokens
            self._commands.put(lambda live=answer.live: self.engine.enter(live))

    def _give_back(self, key: str) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def _leave(self, key: str, answer: Answer | None) -> None:
        if answer is not None and answer.over:  # its place was given back with its last token
            return
        self._give_back(key)
        if answer is None:
            return
        if self._answers.pop(answer.live.number, None) is not None:
            self.metrics.cancelled += 1
            self._commands.put(lambda number=answer.live.number: self.engine.cancel(number))
        elif key in self._waiting and answer in self._waiting[key]:
            self._waiting[key].remove(answer)
            if not self._waiting[key]:
                del self._waiting[key]
        self._begin_next()

    def _work(self) -> None:
        """The engine's thread."""
        assert self._loop is not None
        try:
            while True:
                while not self.engine.busy or not self._commands.empty():
                    command = self._commands.get()
                    if command is None:
                        self._tell(self._end, ApiError(503, "The server is stopping.", code="stopping"))
                        return
                    command()
                began, spent = time.perf_counter(), self.meter.joules()
                tokens = self.engine.step()
                seconds, joules = time.perf_counter() - began, self.meter.joules() - spent
                self._tell(self._deliver, tokens, seconds, joules)
        except BaseException as error:  # out of memory, a fault in a backend: the process must not pretend to live
            log_fault("the engine has stopped", error)
            self.dead = type(error).__name__
            self._tell(self._end, ApiError(503, "The engine has stopped.", code="engine_dead"))

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everybody who waited
            self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, tokens: list[Token], seconds: float, joules: float) -> None:
        """In the event loop: give each answer its tokens."""
        metrics, now = self.metrics, time.monotonic()
        metrics.steps += 1
        metrics.busy_seconds += seconds
        metrics.joules += joules
        metrics.tokens += len(tokens)
        for token in tokens:
            answer = self._answers.get(token.request)
            if answer is None:  # forgotten meanwhile
                continue
            if answer.first_token_after is None:
                answer.first_token_after = now - answer.began
                metrics.first_token.observe(answer.first_token_after)
            if token.error is not None:
                metrics.failed += 1
                answer.queue.put_nowait(self._why(answer, token.error))
            else:
                answer.queue.put_nowait(Piece(token, seconds, joules / len(tokens)))
            if token.finish_reason is not None:
                answer.open_samples -= 1
                if answer.open_samples == 0:
                    answer.over = True
                    del self._answers[token.request]
                    self._give_back(answer.key)
                    metrics.finished += 1
                    metrics.whole_answer.observe(now - answer.began)
                    answer.queue.put_nowait(None)
        self._begin_next()

    def _why(self, answer: Answer, error: MalmoiError) -> ApiError:
        """What a client is told of a text that could not go on. Broken numbers are the model's: no answer is to be had
        from it any more."""
        if "logits are broken" in str(error):
            self.dead = str(error)
            return ApiError(
                503, "The model's numbers are broken; the server must be started again.", code="engine_dead"
            )
        status = 400 if answer.live.request.constraint is not None else 500
        return ApiError(status, str(error), code="generation_failed")

    def _end(self, why: ApiError) -> None:
        """In the event loop: nobody waits for an engine that is gone."""
        waiting = [answer for queue in self._waiting.values() for answer in queue]
        for answer in [*self._answers.values(), *waiting]:
            answer.queue.put_nowait(why)
