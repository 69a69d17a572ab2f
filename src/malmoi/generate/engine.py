"""The engine: requests in, tokens out, many at once; the one way by which every model here speaks.

    request -> checked, settings completed -> waiting -> admitted when its blocks fit -> prompt read in chunks
            -> one token a step (or several, where guesses hold) -> text without broken characters or stop strings

New requests join while others are being written and leave when they end (continuous batching: Yu et al., "Orca",
2022). A sequence ends with an end-of-text token ("eos"), at a stop string or where its constraint is fulfilled
("stop"), at its length ("length"), or with an "error" of its own, which touches nobody else's. What it writes does not
depend on its company: draws are a function of the seed, the position and the number of the sample.

`Engine` is for who serves; `generate` (at once) and `stream` (piece by piece) are one call for one model, and
`model.generate` stands on the first. Nothing here needs torch: it computes with whatever `Backend` it is given.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.backend import Backend
from malmoi.generate.beams import BeamSearch
from malmoi.generate.guidance import Guided
from malmoi.generate.preparation import Live, prepare
from malmoi.generate.prompts import Prompts, read
from malmoi.generate.request import Finish, Generated, Request, Token
from malmoi.generate.scheduler import Chunk, Job, Plan, Scheduler
from malmoi.generate.settings import Resolved, complete, end_ids, resolve
from malmoi.generate.speculation import Speculation
from malmoi.generate.trace import TokenTrace
from malmoi.generate.writer import Writer

if TYPE_CHECKING:
    from malmoi.generate.constraint import Constraint
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

__all__ = ["Engine", "Finish", "Generated", "Request", "Token", "generate", "resolve", "stream"]

_BUDGET_ALONE = 4096  # of a call that has the model to itself
BUDGET = 512  # tokens read in a step: enough to keep a CPU's matrices busy, few enough that nobody waits long


class Engine:
    """Answers requests with a model: `Engine(model, tokenizer).stream([Request(ids), ...])`.

    `model` is a `GPT4LMHeadModel` or any `Backend`. The `tokenizer` makes text of tokens (without one `Token.text` is
    empty), and is needed for stop strings and constraints. `generation_config` are the model's own settings, by default
    those that it came with. `budget` bounds the tokens of a step. With `prefix_cache` prompts that begin alike are read
    once. `speculation` guesses tokens ahead; what is written stays the same up to the rounding of the backend, so that
    it is on by itself only where a backend says that it is `batch_invariant`.

    For servers: `submit` and `cancel` at any time, `step` in a loop, all from one thread.
    """

    def __init__(
        self,
        model: GPT4LMHeadModel | Backend,
        tokenizer: GPT4Tokenizer | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        budget: int = BUDGET,
        prefix_cache: bool = True,
        speculation: Speculation | bool | None = None,
    ) -> None:
        self.backend, self.base = _backend(model, generation_config)
        if speculation is None:
            speculation = getattr(self.backend, "batch_invariant", False)
        self.tokenizer = tokenizer
        self.speculation = Speculation() if speculation is True else speculation or None
        self.scheduler = Scheduler(self.backend.num_blocks, self.backend.block_size, budget, prefix_cache)
        self._live: dict[int, Live] = {}
        self._numbers = itertools.count()
        self._kept: dict[int, list[Token]] = {}  # tokens for streams that somebody else's step came upon

    def submit(self, request: Request) -> int:
        """Queue a request; its number, which its tokens carry. Raises `MalmoiError` for what cannot be meant."""
        return self.enter(self.prepare(request))

    def cancel(self, number: int) -> None:
        """Forget a request: its memory is free at once, and no more of its tokens come. Unknown numbers are ignored."""
        self._kept.pop(number, None)
        live = self._live.pop(number, None)
        if live is not None:
            for job in list(live.jobs):
                self._end(live, job)

    @property
    def busy(self) -> bool:
        """Whether any request is unanswered."""
        return bool(self._live)

    def step(self) -> list[Token]:
        """Go one step on: the new tokens of all requests, in the order of their age."""
        if self.speculation is not None:
            self.speculation.propose([(job, w) for live in self._live.values() for job, w in live.jobs.items()])
        plan = self.scheduler.plan()
        if not plan.chunks:
            return []
        owners = {job: live for live in self._live.values() for job in live.jobs}
        try:
            logits = self._read(plan)
        except MalmoiError as error:
            return [token for job in plan.chunks for token in self._fail(owners[job], job, error)]
        except BaseException:
            for live in {owners[job].number: owners[job] for job in plan.chunks}.values():
                self.cancel(live.number)  # what was to be written may be half written
            raise
        tokens: list[Token] = []
        at = 0
        for job, chunks in plan.chunks.items():
            count = sum(chunk.wanted for chunk in chunks)
            rows, at = logits[at : at + count], at + count
            for chunk in chunks:
                self.scheduler.advance(chunk.branch, chunk.known)
            if count:
                tokens += self._write(owners[job], job, chunks, rows)
        return sorted(tokens, key=lambda token: (token.request, token.sample))

    def stream(self, requests: Request | Iterable[Request]) -> Iterator[Token]:
        """Answer requests: their tokens as they come, `Token.request` counting the requests from 0.

        Mistakes are raised by the call itself, before the first token is asked for. Closing the iterator cancels what
        is still being written. Several streams of one engine may be read in turns.
        """
        asked = [requests] if isinstance(requests, Request) else list(requests)
        return self._tokens([self.prepare(request) for request in asked])

    def _tokens(self, prepared: Sequence[Live]) -> Iterator[Token]:
        places = {self.enter(live): place for place, live in enumerate(prepared)}
        self._kept.update({number: [] for number in places})
        try:
            while any(number in self._live for number in places) or any(map(self._kept.get, places)):
                mine = [number for number in places if self._kept.get(number)]
                for number in mine:
                    tokens, self._kept[number] = self._kept[number], []
                    for token in tokens:
                        yield replace(token, request=places[number])
                if not mine:
                    for token in self.step():
                        if token.request in self._kept:
                            self._kept[token.request].append(token)
        finally:
            for number in places:
                self.cancel(number)

    def prepare(self, request: Request) -> Live:
        """A request checked and made ready, nothing of it queued yet: may be called from any thread, while another one
        steps, as it may take long (a grammar, a long prompt). Raises `MalmoiError` like `submit`."""
        number = next(self._numbers)
        return prepare(request, number, self.backend, self.base, self.tokenizer, self.scheduler.check)

    def enter(self, live: Live) -> int:
        """Queue what `prepare` made; its number."""
        self._live[live.number] = live
        for job in live.jobs:
            self.scheduler.add(job)
        return live.number

    def _read(self, plan: Plan) -> NDArray[Any]:
        """Let the backend read what is planned: the wanted logits (W, V), job by job."""
        for source, target in plan.copies:
            self.backend.copy_block(source, target)
        chunks = [chunk for chunks in plan.chunks.values() for chunk in chunks]
        tables = np.zeros((len(chunks), max(len(chunk.branch.table) for chunk in chunks)), dtype=np.int32)
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        for number, chunk in enumerate(chunks):
            tables[number, : len(chunk.branch.table)] = chunk.branch.table
            read_now = chunk.tokens()
            positions += range(chunk.start, chunk.start + len(read_now))
            tokens += read_now
            sequences += [number] * len(read_now)
            wanted += range(len(tokens) - chunk.wanted, len(tokens))
        rows = [np.array(numbers, dtype=np.int32) for numbers in (tokens, positions, sequences)]
        began = time.perf_counter()
        logits = self.backend.step(rows[0], rows[1], rows[2], tables, np.array(wanted, dtype=np.int32))
        if self.speculation is not None and len(wanted) == len(tokens):
            self.speculation.measured(len(tokens), time.perf_counter() - began)
        return logits

    def _write(self, live: Live, job: Job, chunks: list[Chunk], rows: NDArray[Any]) -> list[Token]:
        """The logits of a job's next tokens are known: write them."""
        writer = live.jobs[job]
        if isinstance(writer, BeamSearch):
            tokens, speaking = self._search(live, job, writer, rows), [job]
        else:
            if isinstance(writer, Guided):
                rows, chunks = writer.guided(rows), chunks[:1]
            speaking = [job, *self._part(live, job)]
            chunks += [Chunk(follower.branches[0], 0, 0, []) for follower in speaking[1:]]
            voices = [live.jobs[each] for each in speaking]
            tokens = [
                token
                for each, voice, chunk in zip(speaking, voices, chunks, strict=True)
                if isinstance(voice, Writer)
                for token in self._speak(live, each, voice, chunk, rows)
            ]
        if not live.config.use_cache:
            for branch in (branch for each in speaking for branch in each.branches):
                self.scheduler.forget(branch)
        return tokens

    def _part(self, live: Live, job: Job) -> list[Job]:
        """The prompt has been read: the other samples go their own ways from here, over the same blocks."""
        parted: list[Job] = []
        for writer in live.followers:
            branch = self.scheduler.fork(job.branches[0])
            branch.tokens = writer.tokens
            parted.append(Job((live.number, writer.number), [branch], job.positions, keeps_cache=job.keeps_cache))
            live.jobs[parted[-1]] = writer
            self.scheduler.join(parted[-1])
        live.followers = []
        return parted

    def _speak(self, live: Live, job: Job, writer: Writer, chunk: Chunk, rows: NDArray[Any]) -> list[Token]:
        """The token that follows, and those after it for as long as the proposals were right."""
        tokens: list[Token] = []
        for place in range(len(chunk.proposals) + 1):
            try:
                token, why = writer.choose(rows[place])
                reason = writer.push(token)
            except MalmoiError as error:
                tokens += self._fail(live, job, error)
                break
            shown = writer.shown(ended=reason is not None)
            tokens.append(Token(token, shown, why, reason, live.number, writer.number))
            if reason is not None:
                self._end(live, job)
                break
            if place == len(chunk.proposals) or token != chunk.proposals[place]:
                break
            self.scheduler.advance(chunk.branch, 1)
        if self.speculation is not None and chunk.proposals:
            self.speculation.learn(job, len(chunk.proposals), len(tokens) - 1)
        return tokens

    def _search(self, live: Live, job: Job, search: BeamSearch, rows: NDArray[Any]) -> list[Token]:
        """All beams go one token on; when the search ends, the tokens of its best texts."""
        try:
            parents = search.advance(rows)
        except MalmoiError as error:
            return self._fail(live, job, error)
        old = job.branches
        job.branches = [self.scheduler.fork(old[parent]) for parent in parents]
        for branch, tokens in zip(job.branches, search.running, strict=True):
            branch.tokens = tokens
        for branch in old:
            self.scheduler.forget(branch)
        if parents:
            return []
        self._end(live, job)
        return search.tokens(live.number, live.config.num_return_sequences)

    def _fail(self, live: Live, job: Job, error: MalmoiError) -> list[Token]:
        """The job ends with an error; so do samples that would have parted from it."""
        writer = live.jobs[job]
        failed = [writer.writer if isinstance(writer, BeamSearch) else writer, *live.followers]
        live.followers = []
        self._end(live, job)
        return [
            Token(-1, writer.shown(ended=True), None, "error", live.number, writer.number, error) for writer in failed
        ]

    def _end(self, live: Live, job: Job) -> None:
        self.scheduler.remove(job)
        live.jobs.pop(job, None)
        if not live.jobs and not live.followers:
            self._live.pop(live.number, None)
        if self.speculation is not None:
            self.speculation.forget(job)


def _backend(model: GPT4LMHeadModel | Backend, base: GenerationConfig | None) -> tuple[Backend, GenerationConfig]:
    """What computes, and the model's own settings with the ids that its configuration knows."""
    config = getattr(model, "config", None)
    own: GenerationConfig = base or getattr(model, "generation_config", None) or GenerationConfig()
    eos = end_ids(own.eos_token_id, getattr(config, "eos_token_id", None))
    pad = own.pad_token_id if own.pad_token_id is not None else getattr(config, "pad_token_id", None)
    base = own.replace(eos_token_id=eos, pad_token_id=pad)
    if hasattr(model, "step"):
        return model, base  # pyright: ignore[reportReturnType]
    from malmoi.generate.torch_backend import TorchBackend

    return TorchBackend(model), base  # pyright: ignore[reportArgumentType]


def generate(
    model: GPT4LMHeadModel | Backend,
    input_ids: Any,
    config: GenerationConfig | None = None,
    *,
    attention_mask: Any = None,
    tokenizer: GPT4Tokenizer | None = None,
    trace: bool | int = False,
    constraint: Constraint | None = None,
    **settings: Any,
) -> Generated:
    """Continue every prompt.

    `input_ids`: a list of ids, a list of lists, an array, a tensor (T,) or (B, T) padded on the left with its
    `attention_mask`, or what a tokenizer returned. `settings` are fields of `GenerationConfig`, completed from the
    model's `generation_config`; `config` instead of them is a whole record. `tokenizer` is needed for `stop_strings`,
    a `constraint`, `texts` and the bytes in traces. `trace` asks for a `TokenTrace` a token (a number: with so many
    alternatives).

    Raises `MalmoiError` for prompts and settings that make no sense, and for NaN in the logits.
    """
    engine = Engine(model, tokenizer, budget=_BUDGET_ALONE, prefix_cache=False)
    prompts, config = _completed(engine, input_ids, attention_mask, config, settings)
    copies = config.num_return_sequences
    rows = len(prompts.lengths) * copies
    written: list[list[int]] = [[] for _ in range(rows)]
    texts: list[list[str]] = [[] for _ in range(rows)]
    traces: list[list[TokenTrace]] = [[] for _ in range(rows)]
    reasons: list[Finish] = ["length"] * rows
    requests = (Request(row, config, trace=trace, constraint=constraint) for row in prompts.rows())
    for token in engine.stream(requests):
        if token.error is not None:
            raise token.error
        row = token.request * copies + token.sample
        written[row].append(token.id)
        texts[row].append(token.text)
        if token.trace is not None:
            traces[row].append(token.trace)
        reasons[row] = token.finish_reason or reasons[row]
    return Generated(
        prompts=prompts,
        new_tokens=written,
        finish_reasons=reasons,
        config=config,
        texts=["".join(parts) for parts in texts] if tokenizer is not None else None,
        traces=traces if trace is not False else None,
        device=getattr(model, "device", "cpu"),
    )


def stream(
    model: GPT4LMHeadModel | Backend | Engine,
    tokenizer: GPT4Tokenizer,
    prompt_ids: Any,
    config: GenerationConfig | None = None,
    trace: bool | int = False,
    constraint: Constraint | None = None,
    **settings: Any,
) -> Iterator[Token]:
    """Continue one prompt, a `Token` at a time; the texts joined are what `generate` gives with the same seed.

    `model` may be an `Engine` that is kept from one call to the next: what begins as an earlier prompt did, as every
    turn of a conversation does, is then not read again. Mistakes are raised by the call itself, before the first token
    is asked for.
    """
    kept = isinstance(model, Engine)
    engine = model if kept else Engine(model, tokenizer, budget=_BUDGET_ALONE, prefix_cache=False)
    prompts, config = _completed(engine, prompt_ids, None, config, settings)
    if len(prompts.lengths) * config.num_return_sequences != 1:
        raise MalmoiError(
            "A stream writes one sequence. Give one prompt and num_return_sequences=1, or use generate()."
        )
    request = Request(prompts.rows()[0], config, trace=trace, constraint=constraint)
    return _raising(engine.stream(request))


def _raising(tokens: Iterator[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.error is not None:
            raise token.error
        yield token


def _completed(
    engine: Engine, input_ids: Any, mask: Any, config: GenerationConfig | None, settings: dict[str, Any]
) -> tuple[Prompts, Resolved]:
    """Checked prompts, and settings that are the same for all of them."""
    backend, base = engine.backend, engine.base
    wishes = config.model_dump() if config is not None else settings
    pad, eos = wishes.get("pad_token_id"), wishes.get("eos_token_id")
    prompts = read(
        input_ids,
        mask,
        vocab_size=backend.vocab_size,
        pad_token_id=pad if pad is not None else base.pad_token_id,
        eos_ids=end_ids(eos, base.eos_token_id),
    )
    longest = max(prompts.lengths)
    return prompts, complete(config, settings, base, longest, backend.max_position, backend.vocab_size)
