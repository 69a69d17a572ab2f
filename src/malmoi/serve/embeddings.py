"""POST /v1/embeddings: a text as one vector, the mean over its tokens of what the last layer holds (after the final
norm), scaled to length 1.

A model that was trained to predict the next token was not trained to place like texts near each other: the vectors
are honest (that is what the model has computed), and weaker than those of a model made for the purpose. They need the
model in torch, since the native engine hands out logits only.
"""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.serve import schema
from malmoi.serve.asking import require_model
from malmoi.serve.errors import ApiError
from malmoi.serve.prompts import text_prompt
from malmoi.serve.service import Service
from malmoi.serve.sse import while_here

if TYPE_CHECKING:
    from fastapi import APIRouter


def router(service: Service) -> "APIRouter":
    from fastapi import APIRouter, Request

    routes = APIRouter()

    @routes.post("/v1/embeddings")
    async def embed(body: schema.EmbeddingsRequest, request: Request) -> dict[str, Any]:
        require_model(service, body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, count = await while_here(request.receive, _vectors(service, request.state.key, texts))
        data = [
            {"object": "embedding", "index": index, "embedding": _spelt(vector, body.encoding_format or "float")}
            for index, vector in enumerate(vectors)
        ]
        return {
            "object": "list",
            "model": service.name,
            "system_fingerprint": service.fingerprint,
            "model_hash": service.model_hash,
            "pooling": "mean of the last hidden state, length 1",
            "data": data,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    return routes


async def _vectors(service: Service, key: str, texts: Sequence[str]) -> tuple[list[NDArray[np.float32]], int]:
    """A vector (D,) of each text, and how many tokens were read. Each text is read alone, so that its company changes
    nothing; between two of them others have their turn, and a client that left is noticed."""
    rows = await service.working(key, _tokenized, service, texts)
    return [await service.working(key, mean_pooled, service, row) for row in rows], sum(map(len, rows))


def _tokenized(service: Service, texts: Sequence[str]) -> list[list[int]]:
    rows = [text_prompt(service, text) for text in texts]
    for index, row in enumerate(rows):
        if not 0 < len(row) <= service.context:
            raise ApiError(
                400,
                f"Text {index} has {len(row)} tokens; 1 to {service.context} can be read.",
                "input",
                "invalid_value",
            )
    return rows


def mean_pooled(service: Service, ids: list[int]) -> NDArray[np.float32]:
    """The vector (D,) of one text. Takes its time."""
    model, _ = service.torch_model()
    import torch

    with torch.inference_mode():
        hidden = model.hidden_states(torch.tensor([ids], device=model.device))[0].float()  # (T, D)
        mean = hidden.mean(dim=0)
        return (mean / mean.norm().clamp_min(1e-12)).cpu().numpy()


def _spelt(vector: NDArray[np.float32], form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return vector.tolist()
