"""A model's blocks rounded one after another on what they are really given."""

import numpy as np
import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.native.calibration import calibrated
from malmoi.native.gptq import lost
from malmoi.native.interface import Kind
from malmoi.native.packed import unpack
from malmoi.native.prepare import prepare
from small_models import build

IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (24, 32)))


@pytest.mark.parametrize("name", ["gpt2", "modern", "experts"])
@pytest.mark.parametrize("kind", [Kind.INT8, Kind.INT4])
def test_every_matrix_of_the_blocks_is_rounded_and_the_model_stays(name: str, kind: Kind):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    rounded = calibrated(model, kind, IDS)
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    opened = prepare(model, kind.name.lower(), None, rounded.matrices)
    of_blocks = {key for key in opened.tensors if key.endswith(("proj.weight", "_proj"))}
    assert set(rounded.matrices) == of_blocks
    assert all(opened.tensors[key] is rounded.matrices[key] for key in of_blocks)
    assert 0 < max(rounded.lost.values()) < (1e-3 if kind == Kind.INT8 else 0.1)


def test_a_block_makes_good_what_the_one_before_it_lost():
    """The second block is rounded for the inputs that the first one, rounded, gives it."""
    model = build("modern").eval()
    seen: dict[str, torch.Tensor] = {}
    rounded = calibrated(model, Kind.INT4, IDS)
    first, name = model.model.layers[0], "model.layers.1.self_attn.q_proj.weight"
    with torch.no_grad():
        for key, parameter in first.named_parameters():
            if f"model.layers.0.{key}" in rounded.matrices:
                packed = rounded.matrices[f"model.layers.0.{key}"]
                parameter.copy_(torch.from_numpy(unpack(packed, tuple(parameter.shape))))
        second = model.model.layers[1].self_attn.q_proj
        handle = second.register_forward_pre_hook(lambda module, given: seen.update(x=given[0]))
        model(IDS)
        handle.remove()
    x = seen["x"].reshape(-1, seen["x"].shape[-1]).double()
    weight = second.weight.detach().numpy()
    share = lost(weight, unpack(rounded.matrices[name], weight.shape), x.T @ x)
    assert share == pytest.approx(rounded.lost[name], rel=1e-3)


def test_too_few_tokens_are_refused():
    with pytest.raises(MalmoiError, match="64 tokens are too few"):
        calibrated(build("modern"), Kind.INT4, IDS[:2])
