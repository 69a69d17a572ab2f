"""What a server says of itself, and text to tokens and back."""

import pytest

from serve.conftest import END_ID, IDS, TOKENIZER


def test_models(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["context_length"], model["vocab_size"]) == ("made-up", 1024, len(TOKENIZER))
    assert client.get("/v1/models/made-up").json() == model
    assert client.get("/v1/models/other").status_code == 404


def test_health_and_readiness(client):
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json()["status"] == "ready"


def test_tokens_and_back(client):
    text = "hello 세상 👋"
    tokens = client.post("/tokenize", json={"text": text}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(TOKENIZER.encode(text))
    assert client.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {"text": text}


@pytest.mark.parametrize("token", [END_ID, len(TOKENIZER)])
def test_control_tokens_are_no_text(client, token):
    assert client.post("/detokenize", json={"tokens": [IDS[0], token]}).status_code == 400


def test_pictures_are_refused_with_the_reason(client):
    refused = client.post("/v1/images/generations", json={"prompt": "a red circle"})
    assert refused.status_code == 400 and "text only" in refused.json()["error"]["message"]


def test_an_unknown_address_and_a_wrong_method_have_the_one_shape(client):
    for answer, status in ((client.get("/nothing"), 404), (client.get("/tokenize"), 405)):
        assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
