"""Operations against closed forms of the literature."""

import pytest

from malmoi.config import ModelConfig
from malmoi.plan.flops import training_flops
from malmoi.plan.work import work_of

MEGATRON = {
    "positions": "learned",
    "norm": "layer_norm",
    "qk_norm": False,
    "feed_forward": "plain",
    "hidden_act": "gelu",
}
MEGATRON |= {"attention_bias": True, "mlp_bias": True}


def megatron(hidden: int, layers: int, heads: int, vocabulary: int = 51_200, sequence: int = 2048):
    return work_of(
        ModelConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=sequence,
            **MEGATRON,
        )
    )


@pytest.mark.parametrize(("h", "layers", "a"), [(2304, 24, 24), (12288, 96, 96), (20480, 105, 128)])
def test_full_recomputation_is_equation_3_of_megatron(h: int, layers: int, a: int):
    s, v = 2048, 51_200
    expected = 96 * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h)) / s
    assert training_flops(megatron(h, layers, a), s, "full").hardware == pytest.approx(expected, rel=3e-3)


def test_kinds_of_recomputation_and_causality():
    work = megatron(4096, 32, 32)
    none, selective, full = (training_flops(work, 2048, how) for how in ("none", "selective", "full"))
    assert none.hardware == none.model_full < selective.hardware < full.hardware
    assert full.hardware / none.model_full < 4 / 3
    attention = none.model_full - 6 * work.counted.active_without_input_embedding
    assert none.model_full - none.model_causal == pytest.approx(attention / 2)
    assert selective.hardware - none.hardware == pytest.approx(attention / 3)
