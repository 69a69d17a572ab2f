"""A conversation to ids, in one place.

A message is written as

    <|start|>user<|message|>What is a malmoi?<|end|>

and the model's turn begins with `<|start|>assistant<|message|>`; the model ends it with `<|end|>`. The words in angle
brackets are control tokens, single ids that no text can produce: a message cannot end itself early or speak in
another's role. A message may hold pictures among its words, as in OpenAI's API. `render` also says which ids the model
is taught: the assistant's words (and pictures) and the `<|end|>` after them.

The same format stands in `chat_template.jinja` for programs that render templates (transformers, vLLM, llama.cpp). They
look for control tokens in the rendered text, so that *there* a message that spells `<|end|>` does end itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from malmoi.config import MalmoiError, nearest
from malmoi.tokens import template
from malmoi.tokens.interleave import encode_parts
from malmoi.tokens.picture import Picture

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


Content = tuple[str | Picture, ...]  # neighbouring texts joined


def checked(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(role, text) of each message of a conversation without pictures; their parts are joined.

    Raises `MalmoiError` that names the index of a message of an unknown shape or role, or with a picture.
    """
    turns = checked_parts(messages)
    for index, (_, content) in enumerate(turns):
        if any(isinstance(part, Picture) for part in content):
            raise MalmoiError(f"messages[{index}] holds a picture, but here only text can be read.")
    return [(role, "".join(str(part) for part in content)) for role, content in turns]


def checked_parts(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Content]]:
    """(role, content) of each message. `content` is a text or a list of parts:

        {"type": "text", "text": "..."}
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}
        {"type": "image", "image": Picture(...)}        in Python only

    Raises `MalmoiError` that names the index of a message of an unknown shape or role.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise MalmoiError(f"A conversation is a list of messages, but this is {type(messages).__name__}.")
    if not messages:
        raise MalmoiError("The conversation is empty: it needs at least one message.")
    return [_checked(index, message) for index, message in enumerate(messages)]


def _checked(index: int, message: Any) -> tuple[str, Content]:
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
    return role, _content(index, message["content"])


def _content(index: int, content: Any) -> Content:
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, Sequence):
        raise MalmoiError(f"messages[{index}]: content is {type(content).__name__}, not a text or a list of parts.")
    parts: list[str | Picture] = []
    for at, part in enumerate(content):
        found = _part(f"messages[{index}]: part {at} of the content", part)
        if parts and isinstance(found, str) and isinstance(parts[-1], str):
            parts[-1] += found
        else:
            parts.append(found)
    return tuple(parts) or ("",)


def _part(where: str, part: Any) -> str | Picture:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "image" and isinstance(part.get("image"), Picture):
        return part["image"]
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if isinstance(url, str):
            try:
                return Picture.from_url(url)
            except MalmoiError as error:
                raise MalmoiError(f"{where}: {error}") from None
    raise MalmoiError(
        f'{where} is neither {{"type": "text", "text": "..."}} nor {{"type": "image_url", "image_url": '
        f'{{"url": "data:image/png;base64,..."}}}}: {part!r:.80}'
    )


def render(tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """The ids of a conversation and, for each, 1 if the model is taught to say it, else 0: both lists of length T."""
    control = _control_ids(tokenizer)
    if control is None:
        return template.to_ids_and_mask(tokenizer, _foreign_template(tokenizer), checked(messages))
    start, message, end = control
    ids: list[int] = []
    mask: list[int] = []
    for role, parts in checked_parts(messages):
        head, *rows = encode_parts(tokenizer, (role, *parts))
        content = list(itertools.chain.from_iterable(rows))
        ids += [start, *head, message, *content, end]
        mask += [0] * (len(head) + 2) + [int(role == "assistant")] * (len(content) + 1)
    return ids, mask


def prompt_ids(
    tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> list[int]:
    """The ids of a conversation, with `add_generation_prompt` up to where the assistant begins to speak."""
    control = _control_ids(tokenizer)
    if control is None:
        return template.to_ids(tokenizer, _foreign_template(tokenizer), checked(messages), add_generation_prompt)
    ids, _ = render(tokenizer, messages)
    if add_generation_prompt:
        start, message, _ = control
        ids += [start, *tokenizer.encode("assistant", add_special_tokens=False), message]
    return ids


def render_text(
    tokenizer: GPT4Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> str:
    """The conversation as text, control tokens spelt out: for reading, never for encoding again."""
    turns = checked(messages)
    if _control_ids(tokenizer) is None:
        plain = [{"role": role, "content": text} for role, text in turns]
        names = template.special_names(tokenizer)
        return template.render(_foreign_template(tokenizer), plain, add_generation_prompt, names)
    text = "".join(f"{START}{role}{MESSAGE}{content}{END}" for role, content in turns)
    return text + (f"{START}assistant{MESSAGE}" if add_generation_prompt else "")


def end_of_turn_id(tokenizer: GPT4Tokenizer) -> int | None:
    """The id with which the assistant ends its turn, where generation in a chat stops besides the end of text."""
    control = _control_ids(tokenizer)
    if control is not None:
        return control[2]
    known = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
    return next((tokenizer.special_tokens[name] for name in known if name in tokenizer.special_tokens), None)


_PAINT = {  # (taught, control) -> the terminal's code: taught is green, read is grey, control is in reverse
    (True, True): "1;7;32",
    (True, False): "1;32",
    (False, True): "7;90",
    (False, False): "90",
}


def view(tokenizer: GPT4Tokenizer, ids: Sequence[int], loss_mask: Sequence[int], colour: bool = True) -> str:
    """The tokens of a conversation for a terminal, each with its id: green ones are taught, grey ones only read.

    Control tokens stand in reverse. A token that holds a part of a character shows its bytes (`<EA B0>`), and nothing
    in a text can steer the terminal. Without `colour`, what is taught stands between + signs.

        print(view(tokenizer, *render(tokenizer, messages)))
    """
    if len(ids) != len(loss_mask):
        raise MalmoiError(f"{len(ids)} ids, but a loss mask of {len(loss_mask)}: they belong together one to one.")
    control = set(tokenizer.special_tokens.values())
    parts = []
    for index, taught in zip(ids, loss_mask, strict=True):
        piece = _visible(tokenizer.token_bytes(index))
        if colour:
            code = _PAINT[bool(taught), index in control]
            parts.append(f"\x1b[{code}m{piece}\x1b[0m\x1b[2m·{index}\x1b[0m")
        else:
            parts.append(f"+{piece}+·{index}" if taught else f"{piece}·{index}")
        if piece.endswith("⏎"):
            parts.append("\n")
        else:
            parts.append(" ")
    return "".join(parts).rstrip(" ")


def _visible(data: bytes) -> str:
    """A token's bytes as text that only shows: line breaks as ⏎, other control characters as escapes."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{data.hex(' ').upper()}>"
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else ascii(c)[1:-1] for c in text)


def _control_ids(tokenizer: GPT4Tokenizer) -> tuple[int, int, int] | None:
    """The ids of start, message and end where this tokenizer writes Malmoi's format, else None."""
    known = tokenizer.special_tokens
    own = all(token in known for token in (START, MESSAGE, END)) and tokenizer.chat_template in (None, TEMPLATE)
    return (known[START], known[MESSAGE], known[END]) if own else None


def _foreign_template(tokenizer: GPT4Tokenizer) -> str:
    if tokenizer.chat_template is None:
        raise MalmoiError(
            "This tokenizer has no chat template: its model was trained to go on with a text, not to converse. "
            "Give it plain text, or fine-tune it on conversations first."
        )
    return tokenizer.chat_template
