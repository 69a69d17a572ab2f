"""/v1/embeddings: the mean of the last hidden state, alone as in company, and a reason where there is no model."""

import base64

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from malmoi import GPT4LMHeadModel, ModelConfig
from malmoi.serve.app import create_app
from serve.conftest import HERE, TOKENIZER, service_of

URL = "/v1/embeddings"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=len(TOKENIZER), hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    return GPT4LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def seeing(model):
    service = service_of()
    service._open_torch = lambda: (model, TOKENIZER)
    with TestClient(create_app(service), base_url=HERE) as client:
        yield client


def test_a_text_is_the_mean_of_its_last_hidden_states(seeing, model):
    made = seeing.post(URL, json={"input": ["hello world", "세상"]}).json()
    with torch.no_grad():
        mean = model.hidden_states(torch.tensor([TOKENIZER.encode("hello world")]))[0].mean(dim=0)
    first = np.array(made["data"][0]["embedding"])
    assert np.allclose(first, (mean / mean.norm()).numpy(), atol=1e-6)
    assert seeing.post(URL, json={"input": "세상"}).json()["data"][0]["embedding"] == made["data"][1]["embedding"]
    assert made["usage"]["prompt_tokens"] == len(TOKENIZER.encode("hello world")) + len(TOKENIZER.encode("세상"))


def test_base64_holds_the_same_numbers(seeing):
    plain = seeing.post(URL, json={"input": "hi"}).json()["data"][0]["embedding"]
    coded = seeing.post(URL, json={"input": "hi", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), np.array(plain, dtype=np.float32))


def test_without_a_model_in_torch_it_is_a_400_with_the_reason(client):
    refused = client.post(URL, json={"input": "hi"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_available"


def test_a_client_that_leaves_is_noticed_between_two_texts(model):
    import asyncio

    from malmoi.serve import embeddings

    service, read = service_of(), []
    service._open_torch = lambda: (read.append(1), (model, TOKENIZER))[1]

    async def work():
        service.start()
        task = asyncio.ensure_future(embeddings._vectors(service, "", ["hello"] * 2_000))
        while not read:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled() and service.waiting == 0
        await service.stop()

    asyncio.run(work())


@pytest.mark.parametrize(
    "body", [{"input": []}, {"input": "x " * 3000}, {"input": ["x"] * 65}, {"input": "x", "dimensions": 3}]
)
def test_what_cannot_be_embedded_is_a_400(seeing, body):
    assert seeing.post(URL, json=body).status_code == 400
