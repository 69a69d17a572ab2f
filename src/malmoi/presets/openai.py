"""GPT-1 to GPT-4 and gpt-oss, as far as they were published.

Each function's text says where its numbers come from and what had to be guessed. The story in one table, with the
counts, is docs/family.md.
"""

from __future__ import annotations

import functools
from typing import Any

from malmoi.config import MalmoiError, ModelConfig, RopeParameters, nearest
from malmoi.presets.about import Preset

# Radford et al., "Language models are unsupervised multitask learners" (2019), table 2: width, depth, heads
_GPT2 = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}

# Brown et al., arXiv 2005.14165 (2020), table 2.1: width, depth, heads. "xl" and "13b": see `gpt3`
_GPT3 = {
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1536, 24, 16),
    "xl": (2048, 24, 16),
    "2.7b": (2560, 32, 32),
    "6.7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "175b": (12288, 96, 96),
}
_GPT_OSS = {
    "20b": (24, 32),
    "120b": (36, 128),
}  # arXiv 2508.10925, table 1 and the released config.json: depth, experts

_GPT3_BAND = 256  # not published


def _chosen(family: str, sizes: dict[str, Any], name: str) -> Any:
    if name not in sizes:
        raise MalmoiError(f"There is no {family} '{name}'.{nearest(name, sizes)} Sizes: {', '.join(sizes)}.")
    return sizes[name]


def _classic(width: int, depth: int, heads: int, **others: Any) -> ModelConfig:
    """What GPT-1, GPT-2 and GPT-3 share: a table of positions, LayerNorm, a plain fourfold feed-forward, biases."""
    return ModelConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        positions="learned",
        norm="layer_norm",
        norm_eps=1e-5,
        qk_norm=False,
        feed_forward="plain",
        hidden_act="gelu_pytorch_tanh",
        attention_bias=True,
        mlp_bias=True,
        **others,
    )


def gpt1() -> ModelConfig:
    """GPT-1: 116,534,784 parameters (the paper names no count; "117M" is the usual one).

    Published: Radford et al., "Improving language understanding by generative pre-training" (2018), section 4.1: twelve
    layers, width 768, twelve heads, 3072 in the feed-forward, 512 positions, dropout 0.1, GELU. From the released
    weights: 40,478 tokens (40,000 merges), norms *after* each residual sum and therefore none at the end, the tanh form
    of GELU. Nothing is guessed.
    """
    return _classic(
        768,
        12,
        12,
        vocab_size=40_478,
        max_position_embeddings=512,
        norm_placement="post",
        embedding_dropout=0.1,
        attention_dropout=0.1,
        residual_dropout=0.1,
    )


def gpt2(size: str = "small") -> ModelConfig:
    """GPT-2 as published (Radford et al., 2019).

    Parameters: small 124,439,808; medium 354,823,168; large 774,030,080; xl 1,557,611,200. The paper's table 2 says
    117M, 345M, 762M and 1542M; the counts here are those of the released weights, tied embeddings counted once. Norms
    moved before each half of a block and one was added at the end (section 2.3). Dropout 0.1 is the released
    configuration's. Nothing is guessed.
    """
    return _classic(
        *_chosen("GPT-2", _GPT2, size),
        vocab_size=50_257,
        max_position_embeddings=1024,
        embedding_dropout=0.1,
        attention_dropout=0.1,
        residual_dropout=0.1,
        bos_token_id=50_256,
        eos_token_id=50_256,
    )


def gpt3(size: str = "175b") -> ModelConfig:
    """GPT-3 as published (Brown et al., arXiv 2005.14165, table 2.1), two misprints put right.

    Parameters: small 125,226,240; medium 355,871,744; large 760,300,032; xl 1,315,723,264; 2.7b 2,651,553,280;
    6.7b 6,658,404,352; 13b 12,853,386,240; 175b 174,604,259,328.

    Table 2.1 contradicts itself twice, and table D.1 (parameters in millions) decides. "XL" is printed with 24 heads of
    128, which is 3072 and not its width of 2048, and would weigh 1,517 M; with 16 heads it weighs 1,316 M, and D.1 says
    1,320. "13B" is printed with a width of 5140, but its 40 heads of 128 make 5120; that weighs 12,853 M, and D.1 says
    12,850.

    Published: GPT-2's architecture, the same vocabulary, 2048 positions, and layers that alternate between dense and
    "locally banded sparse" attention (section 2.1). Conjecture: the band's width was never published; 256 tokens, dense
    layers first, is what GPT-Neo's replication chose. It changes what a layer sees and no parameter. Dropout is not
    mentioned either; here it is 0.
    """
    width, depth, heads = _chosen("GPT-3", _GPT3, size)
    return _classic(
        width,
        depth,
        heads,
        vocab_size=50_257,
        max_position_embeddings=2048,
        layer_types=("full_attention", "sliding_attention") * (depth // 2),
        sliding_window=_GPT3_BAND,
        bos_token_id=50_256,
        eos_token_id=50_256,
    )


def gpt_oss(size: str = "20b") -> ModelConfig:
    """gpt-oss, OpenAI's open weights of 2025: the newest GPT whose every number is public.

    Parameters: 20b 20,914,757,184; 120b 116,829,156,672. Source: OpenAI, "gpt-oss-120b & gpt-oss-20b model card"
    (arXiv 2508.10925), table 1, and the released config.json.

    64 heads of 64 on a width of 2880 (so the heads together are wider than the stream), 8 heads for keys and values,
    layers that alternate between a window of 128 and the whole past, beginning with the window; a learned sink for each
    head; 32 or 128 experts of which a token passes four; a gate with bounds (7.0); biases everywhere, the router too;
    YaRN from 4,096 positions to 131,072. Nothing is guessed.
    """
    depth, experts = _chosen("gpt-oss", _GPT_OSS, size)
    return ModelConfig(
        vocab_size=201_088,
        hidden_size=2880,
        num_hidden_layers=depth,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=2880,
        max_position_embeddings=131_072,
        rope_parameters=RopeParameters(
            rope_type="yarn",
            rope_theta=150_000.0,
            factor=32.0,
            original_max_position_embeddings=4096,
            beta_fast=32.0,
            beta_slow=1.0,
            truncate=False,
        ),
        norm_eps=1e-5,
        qk_norm=False,
        attention_sinks=True,
        attention_bias=True,
        mlp_bias=True,
        router_bias=True,
        swiglu_limit=7.0,
        tie_word_embeddings=False,
        layer_types=("sliding_attention", "full_attention") * (depth // 2),
        sliding_window=128,
        num_experts=experts,
        num_experts_per_tok=4,
        moe_intermediate_size=2880,
        eos_token_id=200_002,
        pad_token_id=199_999,
    )


def _sparse_giant(width: int, heads: int, experts: int, **others: Any) -> ModelConfig:
    """What both pictures of GPT-4 share: 120 layers, two of many plain experts a token, the published vocabulary."""
    return ModelConfig(
        vocab_size=100_256,
        hidden_size=width,
        num_hidden_layers=120,
        num_attention_heads=heads,
        max_position_embeddings=8192,
        qk_norm=False,
        feed_forward="plain",
        hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=False,
        num_experts=experts,
        num_experts_per_tok=2,
        **others,
    )


def gpt4() -> ModelConfig:
    """A model that has the articles' "170 trillion parameters": 170,175,431,802,880, of which a token uses 0.15 %.

    This is not GPT-4. OpenAI published no size, no depth and no width ("GPT-4 technical report", arXiv 2303.08774,
    section 2), and no source stands behind the 170 trillion that many articles repeat; the nearest thing in the
    literature is BaGuaLu (PPoPP 2022), which trained 14.5 trillion and states the *capability* for 174.

    It shows what the number would take: width 10,240, 120 layers, 80 heads of 128, 1,690 plain experts of 4 x 10,240 in
    every layer, two for each token, embeddings not tied, norms without learned numbers. As one sum:
    120 x 1690 x 8 x 10240^2 + 120 x 4 x 10240^2 + 2 x 100,256 x 10240 + 120 x 1690 x 10240. Published are only the
    contexts (8,192 and 32,768) and the vocabulary (the tokenizer cl100k_base: 100,256 tokens besides the special ones).
    """
    return _sparse_giant(10_240, 80, 1690, norm_affine=False)


def gpt4_rumoured() -> ModelConfig:
    """GPT-4 as rumour had it in July 2023: about 1.8 trillion parameters, of which a token uses about 280 billion.

    Not published and not confirmed by OpenAI. The rumour (SemiAnalysis, "GPT-4 architecture, infrastructure, training
    dataset, costs, vision, MoE", 2023, and its retellings): 120 layers, 16 experts of about 111 billion parameters, two
    for each token, about 55 billion shared for attention, 13 trillion tokens read, a first context of 8 thousand.

    A width of 10,752 meets all of these at once with the classic shapes: 120 x 8 x 10752^2 = 111 billion for an expert,
    120 x 4 x 10752^2 = 55.5 billion for attention, 84 heads of 128. That width is our calculation. One detail of the
    rumour does not fit: with multi-query attention, which it also tells of, attention would weigh half as much.
    """
    return _sparse_giant(10_752, 84, 16)


PRESETS: dict[str, Preset] = {
    "gpt1": Preset(gpt1, "gpt1"),
    "gpt2": Preset(gpt2, "gpt2"),
    **{f"gpt2-{size}": Preset(functools.partial(gpt2, size), "gpt2") for size in _GPT2 if size != "small"},
    **{f"gpt3-{size}": Preset(functools.partial(gpt3, size), "gpt3") for size in _GPT3},
    "gpt4": Preset(gpt4, "gpt4"),
    "gpt4-rumoured": Preset(gpt4_rumoured, "gpt4-rumoured"),
    **{f"gpt-oss-{size}": Preset(functools.partial(gpt_oss, size), "gpt-oss") for size in _GPT_OSS},
}
