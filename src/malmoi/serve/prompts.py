"""From what a client said to the ids that the model goes on from.

Only here do a request's words become tokens. Control tokens come from the chat renderer alone: a text that spells one
is text, and ids that a client gives (an answer begun, to go on another way) may be ordinary tokens only, or where the
model draws those of well-formed pictures, which a client could as well send as files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from malmoi.serve.errors import ApiError
from malmoi.tokens.chat import end_of_turn_id, prompt_ids

if TYPE_CHECKING:
    from malmoi.serve.service import Service


def chat_prompt(
    service: Service,
    messages: Sequence[Mapping[str, Any]],
    answer_ids: Sequence[int] = (),
    continue_final_message: bool = False,
) -> list[int]:
    """The ids of a conversation up to where the model speaks: after `answer_ids`, the beginning of its answer, or with
    `continue_final_message` in the last message, which is the assistant's. Raises `MalmoiError` for what is no
    conversation, `ApiError` for a control token among the ids."""
    tokenizer = service.tokenizer
    last = messages[-1] if messages else {}
    if continue_final_message:
        if answer_ids:
            raise ApiError(400, "Give answer_ids or continue_final_message, not both.", param="answer_ids")
        if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
            raise ApiError(
                400, "continue_final_message needs a last message of the assistant, as text.", param="messages"
            )
        messages = messages[:-1]
        if not messages:
            raise ApiError(400, "There is nothing before the message to be continued.", param="messages")
        answer_ids = tokenizer.encode(last["content"], add_special_tokens=False)
    _require_room(service, messages)
    begun = ordinary(service, answer_ids, "answer_ids", pictures=True)
    return [*prompt_ids(tokenizer, messages, add_generation_prompt=True), *begun]


def _require_room(service: Service, messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse more pictures than the context could hold before one of them is unpacked."""
    known = service.tokenizer.images
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    count = sum(part["type"] == "image_url" for content in contents for part in content)
    if known is not None and count * known.length > service.context:
        raise ApiError(
            400,
            f"The conversation holds {count} pictures of {known.length} tokens each; the model's context is "
            f"{service.context} tokens. Send fewer.",
            "messages",
            "invalid_value",
        )


def ordinary(service: Service, ids: Sequence[int], param: str, *, pictures: bool = False) -> list[int]:
    """The ids, if all of them are tokens of a text (or, with `pictures`, of whole pictures, the last of which may be
    unfinished); a client cannot give other control tokens."""
    control = set(service.tokenizer.special_tokens.values())
    known = service.tokenizer.images if pictures else None
    inside = 0  # tokens of a picture before this one
    for place, token in enumerate(ids):
        if known is not None and (inside or token == known.begin):
            right = known.may_stand(inside, token)
            inside = (inside + 1) % known.length
        else:
            right = token not in control and 0 <= token < len(service.tokenizer)
        if not right:
            what = "does not go on with the picture before it" if inside else "is no token of a text"
            raise ApiError(400, f"{param}[{place}]: {token} {what}.", f"{param}.{place}", "invalid_value")
    return list(ids)


def chat_ends(service: Service) -> tuple[int, ...]:
    """The ids with which a turn ends, besides those with which a text does."""
    own = service.base.eos_token_id
    ends = (own,) if isinstance(own, int) else tuple(own or ())
    turn = end_of_turn_id(service.tokenizer)
    return tuple(dict.fromkeys((*ends, turn))) if turn is not None else ends


def text_prompt(service: Service, text: str) -> list[int]:
    """The ids of a text to be continued; of an empty one the id after which any text may begin."""
    ids = service.tokenizer.encode(text)
    if not ids and service.tokenizer.eos_token_id is not None:
        return [service.tokenizer.eos_token_id]
    return list(ids)
