"""The schemas are closed, bounded, and what the OpenAPI document says."""

import pytest
from pydantic import BaseModel, ValidationError

from malmoi.serve import limits, schema

MODELS = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, BaseModel)]


@pytest.mark.parametrize("model", [one for one in MODELS if one is not BaseModel], ids=lambda one: one.__name__)
def test_every_object_refuses_what_it_does_not_know(model):
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"no such field": 1})
    assert "extra_forbidden" in {error["type"] for error in refused.value.errors()}


@pytest.mark.parametrize(
    "field", [{"messages": []}, {"messages": [{"role": "user", "content": "x"}] * (limits.MESSAGES + 1)}]
)
def test_messages_are_bounded(field):
    with pytest.raises(ValidationError):
        schema.ChatRequest.model_validate(field)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True])
def test_numbers_are_finite_numbers(value):
    with pytest.raises(ValidationError):
        schema.CompletionRequest.model_validate({"prompt": "x", "temperature": value})


def test_neutral_values_of_what_is_not_supported_are_taken():
    schema.CompletionRequest.model_validate({"prompt": "x", "best_of": 1, "echo": False})
    schema.ResponsesRequest.model_validate({"input": "x", "store": False, "tools": []})
    for wrong in ({"best_of": 2}, {"echo": True}):
        with pytest.raises(ValidationError):
            schema.CompletionRequest.model_validate({"prompt": "x", **wrong})


def test_no_list_or_text_of_the_document_is_without_a_bound(client):
    """Whatever is a list of numbers or objects in a request says how long it may be."""
    document = client.get("/openapi.json").json()["components"]["schemas"]
    unbounded = []

    def look(node, where):
        if isinstance(node, dict):
            if node.get("type") == "array" and "maxItems" not in node:
                unbounded.append(where)
            for name, child in node.items():
                look(child, f"{where}.{name}")
        elif isinstance(node, list):
            for child in node:
                look(child, where)

    for model in MODELS:
        look(document.get(model.__name__, {}), model.__name__)
    assert not unbounded
