"""/v1/responses: the object, the events and their order, and what is not stored."""

import json

import pytest

from serve.conftest import ANSWER

URL = "/v1/responses"


def test_the_object(client):
    made = client.post(URL, json={"input": "hi", "instructions": "Be brief.", "seed": 1}).json()
    assert made["status"] == "completed" and made["output"][0]["content"][0]["text"] == ANSWER
    assert made["usage"]["total_tokens"] == made["usage"]["input_tokens"] + made["usage"]["output_tokens"]
    assert made["seed"] == 1 and made["model_hash"]


def test_a_conversation_may_be_given_and_a_cut_answer_says_so(client):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
        {"role": "user", "content": "again"},
    ]
    made = client.post(URL, json={"input": items, "max_output_tokens": 2}).json()
    assert made["status"] == "incomplete" and made["incomplete_details"] == {"reason": "max_output_tokens"}


def test_the_events_in_their_order(client):
    parts = client.post(URL, json={"input": "hi", "stream": True}).text.strip().split("\n\n")
    names = [part.split("\n")[0].removeprefix("event: ") for part in parts]
    data = [json.loads(part.split("\n")[1].removeprefix("data: ")) for part in parts]
    assert names == [one["type"] for one in data]
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(one["delta"] for one in data if one["type"] == "response.output_text.delta") == ANSWER


def test_a_form(client):
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": ["yes"]}}}
    made = client.post(URL, json={"input": "hi", "text": form, "max_output_tokens": 30}).json()
    assert json.loads(made["output"][0]["content"][0]["text"]) == "yes"


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "background", "reasoning", "include"])
def test_what_needs_a_memory_is_a_400_that_names_it(client, field):
    assert client.post(URL, json={"input": "hi", field: "x"}).json()["error"]["param"] == field
    assert client.post(URL, json={"input": "hi", "store": True}).status_code == 400
