"""Small models of every layout that GGUF can say, with weights that leave nothing at its starting value."""

import functools
import json

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from malmoi.config import ModelConfig
from malmoi.formats import handover
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import vocabulary
from malmoi.tokens.tokenizer import GPT4Tokenizer

SENTENCES = (
    "Once upon a time an old woman lived in a village with her cat.",
    "Every morning the old woman cooked rice, and the cat waited for her at the door.",
    "It's raining today, said the old woman, and the cat answered: miaow!",
    "The people of the village gathered words and made a dictionary.",
    "A red dog sees seven birds near the small house by the river.",
    "They've sold 12,345 books; its name was Malmoi, wasn't it?",
    "def add(a, b):\n    return a + b\n",
    "옛날 옛적에 한 마을에 할머니와 고양이가 살았습니다.",
    "아침마다 할머니는 밥을 짓고, 고양이는 문 앞에서 기다렸습니다.",
    "“오늘은 비가 오는구나.” 할머니가 말했습니다.",
    "마을 사람들은 말을 모아 사전을 만들었습니다.",
    "빨간 개가 강가의 작은 집 옆에서 새 일곱 마리를 봅니다.",
    "그 사전의 이름은 말모이였습니다. 정말 좋지요?",
    "서울의 기온은 영하 12.5도입니다!",
    "Il était une fois une vieille femme qui vivait dans un village avec son chat.",
    "Chaque matin, la vieille femme cuisait du riz, et le chat l'attendait devant la porte.",
    "« Il pleut aujourd'hui », dit la vieille femme. Où est l'été ?",
    "Les gens du village rassemblaient des mots et firent un dictionnaire.",
    "Un chien rouge voit sept oiseaux près de la petite maison.",
    "Ça va, répondit le garçon à l'œil bleu. Son nom était Malmoi.",
)
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LAYOUTS = {
    "qwen3": {},
    "qwen3-untied": {"tie_word_embeddings": False, "head_dim": 24},
    "qwen3moe": EXPERTS,
    "llama": {"qk_norm": False},
    "llama-biases": {"qk_norm": False, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "llama3": {"qk_norm": False, "rope_parameters": {**LLAMA3, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "yarn": {"rope_parameters": YARN},
    "mixtral": {"qk_norm": False, **EXPERTS},
    "gpt2": {
        "norm": "layer_norm",
        "positions": "learned",
        "feed_forward": "plain",
        "hidden_act": "gelu_pytorch_tanh",
        "qk_norm": False,
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
    },
    "gpt-oss": {
        "qk_norm": False,
        **EXPERTS,
        "attention_sinks": True,
        "router_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "rope_parameters": YARN,
        "layer_types": ("sliding_attention", "full_attention"),
        "sliding_window": 16,
    },
}
ARCHITECTURE = {"qwen3-untied": "qwen3", "llama-biases": "llama", "llama3": "llama", "linear": "qwen3", "yarn": "qwen3"}
ARCHITECTURE |= {"mixtral": "llama"}


@functools.cache
def byte_level() -> GPT4Tokenizer:
    return vocabulary.learn((*SENTENCES, *handover.SAMPLES, *handover.CASES) * 3, 700)


def config(layout: str, **changes) -> ModelConfig:
    size = {"vocab_size": byte_level().vocab_size + 4}  # ids that no token has
    return ModelConfig(**BASE | size | LAYOUTS[layout] | changes)


def build(layout: str, **changes) -> GPT4LMHeadModel:
    """A model whose norms, biases and sinks are not what a forgotten tensor would leave them at."""
    model = GPT4LMHeadModel(config(layout, **{"initializer_range": 0.2, **changes})).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "sinks" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def cut_by(patterns: tuple[str, ...], whole_words: bool, texts: list[str], size: int = 1200) -> GPT4Tokenizer:
    """A byte-level tokenizer that cuts words by any patterns."""
    tokenizer = vocabulary._blank(patterns[0])
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    vocabulary._train(tokenizer, texts, size, vocabulary.SPECIAL_TOKENS)
    said = json.loads(tokenizer.to_str())
    said["model"]["ignore_merges"] = whole_words
    return GPT4Tokenizer(Tokenizer.from_str(json.dumps(said)), vocabulary._SETTINGS)


def sentencepiece(texts: list[str], size: int = 1000) -> GPT4Tokenizer:
    """A tokenizer of Llama 2's kind: pieces learned by BPE, merges made from them as transformers converts them."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    control = ["<unk>", "<s>", "</s>"]
    special = [*control, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        limit_alphabet=120,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    said = json.loads(tokenizer.to_str())
    vocab = said["model"]["vocab"]
    normal = {token for token, index in vocab.items() if index >= len(special)}
    order: dict[str, int] = {}
    for first, second in said["model"]["merges"]:
        order.setdefault(first + second, len(order))
    halves = [(t[:at], t[at:]) for t in normal for at in range(1, len(t)) if {t[:at], t[at:]} <= normal]
    said["model"]["merges"] = sorted(halves, key=lambda h: (order.get("".join(h), size), vocab[h[0]], vocab[h[1]]))
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] in control]
    steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    said["decoder"] = {"type": "Sequence", "decoders": [*steps, {"type": "Fuse"}, strip]}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    said["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    settings = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    return GPT4Tokenizer(Tokenizer.from_str(json.dumps(said)), settings)
