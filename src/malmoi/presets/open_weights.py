"""Llama, Mistral, Mixtral and Qwen3: models whose weights anybody may download, and so whose every number is known.

The sources are the config.json files that lie beside the weights. Nothing here is guessed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from malmoi.config import MalmoiError, ModelConfig, RopeParameters, nearest
from malmoi.presets.about import Preset


class _Shape(NamedTuple):
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    tie_word_embeddings: bool = False


_LLAMA2 = {
    "7b": _Shape(4096, 32, 32, 32, 11008),
    "13b": _Shape(5120, 40, 40, 40, 13824),
    "70b": _Shape(8192, 80, 64, 8, 28672),
}
_LLAMA31 = {
    "8b": _Shape(4096, 32, 32, 8, 14336),
    "70b": _Shape(8192, 80, 64, 8, 28672),
    "405b": _Shape(16384, 126, 128, 8, 53248),
}
_QWEN3 = {
    "0.6b": _Shape(1024, 28, 16, 8, 3072, True),
    "1.7b": _Shape(2048, 28, 16, 8, 6144, True),
    "4b": _Shape(2560, 36, 32, 8, 9728, True),
    "8b": _Shape(4096, 36, 32, 8, 12288),
    "14b": _Shape(5120, 40, 40, 8, 17408),
    "32b": _Shape(5120, 64, 64, 8, 25600),
    "30b-a3b": _Shape(2048, 48, 32, 4, 6144),
    "235b-a22b": _Shape(4096, 94, 64, 4, 12288),
}
_QWEN3_EXPERT = {"30b-a3b": 768, "235b-a22b": 1536}  # the width of each of 128 experts, eight for each token


def _chosen(family: str, sizes: dict[str, _Shape], name: str) -> dict[str, Any]:
    if name not in sizes:
        raise MalmoiError(f"There is no {family} '{name}'.{nearest(name, sizes)} Sizes: {', '.join(sizes)}.")
    return sizes[name]._asdict()


def llama2(size: str = "7b") -> ModelConfig:
    """Llama 2 (Touvron et al., arXiv 2307.09288, 2023) as its config.json has it.

    Parameters: 7b 6,738,415,616; 13b 13,015,864,320; 70b 68,976,648,192.
    """
    return ModelConfig(
        **_chosen("Llama 2", _LLAMA2, size),
        vocab_size=32_000,
        max_position_embeddings=4096,
        norm_eps=1e-5,
        qk_norm=False,
        bos_token_id=1,
        eos_token_id=2,
    )


def llama31(size: str = "8b") -> ModelConfig:
    """Llama 3.1 ("The Llama 3 herd of models", arXiv 2407.21783, 2024) as its config.json has it.

    Parameters: 8b 8,030,261,248; 70b 70,553,706,496; 405b 405,853,388,800. Trained on 8,192 positions first; the
    "llama3" rotary scaling slows the long waves eightfold, for 131,072.
    """
    return ModelConfig(
        **_chosen("Llama 3.1", _LLAMA31, size),
        vocab_size=128_256,
        max_position_embeddings=131_072,
        rope_parameters=RopeParameters(
            rope_type="llama3",
            rope_theta=500_000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
        norm_eps=1e-5,
        qk_norm=False,
        bos_token_id=128_000,
        eos_token_id=128_001,
    )


def mistral_7b() -> ModelConfig:
    """Mistral 7B v0.1 (Jiang et al., arXiv 2310.06825, 2023): 7,241,732,096 parameters, windows of 4,096 everywhere.

    Later versions (v0.2, v0.3) have no window, another rope_theta and, in v0.3, another vocabulary.
    """
    return _mistral(
        layer_types=("sliding_attention",) * 32,
        sliding_window=4096,
    )


def mixtral_8x7b() -> ModelConfig:
    """Mixtral 8x7B (Jiang et al., arXiv 2401.04088, 2024): 46,702,792,704 parameters, 12,879,925,248 for each token.

    Not eight times seven billion: the eight experts share attention and embeddings.
    """
    return _mistral(num_experts=8, num_experts_per_tok=2, rope_parameters=RopeParameters(rope_theta=1_000_000.0))


def _mistral(**others: Any) -> ModelConfig:
    return ModelConfig(
        **_Shape(4096, 32, 32, 8, 14336)._asdict(),
        vocab_size=32_000,
        max_position_embeddings=32_768,
        norm_eps=1e-5,
        qk_norm=False,
        bos_token_id=1,
        eos_token_id=2,
        **others,
    )


def qwen3(size: str = "0.6b") -> ModelConfig:
    """Qwen3 ("Qwen3 technical report", arXiv 2505.09388, 2025) by its config.json: the layout of Malmoi's own dial.

    Parameters: 0.6b 596,049,920; 1.7b 1,720,574,976; 4b 4,022,468,096; 8b 8,190,735,360; 14b 14,768,307,200;
    32b 32,762,123,264; 30b-a3b 30,532,122,624; 235b-a22b 235,093,634,560. Heads are 128 wide whatever the width. The
    first release is meant (April 2025), not the longer ones of July 2025.
    """
    sparse: dict[str, Any] = {}
    if size in _QWEN3_EXPERT:
        sparse = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": _QWEN3_EXPERT[size]}
    return ModelConfig(
        **_chosen("Qwen3", _QWEN3, size),
        **sparse,
        vocab_size=151_936,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_parameters=RopeParameters(rope_theta=1_000_000.0),
        bos_token_id=151_643,
        eos_token_id=151_645,
    )


def _family(family: str, build: Callable[[str], ModelConfig], sizes: Iterable[str]) -> dict[str, Preset]:
    return {f"{family}-{size}": Preset(functools.partial(build, size), family) for size in sizes}


PRESETS: dict[str, Preset] = {
    **_family("llama2", llama2, _LLAMA2),
    **_family("llama3.1", llama31, _LLAMA31),
    "mistral-7b": Preset(mistral_7b, "mistral"),
    "mixtral-8x7b": Preset(mixtral_8x7b, "mixtral"),
    **_family("qwen3", qwen3, _QWEN3),
}
