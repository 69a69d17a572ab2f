"""What the tests here let speak: small random models, and one that says what it is told."""

import numpy as np

from malmoi.config import GenerationConfig, ModelConfig
from malmoi.generate import sampling
from malmoi.generate.backend import FunctionBackend
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
    "ngrams": {"ngram_sizes": (2, 3), "ngram_vocab_size": 64},
    "sinks": {"attention_sinks": True, "layer_types": ("sliding_attention", "full_attention"), "sliding_window": 4},
}
SETTINGS = [{}, {"temperature": 0.9, "seed": 5}, {"top_p": 0.8, "top_k": 40, "repetition_penalty": 1.2, "seed": 6}]
PROMPTS = [[5, 6, 7], [9], list(range(20, 50)), [8, 8]]


class Scripted(FunctionBackend):
    """A stand-in for a model that writes given ids, one after the other, after a prompt of one token: exact texts."""

    def __init__(self, ids, vocab_size):
        self.generation_config = GenerationConfig(eos_token_id=0)
        super().__init__(lambda past: 10.0 * (np.arange(vocab_size) == ids[len(past) - 1]), vocab_size)


def made_up(vocab_size, seed=0, sharpness=3.0):
    """A made-up model with opinions: logits that depend on every token so far, in their order."""

    def logits(past):
        return np.random.default_rng([seed, *past]).normal(size=vocab_size) * sharpness

    return logits


def one_at_a_time(function, prompt, config, number=0):
    """What the engine must write, by the plain loop: one token after the other, no cache, no company."""
    ids, ends = list(prompt), config.eos_token_id or ()
    while len(ids) < len(prompt) + config.max_new_tokens:
        logits = np.asarray(function(tuple(ids)), dtype=np.float32)
        shaped = sampling.shape(logits, config, tokens=ids, prompt_length=len(prompt))
        if config.do_sample:
            ids.append(sampling.sample(shaped, sampling.draw(config.seed, len(ids), number)))
        else:
            ids.append(sampling.greedy(shaped))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]
