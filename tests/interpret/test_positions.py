"""What places do in a model: wavelengths, stretching, learned tables, reach."""

import math

import pytest
import torch

from malmoi import presets
from malmoi.config import ModelConfig
from malmoi.interpret.positions import positions, reach
from small_models import BASE, build


def test_wavelengths_are_full_turns_in_tokens():
    found = positions(ModelConfig(**BASE)).rotary  # head_dim 8: four pairs
    assert found is not None
    assert found.wavelengths == pytest.approx([2 * math.pi * 10_000 ** (pair / 4) for pair in range(4)], rel=1e-5)
    assert found.wavelengths == found.unscaled
    assert not found.stretched
    assert [found.full_turns(context) for context in (6, 7, 70, 7_000)] == [0, 1, 2, 4]


def test_yarn_keeps_the_fast_hands_and_slows_the_slow_ones():
    """gpt-oss: factor 32; its model card names YaRN and 131,072 positions."""
    found = positions(presets.gpt_oss("20b")).rotary
    assert found is not None
    assert found.attention_factor == pytest.approx(0.1 * math.log(32) + 1)
    assert found.wavelengths[0] == pytest.approx(found.unscaled[0])
    assert found.wavelengths[-1] == pytest.approx(32 * found.unscaled[-1])
    kept, partly, whole = found.slowed()
    assert kept + partly + whole == 32
    assert min(kept, partly, whole) > 0


def test_linear_stretching_slows_every_hand():
    rope = {"rope_type": "linear", "factor": 4.0}
    found = positions(ModelConfig(**BASE, rope_parameters=rope)).rotary
    assert found is not None
    assert found.slowed() == (0, 0, 4)
    assert found.attention_factor == 1.0


def test_places_look_less_alike_the_further_apart_they_are():
    found = positions(presets.size("nano")).rotary
    assert found is not None
    near, far = found.similarity(torch.tensor([0.0, 1.0, 2.0])), found.similarity(torch.arange(200.0, 256.0))
    assert near[0] == pytest.approx(1.0)
    assert near[0] > near[1] > near[2] > far.mean()


def test_reach_grows_by_the_window_less_one_and_ends_at_the_context():
    assert reach((4, 4, 4), 100) == (4, 7, 10)
    assert reach((4, None, 4), 100) == (4, 100, 100)
    assert reach((60, 60), 100) == (60, 100)
    mistral = positions(presets.mistral_7b())
    assert mistral.reach[-1] == mistral.context
    assert mistral.reach[1] == 2 * 4096 - 1


def test_reach_is_what_the_model_does():
    """A token further back than the reach has no influence on the logits, one at the reach has."""
    model = build("windows", num_hidden_layers=2, layer_types=("sliding_attention",) * 2)
    last = 20
    reached = positions(model.config).reach[-1]
    ids = torch.arange(last + 1)[None] % 60
    with torch.no_grad():
        before = model(ids).logits[0, -1]
        for back, changes in ((reached, False), (reached - 1, True)):
            other = ids.clone()
            other[0, last - back] = 60
            assert bool((model(other).logits[0, -1] != before).any()) is changes


def test_a_learned_table():
    angle = torch.arange(64.0)[:, None] / 20
    table = torch.cat([angle.cos(), angle.sin()], dim=1) * 3
    found = positions(ModelConfig(**BASE, positions="learned"), table)
    assert found.rotary is None
    assert found.learned is not None
    assert found.learned.norms == pytest.approx(torch.full((64,), 3.0))
    assert found.learned.by_distance[:3] == pytest.approx(torch.tensor([0, 1 / 20, 2 / 20]).cos(), abs=1e-6)
    assert found.learned.stride == 1


def test_a_long_table_is_compared_at_every_nth_place():
    found = positions(ModelConfig(**BASE, positions="learned"), torch.randn(2500, 4)).learned
    assert found is not None
    assert found.stride == 3
    assert found.cosines.shape == (834, 834)
    assert found.norms.shape == (2500,)


def test_a_table_that_nobody_trained_is_left_out():
    found = positions(presets.gpt2())
    assert (found.rotary, found.learned) == (None, None)
    assert found.reach == (1024,) * 12
