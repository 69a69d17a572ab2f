"""/v1/completions: texts and ids, several prompts, the older form of logprobs, streams."""

import json

import pytest

from serve.conftest import END_ID, IDS, TOKENIZER

URL = "/v1/completions"


def test_prompts_may_be_a_text_ids_or_several_texts(client):
    text = client.post(URL, json={"prompt": "hello", "max_tokens": 3, "temperature": 0}).json()["choices"]
    ids = client.post(URL, json={"prompt": TOKENIZER.encode("hello"), "max_tokens": 3, "temperature": 0}).json()[
        "choices"
    ]
    both = client.post(URL, json={"prompt": ["hello", "hi"], "n": 2, "max_tokens": 3, "seed": 1}).json()
    assert text == ids and [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    assert both["usage"]["completion_tokens"] == 12


def test_control_tokens_are_no_prompt(client):
    refused = client.post(URL, json={"prompt": [IDS[0], END_ID]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt.1")


@pytest.mark.parametrize("prompt", [[], [[]], ["x"] * 9, 3, None, [True], ["x", 3]])
def test_what_is_no_prompt_is_a_400(client, prompt):
    assert client.post(URL, json={"prompt": prompt}).status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_what_is_not_supported_is_a_400_that_names_it(client, fields, param):
    refused = client.post(URL, json={"prompt": "x", **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert client.post(URL, json={"prompt": "x", "max_tokens": 1, "echo": False, "best_of": 1}).status_code == 200


def test_the_older_logprobs(client):
    choice = client.post(URL, json={"prompt": "x", "max_tokens": 4, "logprobs": 2, "temperature": 0}).json()["choices"][
        0
    ]
    facts = choice["logprobs"]
    assert len(facts["tokens"]) == len(facts["token_logprobs"]) == len(facts["text_offset"]) == 4
    assert all(len(best) == 2 for best in facts["top_logprobs"]) and facts["text_offset"][0] == 0


def test_a_stream_of_two_prompts_tells_them_apart(client):
    asked = {"prompt": ["hello", "hi"], "max_tokens": 4, "temperature": 0}
    whole = [choice["text"] for choice in client.post(URL, json=asked).json()["choices"]]
    texts = ["", ""]
    said = client.post(URL, json={**asked, "stream": True, "explain": True}).text.split("\n\n")
    assert said[-2] == "data: [DONE]"
    for line in said[:-2]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            texts[choice["index"]] += choice["text"]
            assert len(choice["explain"]) == 1
    assert texts == whole
