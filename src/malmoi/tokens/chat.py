"""A conversation to ids, in one place.

A message is written as

    <|start|>user<|message|>What is a malmoi?<|end|>

and the model's turn begins with `<|start|>assistant<|message|>`; it ends it with `<|end|>`. The angle-bracketed words are
control tokens, single ids that no text can produce, so that a message cannot end itself early or speak in another's role.
`render` also says which ids the model is taught: the assistant's words and the `<|end|>` after them.

The same format stands in `chat_template.jinja` for programs that render templates (transformers, vLLM, llama.cpp). They
render to text and look for control tokens in it afterwards, so that there a message that spells `<|end|>` does end itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from malmoi.config import MalmoiError, nearest

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer

START = "<|start|>"
MESSAGE = "<|message|>"
END = "<|end|>"
ROLES = ("system", "developer", "user", "assistant", "tool")

TEMPLATE = """\
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|message|>' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {{- part['text'] }}
        {%- endfor %}
    {%- endif %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|message|>' }}
{%- endif %}
"""


def checked(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(role, text) of each message. `content` is a text or a list of {"type": "text", "text": ...} parts, which are joined.

    Raises `MalmoiError` that names the index of a message of an unknown shape or role.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise MalmoiError(f"A conversation is a list of messages, but this is {type(messages).__name__}.")
    return [_checked(index, message) for index, message in enumerate(messages)]


def _checked(index: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise MalmoiError(
            f'messages[{index}] is {type(message).__name__}, but a message is {{"role": ..., "content": ...}}.'
        )
    for key in ("role", "content"):
        if key not in message:
            raise MalmoiError(
                f"messages[{index}] has no '{key}'; its keys are {', '.join(map(str, message)) or 'none'}."
            )
    role = message["role"]
    if role not in ROLES:
        raise MalmoiError(
            f"messages[{index}] has the role {role!r}.{nearest(str(role), ROLES)} Known roles: {', '.join(ROLES)}."
        )
    return role, _text(index, message["content"])


def _text(index: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise MalmoiError(f"messages[{index}]: content is {type(content).__name__}, not a text or a list of parts.")
    for at, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise MalmoiError(
                f'messages[{index}]: part {at} of the content is not {{"type": "text", "text": "..."}}: {part!r:.80}'
            )
    return "".join(part["text"] for part in content)


def render(tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """The ids of a conversation and, for each, 1 if the model is taught to say it, else 0: both lists of length T."""
    start, message_id, end = _control_ids(tokenizer)
    ids: list[int] = []
    mask: list[int] = []
    for role, text in checked(messages):
        head, content = tokenizer.encode_batch([role, text], add_special_tokens=False)
        ids += [start, *head, message_id, *content, end]
        mask += [0] * (len(head) + 2) + [int(role == "assistant")] * (len(content) + 1)
    return ids, mask


def prompt_ids(
    tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> list[int]:
    """The ids of a conversation, with `add_generation_prompt` up to where the assistant begins to speak."""
    ids, _ = render(tokenizer, messages)
    if add_generation_prompt:
        start, message_id, _ = _control_ids(tokenizer)
        ids += [start, *tokenizer.encode("assistant", add_special_tokens=False), message_id]
    return ids


def render_text(
    tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> str:
    """The conversation as text, control tokens spelt out: for reading, never for encoding again."""
    _control_ids(tokenizer)
    text = "".join(f"{START}{role}{MESSAGE}{content}{END}" for role, content in checked(messages))
    return text + (f"{START}assistant{MESSAGE}" if add_generation_prompt else "")


def _control_ids(tokenizer: GPT4Tokenizer) -> tuple[int, int, int]:
    missing = [token for token in (START, MESSAGE, END) if token not in tokenizer.special_tokens]
    if missing:
        raise MalmoiError(f"This tokenizer has no control token {missing[0]}, so that it cannot write a conversation.")
    known = tokenizer.special_tokens
    return known[START], known[MESSAGE], known[END]
