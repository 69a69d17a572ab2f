"""What the tests here let speak: small random models, and one that says what it is told."""

import itertools

import torch

from malmoi.config import GenerationConfig, ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel

CONTEXT = 48
CORPUS = [
    "한때 작은 마을에 할머니가 살았어요. 비가 오면 고양이와 함께 책을 읽었어요.",
    "Once upon a time there was a small village. An old woman read books with her cat.",
    "Il était une fois un petit village. L'été, la vieille dame lisait à l'ombre.",
    "안녕하세요! 👩‍👩‍👧 🇰🇷 🇫🇷 hello, bonjour 1 + 2 = 3\n",
] * 4


def build(vocab_size, **changes):
    """Random weights, large enough for logits that differ clearly from token to token."""
    config = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    return GPT4LMHeadModel(ModelConfig(**{**config, **changes})).eval()


LAYOUTS = {
    "modern": {},
    "gpt2": {
        "positions": "learned",
        "norm": "layer_norm",
        "feed_forward": "plain",
        "qk_norm": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "window": {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 4},
    "experts": {"num_experts": 4, "moe_intermediate_size": 32},
}
SETTINGS = [{}, {"temperature": 0.9, "seed": 5}, {"top_p": 0.8, "top_k": 40, "repetition_penalty": 1.2, "seed": 6}]
PROMPTS = [[5, 6, 7], [9], list(range(20, 50)), [8, 8]]


class Scripted(torch.nn.Module):
    """A stand-in for a model that writes given ids, one after the other, whatever the prompt: for exact texts."""

    def __init__(self, ids, vocab_size):
        super().__init__()
        self.ids, self.device = ids, torch.device("cpu")
        self.config = ModelConfig(vocab_size=vocab_size, hidden_size=24, max_position_embeddings=512, eos_token_id=0)
        self.generation_config = GenerationConfig()
        self.calls = itertools.count()

    def forward(self, ids, attention_mask=None, cache=None, logits_to_keep=0):
        logits = torch.zeros(ids.shape[0], 1, self.config.vocab_size)
        logits[..., self.ids[next(self.calls)]] = 10.0
        if cache is not None:
            cache.advance(ids.shape[1], None)
        return type("Output", (), {"logits": logits})
