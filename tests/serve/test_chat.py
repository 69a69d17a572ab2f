"""/v1/chat/completions: fields that do what they say, refusals that name the field, streams, tools, traces."""

import json

import pytest

from malmoi import __version__
from malmoi.serve import schema
from malmoi.serve.app import create_app
from malmoi.serve.chat import plain
from serve.conftest import ANSWER, END_ID, HERE, IDS, TOKENIZER, question, rambles, service_of

URL = "/v1/chat/completions"


def events(text):
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def wild():
    from fastapi.testclient import TestClient

    with TestClient(create_app(service_of(rambles)), base_url=HERE) as client:
        yield client


def test_an_answer_carries_text_usage_seed_and_hash(client):
    made = client.post(URL, json=question(seed=7)).json()
    assert made["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert made["choices"][0]["finish_reason"] == "stop"
    usage = made["usage"]
    assert usage["completion_tokens"] == len(IDS) + 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (made["seed"], made["model"], made["model_hash"]) == (7, "made-up", "0123456789abcdef0123")
    assert made["system_fingerprint"] == f"malmoi-{__version__}-0123456789abcdef"


def test_the_reported_seed_repeats_an_answer_and_fits_into_a_browsers_number(wild):
    first = wild.post(URL, json=question(max_tokens=12)).json()
    again = wild.post(URL, json=question(max_tokens=12, seed=first["seed"])).json()
    other = wild.post(URL, json=question(max_tokens=12)).json()
    assert first["seed"] < 2**53
    assert first["choices"] == again["choices"] != other["choices"]


def test_a_stream_is_the_answer_in_pieces(client):
    made = events(client.post(URL, json=question(stream=True, stream_options={"include_usage": True})).text)
    deltas = [event["choices"][0]["delta"] for event in made[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    assert all("�" not in delta.get("content", "") for delta in deltas)
    assert made[-2]["choices"][0]["finish_reason"] == "stop"
    assert made[-1]["choices"] == [] and made[-1]["usage"]["completion_tokens"] == len(IDS) + 1
    assert len({event["id"] for event in made}) == 1


def test_n_gives_answers_that_differ_and_the_stream_tells_them_apart(wild):
    whole = wild.post(URL, json=question(n=3, max_tokens=8, seed=5)).json()["choices"]
    assert len({choice["message"]["content"] for choice in whole}) == 3
    texts = ["", "", ""]
    for event in events(wild.post(URL, json=question(n=3, max_tokens=8, seed=5, stream=True)).text):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole]


def test_logprobs_have_bytes_and_alternatives_and_leave_out_the_end(client):
    content = client.post(URL, json=question(logprobs=True, top_logprobs=3)).json()["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == ANSWER
    assert all(len(one["top_logprobs"]) == 3 for one in content)
    assert all(one["top_logprobs"][0]["logprob"] == one["logprob"] > -0.001 for one in content)


def test_explain_gives_a_trace_of_every_token_with_its_cost(client):
    made = client.post(URL, json=question(explain=True, temperature=0.7, top_k=2)).json()
    traces = made["choices"][0]["explain"]
    assert [trace["id"] for trace in traces] == [*IDS, END_ID]
    assert {"probability", "rank", "entropy", "alternatives", "removed", "seconds", "joules"} <= traces[0].keys()
    assert {"temperature", "top_k"} <= traces[0]["removed"].keys()
    assert (sum(trace["seconds"] for trace in traces) > 0 and "busy core" in made["energy_method"]) or "RAPL" in made[
        "energy_method"
    ]
    streamed = events(client.post(URL, json=question(explain=True, temperature=0.7, top_k=2, stream=True)).text)
    told = [trace for event in streamed for choice in event["choices"] for trace in choice.get("explain", [])]
    strip = lambda many: [{k: v for k, v in one.items() if k not in ("seconds", "joules")} for one in many]  # noqa: E731
    assert strip(told) == strip(traces)


def test_explain_tells_what_a_form_removed(wild):
    """Before and after a constraint too: what it forbids has no probability left; the mass that it moved is told."""
    asked = question(explain=True, response_format={"type": "json_object"}, temperature=0.9, max_tokens=40, seed=2)
    choice = wild.post(URL, json=asked).json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    first = choice["explain"][0]
    assert first["removed"]["constraint"] > 0.5 and next(iter(first["removed"])) == "constraint"
    assert [other["after"]["constraint"] for other in first["alternatives"]].count(None) >= 5


def test_a_json_object_is_one(wild):
    form = {"type": "json_object"}
    for seed in range(3):
        choice = wild.post(URL, json=question(response_format=form, seed=seed, max_tokens=600)).json()["choices"][0]
        assert choice["message"]["content"].startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_answer_ids_go_on_from_an_answer_begun(client):
    made = client.post(URL, json=question(answer_ids=IDS[:3])).json()
    assert made["usage"]["completion_tokens"] == len(IDS) - 3 + 1
    whole = client.post(URL, json=question(answer_ids=IDS)).json()
    assert whole["choices"][0]["message"]["content"] == ""


def test_continue_final_message_goes_on_with_it(client):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    made = client.post(URL, json={"messages": messages, "continue_final_message": True}).json()
    assert "hello" + made["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("token", [END_ID, *list(TOKENIZER.special_tokens.values())[:2], len(TOKENIZER)])
def test_answer_ids_cannot_be_control_tokens(client, token):
    refused = client.post(URL, json=question(answer_ids=[IDS[0], token]))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "answer_ids.1"


def test_a_stop_string_ends_the_text_before_it(client):
    made = client.post(URL, json=question(stop=["안녕", "nothing"])).json()["choices"][0]
    assert (made["message"]["content"], made["finish_reason"]) == ("hello ", "stop")


def test_logit_bias_forbids_a_token(client):
    made = client.post(URL, json=question(logit_bias={str(IDS[0]): -100}, temperature=0, max_tokens=1)).json()
    assert not ANSWER.startswith(made["choices"][0]["message"]["content"] or "\0")


def test_a_length_that_is_reached_is_told(client):
    made = client.post(URL, json=question(max_completion_tokens=2)).json()
    assert made["choices"][0]["finish_reason"] == "length" and made["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tempreature": 1}, "tempreature"),
        ({"functions": []}, "functions"),
        ({"n": 9}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"logit_bias": {"no": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"stop": [""]}, None),
        ({"stop": ["x"] * 17}, None),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"seed": -1}, "seed"),
        ({"answer_ids": [True]}, "answer_ids.0"),
    ],
)
def test_what_cannot_be_meant_is_a_400_that_names_the_field(client, fields, param):
    refused = client.post(URL, json=question(**fields))
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


def test_an_unknown_field_names_the_nearest(client):
    assert "temperature" in client.post(URL, json=question(tempreature=1)).json()["error"]["message"]


def test_several_answers_at_temperature_0_are_refused_with_the_reason(client):
    refused = client.post(URL, json=question(n=2, temperature=0))
    assert refused.status_code == 400 and "all be the same" in refused.json()["error"]["message"]


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(client):
    long = {"messages": [{"role": "user", "content": "word " * 2000}]}
    refused = client.post(URL, json=long)
    assert refused.status_code == 400 and "1024" in refused.json()["error"]["message"]


def test_another_models_name_is_a_404(client):
    refused = client.post(URL, json=question(model="gpt-4"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_json_schema_is_kept_by_a_model_that_has_never_seen_json(wild):
    schema_ = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema_, "strict": True}}
    for seed in range(4):
        made = wild.post(URL, json=question(response_format=form, seed=seed, max_tokens=200)).json()
        value = json.loads(made["choices"][0]["message"]["content"])
        assert value["colour"] in ("red", "blue") and 0 <= value["count"] <= 9


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"day": {"enum": ["mon", "tue"]}},
            "required": ["day"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_required_tool_is_called_with_arguments_that_fit(wild, choice):
    asked = question(tools=[TOOL], tool_choice=choice, max_tokens=300, seed=3)
    made = wild.post(URL, json=asked).json()["choices"][0]
    (call,) = made["message"]["tool_calls"]
    assert made["finish_reason"] == "tool_calls" and made["message"]["content"] is None
    assert json.loads(call["function"]["arguments"])["day"] in ("mon", "tue")
    last = [event["choices"][0] for event in events(wild.post(URL, json={**asked, "stream": True}).text)]
    (streamed,) = [choice["delta"]["tool_calls"][0] for choice in last if "tool_calls" in choice["delta"]]
    assert streamed["function"] == call["function"] and last[-1]["finish_reason"] == "tool_calls"


def test_with_auto_a_text_stays_a_text_and_none_allows_everything(client):
    for choice in ("auto", "none"):
        made = client.post(URL, json=question(tools=[TOOL], tool_choice=choice)).json()["choices"][0]
        assert made["message"]["content"] == ANSWER and "tool_calls" not in made["message"]


def test_a_call_and_its_result_can_be_said_again():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"day": "mon"}'}}
    said = schema.Message.model_validate({"role": "assistant", "content": None, "tool_calls": [call]})
    assert json.loads(plain(said)["content"]) == {"name": "weather", "arguments": {"day": "mon"}}


def test_a_spelt_control_token_is_text(client):
    plain_text = client.post("/tokenize", json={"text": "<|end|>"}).json()
    assert END_ID not in plain_text["tokens"] and plain_text["count"] > 1
