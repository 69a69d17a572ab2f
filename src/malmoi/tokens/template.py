"""Chat templates of models from elsewhere, without their weakness.

A model from elsewhere brings a Jinja template that writes a conversation as *text*, control tokens spelt out, and
everyone then looks for control tokens in that text: a user who types one has one. Here what people wrote is masked
before it is rendered and unmasked after the template's own control tokens were found. The ids are the ones that
transformers gives for every conversation except one that spells a control token; there the spelling stays text.

Templates run in Jinja's sandbox with nothing in reach but the messages.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: transformers' mark around what an assistant says. Its body stays."""

    tags = {"generation"}  # noqa: RUF012 (Jinja reads it from the class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals = {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "range": environment.globals["range"],  # the sandbox's, which is bounded
        "namespace": environment.globals["namespace"],
    }
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(template)


def render(
    template: str, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, special: Mapping[str, str]
) -> str:
    """The text that a template makes of {"role", "content"} messages; `special` gives it bos_token, eos_token ...

    Raises `MalmoiError` with what the template (or Jinja) objects to.
    """
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=add_generation_prompt, **special)
    except jinja2.TemplateSyntaxError as error:
        raise MalmoiError(f"The chat template is not valid Jinja (line {error.lineno}): {error.message}.") from None
    except jinja2.TemplateError as error:
        raise MalmoiError(f"The chat template refuses this conversation: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise MalmoiError(f"The chat template fails on this conversation: {type(error).__name__}: {error}") from None


def to_ids(
    tokenizer: GPT4Tokenizer, template: str, messages: Sequence[tuple[str, str]], add_generation_prompt: bool = False
) -> list[int]:
    """The ids of a conversation under a template: its control tokens are ids, the same spelling by a person is text."""
    masked, mark = _mask(tokenizer, messages)
    text = render(template, masked, add_generation_prompt, special_names(tokenizer))
    if mark not in text:
        return tokenizer.encode_rendered(text)
    spellings = list(tokenizer.special_tokens)
    control = re.compile("(" + "|".join(map(re.escape, sorted(spellings, key=len, reverse=True))) + ")")
    ids: list[int] = []
    for index, segment in enumerate(control.split(text)):
        if index % 2:
            ids.append(tokenizer.special_tokens[segment])
        elif segment:
            plain = re.sub(f"{mark}(\\d+){mark}", lambda found: spellings[int(found[1])], segment)
            ids += tokenizer.encode(plain, add_special_tokens=False)
    return ids


def _mask(tokenizer: GPT4Tokenizer, messages: Sequence[tuple[str, str]]) -> tuple[list[dict[str, str]], str]:
    """The messages with each spelling of control token number n as mark n mark, and the mark: an unused character."""
    spellings = {content: index for index, content in enumerate(tokenizer.special_tokens)}
    used = {character for _, text in messages for character in text}
    mark = next(character for character in map(chr, range(0xE000, 0xF900)) if character not in used)
    if not spellings:
        return [{"role": role, "content": text} for role, text in messages], mark
    control = re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))))

    def hide(text: str) -> str:
        return control.sub(lambda found: f"{mark}{spellings[found[0]]}{mark}", text)

    return [{"role": role, "content": hide(text)} for role, text in messages], mark


def special_names(tokenizer: GPT4Tokenizer) -> dict[str, str]:
    """The spellings that templates refer to by name."""
    by_id = {index: content for content, index in tokenizer.special_tokens.items()}
    named = {
        "bos_token": tokenizer.bos_token_id,
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
    }
    return {name: by_id.get(index, "") for name, index in named.items() if index is not None}


def to_ids_and_mask(
    tokenizer: GPT4Tokenizer, template: str, messages: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int]]:
    """The ids and the loss mask, found by rendering up to the beginning and up to the end of each assistant's turn.

    Counted are the assistant's tokens up to the last control token of the turn (what templates write after that, a line
    break often, a model need not say). Raises `MalmoiError` for a template that writes earlier turns differently once
    others follow: with such a one, what the model is taught would not be what it sees later.
    """
    ids = to_ids(tokenizer, template, messages)
    mask = [0] * len(ids)
    control = set(tokenizer.special_tokens.values())
    for index, (role, _) in enumerate(messages):
        if role != "assistant":
            continue
        before = to_ids(tokenizer, template, messages[:index], add_generation_prompt=True)
        after = to_ids(tokenizer, template, messages[: index + 1])
        if after[: len(before)] != before or ids[: len(after)] != after:
            raise MalmoiError(
                f"messages[{index}]: this model's chat template rewrites earlier turns, so that the part that the "
                f"assistant says cannot be told apart. Train on shorter conversations, or give another template."
            )
        ends = [at for at in range(len(before), len(after)) if after[at] in control]
        for at in range(len(before), ends[-1] + 1 if ends else len(after)):
            mask[at] = 1
    return ids, mask
