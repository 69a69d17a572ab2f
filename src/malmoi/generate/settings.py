"""What a person asked for, made complete and consistent before a single token is written.

Sampling means what people mean: who sets a `temperature`, `top_k`, `top_p` or `min_p`, or wants several sequences,
wants sampling; `temperature=0` is greedy; `do_sample`, when it is given, decides. Requests that contradict each other
are refused with the reason instead of being resolved silently.

Three layers, the later wins: the defaults of `GenerationConfig`, the model's own `generation_config.json` (`base`),
what was asked for in this call (`settings`). Only what was asked for in this call can be a contradiction; what a
model's folder merely suggests gives way.

Beam search (`num_beams` above 1) looks for the likeliest text and sampling draws one, so that only one of the two can
be asked for; the sequences that it returns are its best.

Lengths: `max_length` counts the prompt, `max_new_tokens` does not and wins where both are given. With neither, up to
256 new tokens are written, fewer where the context ends. A length that the context cannot hold is an error, not a
shorter text.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from malmoi.config import GenerationConfig, MalmoiError, nearest

DEFAULT_NEW_TOKENS = 256

# Neutral values: the setting changes nothing. A temperature of 1 is neutral in effect, but who writes it down wants
# to sample; 0 is not neutral, it is greedy.
_NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "num_return_sequences": 1}


class Resolved(GenerationConfig):
    """Settings that `resolve` has completed and checked for one call."""


def given(config: GenerationConfig) -> dict[str, Any]:
    """What a record asks for: its fields that differ from the defaults, as `resolve` takes them."""
    fields = GenerationConfig.model_fields
    return {name: value for name, value in config.model_dump().items() if value != fields[name].default}


def resolve(settings: Mapping[str, Any], base: GenerationConfig | None, prompt_length: int, context: int) -> Resolved:
    """The complete settings of one call: `do_sample` decided, `max_length` filled in, everything checked.

    `settings` are a call's own arguments (None: not given), `base` the model's, `prompt_length` the tokens of the
    longest prompt, `context` the model's `max_position_embeddings`. Each row may write
    `min(max_new_tokens, max_length - its prompt)` tokens (`new_tokens`).

    Raises `MalmoiError` for an unknown argument (naming the nearest), a value out of bounds, a contradiction, a prompt
    that leaves no room or a length beyond the context.
    """
    base = base or GenerationConfig()
    asked_for = {name: value for name, value in settings.items() if value is not None}
    known = GenerationConfig.model_fields
    for name in asked_for:
        if name not in known:
            raise MalmoiError(
                f"generate() has no argument '{name}'.{nearest(name, known)} Known arguments: {', '.join(known)}."
            )
    if isinstance(asked_for.get("stop_strings"), str):
        asked_for["stop_strings"] = (asked_for["stop_strings"],)
    num_beams = _beams(asked_for, base)
    do_sample = num_beams == 1 and _sampling(asked_for, base)
    whole = GenerationConfig(**{**base.model_dump(), **asked_for, "do_sample": do_sample, "num_beams": num_beams})
    if num_beams > 1 and whole.num_return_sequences > num_beams:
        raise MalmoiError(
            f"num_return_sequences={whole.num_return_sequences} asks for more texts than num_beams={num_beams} keeps. "
            f"Use num_beams={whole.num_return_sequences} or more."
        )
    if any(not stop for stop in whole.stop_strings):
        raise MalmoiError("stop_strings holds an empty text, which would stop everything at once. Leave it out.")
    return Resolved(**{**whole.model_dump(), **_lengths(asked_for, base, whole, prompt_length, context)})


def new_tokens(config: GenerationConfig, prompt_length: int) -> int:
    """How many tokens a row with a prompt of `prompt_length` may get under resolved settings."""
    limits = [config.max_new_tokens, config.max_length - prompt_length if config.max_length is not None else None]
    return max(0, min(limit for limit in limits if limit is not None))


def complete(
    config: GenerationConfig | None,
    settings: Mapping[str, Any],
    base: GenerationConfig,
    longest: int,
    context: int,
    vocab_size: int,
) -> Resolved:
    """The settings of a call, given as single `settings` or as a whole `config`, ready for the engine: resolved for a
    prompt of `longest` tokens, the ids that end a text as a tuple, the padding id and (when sampling) the seed filled
    in. `base` are the model's own settings.

    Raises `MalmoiError` like `resolve`, for both kinds of settings at once, and for ids outside the vocabulary.
    """
    if config is not None and settings:
        raise MalmoiError(f"Give either a GenerationConfig or single settings ({', '.join(settings)}), not both.")
    wished = config.eos_token_id if config is not None else settings.get("eos_token_id")
    eos_ids = end_ids(wished, base.eos_token_id)
    if any(not 0 <= token < vocab_size for token in eos_ids):
        raise MalmoiError(f"eos_token_id={wished} is outside the model's vocabulary, 0 to {vocab_size - 1}.")
    pad = config.pad_token_id if config is not None else settings.get("pad_token_id")
    if config is None:
        config = resolve(settings, base, longest, context)
    elif not isinstance(config, Resolved):
        config = resolve(given(config), None, longest, context)
    elif longest + 1 > (config.max_length or context):
        config = resolve({"max_length": config.max_length}, config, longest, context)  # says what does not fit
    wrong = [token for token in config.logit_bias if not 0 <= token < vocab_size]
    if wrong:
        raise MalmoiError(f"logit_bias names the token {wrong[0]}, but the vocabulary has ids 0 to {vocab_size - 1}.")
    changes: dict[str, Any] = {"eos_token_id": eos_ids, "pad_token_id": pad if pad is not None else base.pad_token_id}
    if config.do_sample and config.seed is None:
        changes["seed"] = new_seed()
    return Resolved(**{**config.model_dump(), **changes})


def end_ids(*wishes: int | Sequence[int] | None) -> tuple[int, ...]:
    """The first that is not None, as a tuple; an empty one means that nothing ends a text."""
    for wish in wishes:
        if wish is not None:
            return (wish,) if isinstance(wish, int) else tuple(wish)
    return ()


def new_seed() -> int:
    """A seed for who gave none: from torch where that is in use, so that `torch.manual_seed` repeats a script."""
    torch = sys.modules.get("torch")
    return int(torch.randint(2**62, ())) if torch is not None else secrets.randbits(62)


def _beams(given: Mapping[str, Any], base: GenerationConfig) -> int:
    """How many beams, or the contradiction with sampling in what was asked for."""
    sampling = {"do_sample": (False,), "temperature": (0,), "top_k": (0,), "top_p": (1,), "min_p": (0,)}
    wishes = [f"{name}={given[name]}" for name, off in sampling.items() if given.get(name, off[0]) not in off]
    if given.get("num_beams", 1) > 1 and wishes:
        raise MalmoiError(
            f"num_beams={given['num_beams']} looks for the likeliest text, but {', '.join(wishes)} asks to draw one. "
            "Leave one of the two out."
        )
    if "num_beams" in given:
        return given["num_beams"]
    return 1 if wishes or base.do_sample else base.num_beams


def _sampling(given: Mapping[str, Any], base: GenerationConfig) -> bool:
    """Whether to sample, or the contradiction in what was asked for."""
    explicit = given.get("do_sample")
    cold = given.get("temperature") == 0
    several = given.get("num_return_sequences", 1)
    wishes = [f"{name}={given[name]}" for name, neutral in _NEUTRAL.items() if given.get(name, neutral) != neutral]
    if given.get("temperature", 1) not in (0, 1):
        wishes.insert(0, f"temperature={given['temperature']}")

    if explicit is True and cold:
        raise MalmoiError(
            "do_sample=True and temperature=0 contradict each other: temperature 0 always takes the likeliest token. "
            "Leave one of them out, or choose a temperature above 0 (0.7 is usual)."
        )
    if explicit is False and wishes:
        raise MalmoiError(
            f"do_sample=False always takes the likeliest token, so {', '.join(wishes)} would have no effect"
            f"{' and all sequences would be the same' if several != 1 else ''}. Leave do_sample out, or the others."
        )
    if cold and several != 1 and explicit is None:
        raise MalmoiError(
            f"temperature=0 always takes the likeliest token, so the {several} sequences of num_return_sequences would "
            "all be the same. Choose a temperature above 0 (0.7 is usual), or num_return_sequences=1."
        )
    if explicit is not None:
        return bool(explicit)
    if cold:
        return False
    if wishes or "temperature" in given:
        return True
    if base.do_sample is not None:
        return base.do_sample
    return base.temperature not in (0, 1) or any(getattr(base, name) != value for name, value in _NEUTRAL.items())


def _lengths(
    given: Mapping[str, Any], base: GenerationConfig, asked: GenerationConfig, prompt_length: int, context: int
) -> dict[str, int | None]:
    """`max_length` and `max_new_tokens`, where the call's own lengths must fit and the model's suggestions give way."""
    room = context - prompt_length
    if room < 1:
        raise MalmoiError(
            f"The prompt has {prompt_length} tokens, but the model's context holds {context} in all, the answer "
            f"included. Shorten the prompt to at most {context - 1} tokens, or use a model with a larger "
            f"max_position_embeddings."
        )
    max_new, max_length = given.get("max_new_tokens"), given.get("max_length")
    if max_new is not None:
        if asked.max_new_tokens is not None and asked.max_new_tokens > room:
            raise MalmoiError(
                f"max_new_tokens={max_new} does not fit: the prompt has {prompt_length} tokens and the model's context "
                f"holds {context}, so at most {room} can be written."
            )
        lengths: dict[str, int | None] = {"max_new_tokens": asked.max_new_tokens, "max_length": context}
    elif max_length is not None:
        assert asked.max_length is not None
        if asked.max_length > context:
            raise MalmoiError(
                f"max_length={max_length} is beyond the model's context of {context} tokens "
                f"(max_position_embeddings). Use max_length={context} or less."
            )
        if asked.max_length <= prompt_length:
            raise MalmoiError(
                f"max_length={max_length} counts the prompt, which alone has {prompt_length} tokens: nothing could be "
                f"written. Use a larger max_length (at most {context}), or max_new_tokens."
            )
        lengths = {"max_new_tokens": None, "max_length": asked.max_length}
    else:
        suggested = base.max_new_tokens
        if suggested is None and (base.max_length is None or base.max_length <= prompt_length):
            suggested = DEFAULT_NEW_TOKENS
        ceiling = context if suggested is not None else min(base.max_length or context, context)
        lengths = {"max_new_tokens": suggested, "max_length": ceiling}
    possible = new_tokens(asked.replace(**lengths), prompt_length)
    if asked.min_new_tokens > possible:
        if "min_new_tokens" in given:
            raise MalmoiError(
                f"min_new_tokens={asked.min_new_tokens} asks for more than the {possible} tokens that may be written."
            )
        lengths["min_new_tokens"] = possible
    return lengths
