"""Looking inside over HTTP: the numbers are the model's own, nothing of the machine is told."""

import math

import pytest
import torch
from fastapi.testclient import TestClient

from malmoi.config import GenerationConfig, explain
from malmoi.serve.app import create_app
from malmoi.serve.inside import SETTINGS
from malmoi.serve.prompts import chat_prompt
from serve.conftest import HERE, TOKENIZER, question, service_of
from serve.opened import CONTEXT, opened


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("inside"))


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def truth(service, answer_ids=()):
    ids = chat_prompt(service, question()["messages"], answer_ids)
    model, _ = service.torch_model()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def test_the_next_tokens_distribution_is_the_models_and_the_settings(client, service):
    asked = question(temperature=0.5, top_k=3, n=2, stop=["x"], answer_ids=[TOKENIZER.encode("hello")[0]])
    trace = client.post("/inside/next", json=asked).json()
    logprobs = truth(service, asked["answer_ids"])
    best = logprobs.topk(len(trace["alternatives"]))
    assert [other["id"] for other in trace["alternatives"]] == best.indices.tolist()
    assert [other["logprob"] for other in trace["alternatives"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert list(trace["removed"]) == ["temperature", "top_k"]
    kept = [other["after"]["top_k"] for other in trace["alternatives"]]
    assert sum(math.exp(each) for each in kept if each is not None) == pytest.approx(1, abs=1e-6)
    assert kept[3:] == [None] * len(kept[3:])


def test_a_preview_remembers_nothing_and_repeats(client):
    asked = question(temperature=0.8)
    first, second = (client.post("/inside/next", json=asked).json() for _ in range(2))
    assert first["alternatives"] == second["alternatives"]


def test_a_token_is_explained_by_the_same_model(client, service):
    found = client.post("/inside/token", json=question(token=7)).json()
    logprobs = truth(service)
    last = found["layers"][-1]
    assert last["guesses"][0]["id"] == int(logprobs.argmax())
    assert last["probability"] == pytest.approx(float(logprobs[7].exp()), abs=1e-5)
    assert [len(layer["attention"]) for layer in found["layers"]] == [0, 4, 4]


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("next", {"answer_ids": [TOKENIZER.special_tokens["<|end|>"]]}, "answer_ids"),
        ("next", {"temperature": -1}, "temperature"),
        ("next", {"temprature": 1}, "temprature"),
        ("token", {"token": 10**6}, "outside the vocabulary"),
        ("token", {"answer_ids": [TOKENIZER.encode("hello")[0]] * CONTEXT}, str(CONTEXT)),
        ("token", {"messages": []}, "messages"),
    ],
)
def test_mistakes_are_told(client, path, change, told):
    answer = client.post(f"/inside/{path}", json=question(**change))
    assert answer.status_code == 400
    assert told in str(answer.json()["error"])


def test_a_made_up_model_has_no_inside():
    with TestClient(create_app(service_of()), base_url=HERE) as client:
        assert client.post("/inside/next", json=question()).status_code == 200
        assert client.post("/inside/token", json=question()).json()["error"]["code"] == "not_available"
        assert client.get("/inside/parameters").status_code == 404


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_every_setting_is_explained_and_within_its_bounds(client, lang):
    told = client.get(f"/inside/settings?lang={lang}").json()
    assert [setting["name"] for setting in told] == [setting.name for setting in SETTINGS]
    for setting in told:
        words = next(each for each in explain(setting["field"], lang) if each["record"] == "GenerationConfig")
        assert [setting[key] for key in ("what", "why", "try")] == [
            words[key].strip() for key in ("what", "why", "try")
        ]
        if setting["name"] not in ("n", "stop"):
            for value in (setting["low"], min(setting["high"], 10**6)):
                GenerationConfig(**{setting["field"]: value})
    assert next(each for each in told if each["name"] == "max_completion_tokens")["high"] == CONTEXT
    assert client.get("/inside/settings?lang=fr").status_code == 400


def test_the_four_kinds_of_parameters(client, service):
    found = client.get("/inside/parameters?lang=ko").json()
    assert found["total"] == service.torch_model()[0].num_parameters()
    assert found["positional"]["reach"] == [CONTEXT] * 2
    assert found["positional"]["similarity"]["values"][0] == 1
    assert found["hyperparameters"]["learning_rate"] == 0.003
    assert found["loss"]["validation"][-1] == [19, round(5 / 19, 4)]
    assert found["texts"]["ModelConfig"]["hidden_size"] == explain("hidden_size", "ko")[0]["what"].strip()
    assert str(service.folder.parent) not in str(found)  # no path of the machine
