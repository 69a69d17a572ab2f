"""Bytes of our own loop on a CPU: against what autograd keeps, tensor by tensor."""

from dataclasses import replace

import pytest
import torch

from malmoi.config import ModelConfig
from malmoi.model import kernels
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.plan.hardware import Device
from malmoi.plan.here import memory_here, step_here
from malmoi.plan.layout import Layout, Training
from malmoi.train.parallel import recompute

MODEL = ModelConfig(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
TRAINING = Training(batch=2, sequence=128, precision="fp32")


@pytest.mark.skipif(kernels.LIBRARY is None, reason="the formulas are those of the compiled steps")
@pytest.mark.parametrize("how", ["none", "selective"])
def test_what_is_kept_is_what_autograd_keeps(how):
    model, sizes = GPT4LMHeadModel(MODEL).train(), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for block in model.model.layers:
        recompute(block, how)
    ids = torch.zeros(2, 128, dtype=torch.long)
    positions = torch.arange(128).repeat(2, 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden_states(ids, position_ids=positions, document_ids=ids)
    held = sum(size for place, size in sizes.items() if place not in weights)
    planned = memory_here(MODEL, TRAINING, Layout(micro_batch=2, recompute=how)).activations
    if how == "none":
        assert planned == pytest.approx(held + hidden.nbytes, rel=0.05)
    else:
        whole = memory_here(MODEL, TRAINING, Layout(micro_batch=2)).activations
        assert hidden.nbytes < planned < whole


def test_states_by_optimizer_and_accumulation():
    plain = memory_here(MODEL, TRAINING, Layout(micro_batch=2))
    muon = memory_here(MODEL, replace(TRAINING, optimizer="muon"), Layout(micro_batch=2))
    gathered = memory_here(MODEL, TRAINING, Layout(micro_batch=1))
    assert plain.optimizer == 2 * plain.weights > muon.optimizer > plain.weights
    assert gathered.gradients > plain.weights > plain.gradients
    assert gathered.activations < plain.activations


def test_seconds_grow_with_the_model_and_shrink_with_the_machine():
    slow = Device("cpu", 1e9, 4e10, 8e9, 1e10, 1, 1e9, 1e9, 0.0, fp32=4e10, launch=3e-6, status="measured")
    fast = replace(slow, fp32=8e10, achievable=8e10, bandwidth=2e10, launch=1e-6)
    larger = MODEL.replace(num_hidden_layers=6)
    small = step_here(MODEL, slow, TRAINING, Layout(micro_batch=2)).total
    assert step_here(MODEL, fast, TRAINING, Layout(micro_batch=2)).total == pytest.approx(small / 2, rel=0.3)
    assert step_here(larger, slow, TRAINING, Layout(micro_batch=2)).total > small
