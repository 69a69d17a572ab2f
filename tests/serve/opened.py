"""A small random model in a folder, with what a run leaves beside it, served: for tests of looking inside."""

import json

from malmoi.config import ModelConfig
from malmoi.generate.engine import Engine
from malmoi.generate.torch_backend import TorchBackend
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.serve.service import Service
from serve.conftest import TOKENIZER

CONTEXT = 256


def opened(folder):
    """A service whose model lies in `folder`/model."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = ModelConfig(
        vocab_size=len(TOKENIZER), max_position_embeddings=CONTEXT, initializer_range=0.3, eos_token_id=0, **sizes
    )
    model = GPT4LMHeadModel(config).eval()
    model.save_pretrained(folder / "model")
    lines = [{"step": step, "loss": 6.0 / step, "val_loss": 5.0 / step} for step in range(1, 20)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    recipe = "data: {sources: [{path: village}]}\ntrain: {learning_rate: 0.003}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    engine = Engine(TorchBackend(model), TOKENIZER)
    return Service(
        engine,
        TOKENIZER,
        "small",
        model_hash="feed" * 5,
        engine_name="torch, float32, cpu",
        folder=folder / "model",
        open_torch=lambda: (model, TOKENIZER),
    )
