"""Positions: counted within documents and after padding; rotations keep lengths and see only distances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import RopeParameters
from malmoi.model.position import frequencies, positions_after_padding, positions_in_documents, rotate, rotation


def test_positions_start_anew_with_each_document():
    documents = torch.tensor([[7, 7, 7, 9, 9], [1, 2, 2, 1, 1]])
    assert positions_in_documents(documents).tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 0, 1]]


def test_positions_count_real_tokens():
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    assert positions_after_padding(real).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def turned(x, position, theta=100.0):
    return rotate(x, rotation(torch.tensor([[position]]), x.shape[-1], RopeParameters(rope_theta=theta), x.dtype))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_products_depend_on_distance_alone(query_at, key_at, shift):
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = (turned(q, query_at) * turned(k, key_at)).sum()
    there = (turned(q, query_at + shift) * turned(k, key_at + shift)).sum()
    torch.testing.assert_close(here, there, atol=1e-3, rtol=0)  # angles are float32


def test_rotation_keeps_lengths_and_leaves_position_zero_alone():
    x = torch.randn(1, 2, 1, 8)
    torch.testing.assert_close(turned(x, 0), x)
    torch.testing.assert_close(turned(x, 37).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("reading", [True, False])
def test_pairs_are_the_two_halves_of_a_head(reading):
    x = torch.zeros(1, 1, 1, 4, requires_grad=not reading) + torch.tensor([1.0, 0.0, 0.0, 0.0])
    angle = torch.tensor(3.0)
    expected = torch.tensor([angle.cos(), 0, angle.sin(), 0]).view(1, 1, 1, 4)  # number 0 turns with number 2
    torch.testing.assert_close(turned(x, 3), expected)
    slow = turned(torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4), 3)
    torch.testing.assert_close(slow[0, 0, 0, 3], (angle * 100.0 ** (-2 / 4)).sin())


STRETCHED = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
}


@pytest.mark.parametrize("kind", STRETCHED)
def test_frequencies_are_those_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    said = {"rope_type": kind, "rope_theta": 150_000.0, **STRETCHED[kind]}
    theirs = transformers.LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=dict(said))
    expected, factor = ROPE_INIT_FUNCTIONS[kind](theirs, torch.device("cpu"))
    ours, scale = frequencies(RopeParameters(**said), 64)
    assert torch.equal(ours, expected)
    assert scale == factor


def test_stretching_slows_the_slow_pairs_and_leaves_the_fast_ones():
    plain, _ = frequencies(RopeParameters(rope_theta=150_000.0), 64)
    for kind in ("llama3", "yarn"):
        slowed, _ = frequencies(RopeParameters(rope_type=kind, rope_theta=150_000.0, **STRETCHED[kind]), 64)
        assert slowed[0] == plain[0]
        torch.testing.assert_close(slowed[-1], plain[-1] / STRETCHED[kind]["factor"])
        assert bool(((slowed <= plain) & (slowed.diff(prepend=slowed.new_tensor([9.0])) < 0)).all())
