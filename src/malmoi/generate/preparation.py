"""A request made ready: checked, its settings completed, cut into jobs for the scheduler and writers for its samples.

Everything that can be wrong with a request is found here, before anything of it is queued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.backend import Backend
from malmoi.generate.beams import BeamSearch
from malmoi.generate.guidance import Guided
from malmoi.generate.image_form import ImageForm, Matcher
from malmoi.generate.prompts import read
from malmoi.generate.request import Request, Text
from malmoi.generate.scheduler import Branch, Job
from malmoi.generate.settings import Resolved, complete, end_ids, new_tokens
from malmoi.generate.trace import ALTERNATIVES
from malmoi.generate.writer import Writer

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer


@dataclass(eq=False)
class Live:
    """A request that is being answered: its jobs, and the samples that wait for the prompt to be read."""

    number: int
    request: Request
    config: Resolved
    followers: list[Writer] = field(default_factory=list)
    jobs: dict[Job, Writer | BeamSearch] = field(default_factory=dict)


def prepare(
    request: Request,
    number: int,
    backend: Backend,
    base: GenerationConfig,
    tokenizer: GPT4Tokenizer | None,
    check: Callable[[int, int], None],
) -> Live:
    """The request with its jobs. `check(positions, width)` refuses what could never run. Raises `MalmoiError`."""
    prompts = read(
        request.prompt_ids,
        vocab_size=backend.vocab_size,
        pad_token_id=base.pad_token_id,
        eos_ids=end_ids(base.eos_token_id),
    )
    if len(prompts.lengths) != 1:
        raise MalmoiError(f"A request has one prompt, but {len(prompts.lengths)} were given. Make a request each.")
    (prompt,) = prompts.rows()
    config = complete(request.config, {}, base, len(prompt), backend.max_position, backend.vocab_size)
    if (config.stop_strings or request.constraint is not None) and tokenizer is None:
        raise MalmoiError(
            f"{'stop_strings' if config.stop_strings else 'A constraint'} speaks of text, so generate() needs the "
            "tokenizer as well: generate(..., tokenizer=...)."
        )
    if config.num_beams > 1 and request.trace is not False:
        raise MalmoiError("Beam search keeps no trace of single tokens. Leave out trace, or use num_beams=1.")
    positions = len(prompt) + new_tokens(config, len(prompt)) - 1
    live = Live(number, request, config)
    unfinished = tokenizer.images.unfinished(prompt) if tokenizer is not None and tokenizer.images is not None else None
    without = prompt[len(prompt) - unfinished :] if unfinished and config.guidance_scale != 1 else []
    if without and config.num_beams > 1:
        raise MalmoiError("Beam search takes no guidance. Use guidance_scale=1, or num_beams=1.")
    check(positions, 2 if without else config.num_beams)
    copies = 1 if config.num_beams > 1 else config.num_return_sequences
    writers = [
        _writer(live, list(prompt), sample, backend, tokenizer, unfinished or 0, without) for sample in range(copies)
    ]
    if without:  # each sample has two rows of its own
        for writer in writers:
            assert isinstance(writer, Guided)
            branches = [Branch(tokens, request.salt) for tokens in (writer.tokens, writer.without)]
            job = Job((number, writer.number), branches, positions, width=2, keeps_cache=config.use_cache)
            live.jobs[job] = writer
        return live
    first, *live.followers = writers
    job = Job(
        order=(number, 0),
        branches=[Branch(first.tokens, request.salt)],
        positions=positions,
        width=config.num_beams,
        followers=len(live.followers),
        keeps_cache=config.use_cache,
    )
    live.jobs[job] = BeamSearch(first, tokenizer) if config.num_beams > 1 else first
    return live


def _writer(
    live: Live,
    prompt: list[int],
    sample: int,
    backend: Backend,
    tokenizer: GPT4Tokenizer | None,
    inside: int,
    without: list[int],
) -> Writer:
    """Sample number `sample`; its prompt ends with `inside` tokens of a picture, those `without` any prompt."""
    request, config = live.request, live.config
    limit = new_tokens(config, len(prompt))
    matcher: Matcher | None = None
    if request.constraint is not None:
        matcher = request.constraint.matcher(tokenizer, backend.vocab_size, end_ids(config.eos_token_id))
    if tokenizer is not None and tokenizer.images is not None:
        matcher = ImageForm(tokenizer.images, backend.vocab_size, limit, inside, matcher)
    settings = {
        "eos_ids": end_ids(config.eos_token_id),
        "limit": limit,
        "number": sample,
        "text": Text(tokenizer, config.stop_strings) if tokenizer is not None else None,
        "matcher": matcher,
        "alternatives": _alternatives(request.trace),
        "vocabulary": tokenizer,
    }
    return Guided(prompt, config, without=list(without), **settings) if without else Writer(prompt, config, **settings)


def _alternatives(trace: bool | int) -> int | None:
    return None if trace is False else ALTERNATIVES if trace is True else int(trace)
