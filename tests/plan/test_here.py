"""Bytes of our own loop on a CPU: against what autograd keeps, tensor by tensor."""

from dataclasses import replace

import pytest
import torch

from malmoi.config import LoraConfig, ModelConfig, TrainConfig
from malmoi.model import kernels
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.plan import here
from malmoi.plan.hardware import Device
from malmoi.plan.here import memory_here, step_here
from malmoi.plan.layout import Layout, Training
from malmoi.plan.memory import adapter
from malmoi.plan.work import work_of
from malmoi.train import optimizer
from malmoi.train.adapters import add_lora
from malmoi.train.optimizer import build
from malmoi.train.parallel import recompute
from malmoi.train.precision import working_copy

MODEL = ModelConfig(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                    max_position_embeddings=1024)  # fmt: skip
WORK = work_of(MODEL)
TRAINING = Training(batch=2, sequence=128, precision="fp32")


@pytest.mark.skipif(kernels.LIBRARY is None, reason="the formulas are those of the compiled steps")
@pytest.mark.parametrize(
    ("how", "precision", "length"),
    [("none", "fp32", 128), ("selective", "fp32", 128), ("none", "bf16", 128), ("none", "bf16", 512),
     ("none", "bf16", 1024), ("none", "fp32", 1024)],
)  # fmt: skip
def test_what_is_kept_is_what_autograd_keeps(how, precision, length):
    own, sizes = GPT4LMHeadModel(MODEL).train(), {}
    model = working_copy(own, torch.bfloat16).train() if precision == "bf16" else own
    parameters = [*own.parameters(), *model.parameters()]
    weights, alive = {parameter.untyped_storage().data_ptr() for parameter in parameters}, []

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # or another one takes its place
        return tensor

    for block in model.model.layers:
        recompute(block, how)
    ids = torch.zeros(2, length, dtype=torch.long)
    positions = torch.arange(length).repeat(2, 1)
    training = Training(batch=2, sequence=length, precision=precision)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden_states(ids, position_ids=positions, document_ids=ids)
    held = sum(size for place, size in sizes.items() if place not in weights)
    planned = memory_here(WORK, Layout(micro_batch=2, recompute=how), training).activations
    if how == "none":
        assert planned == pytest.approx(held + hidden.nbytes, rel=0.02)
    else:
        whole = memory_here(WORK, Layout(micro_batch=2), training).activations
        assert hidden.nbytes < planned < whole


def test_states_by_optimizer_and_accumulation():
    plain = memory_here(WORK, Layout(micro_batch=2), TRAINING)
    muon = memory_here(WORK, Layout(micro_batch=2), replace(TRAINING, optimizer="muon"))
    gathered = memory_here(WORK, Layout(micro_batch=1), TRAINING)
    assert plain.optimizer == 2 * plain.weights > muon.optimizer > plain.weights
    assert gathered.gradients > plain.weights > plain.gradients
    assert gathered.activations < plain.activations


def test_seconds_grow_with_the_model_and_shrink_with_the_machine():
    slow = Device("cpu", 1e9, 4e10, 8e9, 1e10, 1, 1e9, 1e9, 0.0, fp32=4e10, launch=3e-6, status="measured")
    fast = replace(slow, fp32=8e10, achievable=8e10, bandwidth=2e10, launch=1e-6)
    larger = work_of(MODEL.replace(num_hidden_layers=6))
    small = step_here(WORK, slow, TRAINING, Layout(micro_batch=2)).total
    assert step_here(WORK, fast, TRAINING, Layout(micro_batch=2)).total == pytest.approx(small / 2, rel=0.3)
    assert step_here(larger, slow, TRAINING, Layout(micro_batch=2)).total > small


def test_the_states_are_those_of_the_real_optimizers():
    for rule in ("muon", "adamw"):
        model = GPT4LMHeadModel(MODEL)
        owner = build(model, TrainConfig(optimizer=rule))
        planned = memory_here(WORK, Layout(micro_batch=2), replace(TRAINING, optimizer=rule))
        assert planned.optimizer == pytest.approx(owner.expected_bytes(), rel=0.01)
        assert planned.weights == sum(parameter.nbytes for parameter in model.parameters())


def test_an_adapter_has_the_parameters_of_ours():
    model = GPT4LMHeadModel(MODEL)
    add_lora(model, LoraConfig(r=4))
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    training = replace(TRAINING, lora_rank=4)
    assert adapter(WORK, Layout(), training, 0) == learned
    planned = memory_here(WORK, Layout(micro_batch=2), training)
    assert planned.weights == 4 * (WORK.counted.total + learned)
    assert planned.optimizer == 8 * learned


def test_a_small_batch_of_a_large_model_is_fullest_when_weights_are_updated():
    """Then every gradient is there, and nothing is kept for a way back any more."""
    work = work_of(MODEL.replace(hidden_size=512, intermediate_size=1408, head_dim=128))
    tiny, usual = (memory_here(work, Layout(micro_batch=rows), Training(rows, 64, "fp32")) for rows in (1, 64))
    assert tiny.activations == 0 and tiny.gradients == tiny.weights
    assert usual.activations > 0 and usual.gradients < usual.weights


def test_selective_recomputation_repeats_attention_only_where_it_was_written_out():
    cpu = Device("cpu", 8e10, 8e10, 8e9, 1e10, 1, 1e9, 1e9, 0.0, fp32=4e10, launch=3e-6, cpu=True, status="measured")
    for precision, length, repeats in (("fp32", 512, False), ("bf16", 512, True), ("bf16", 1024, False)):
        training = Training(2, length, precision)
        none, some = (step_here(WORK, cpu, training, Layout(micro_batch=2, recompute=how))
                      for how in ("none", "selective"))  # fmt: skip
        assert (some.matrix > none.matrix) == repeats and some.total > none.total


def test_muons_rounds_take_time():
    adamw, muon = (
        step_here(WORK, Device("cpu", 1e9, 4e10, 8e9, 1e10, 1, 1e9, 1e9, 0.0, fp32=4e10, launch=3e-6, cpu=True,
                               status="measured"), replace(TRAINING, optimizer=rule), Layout(micro_batch=2))
        for rule in ("adamw", "muon")
    )  # fmt: skip
    shapes = 3 * [(32, 64), (32, 64), (64, 64), (64, 64), *3 * [(64, MODEL.intermediate_size)]]
    operations = 5 * sum(4 * rows**2 * columns + 2 * rows**3 for rows, columns in shapes)
    extra = muon.optimizer - adamw.optimizer
    assert operations / 4e10 < extra < 3 * operations / 4e10  # the rest is their bytes
    assert muon.matrix == adamw.matrix


def test_muons_rounds_are_counted_as_the_program_makes_them():
    counted = (here.ROUNDS, here.FEWEST_SQUARE, here.WIDE, here.STRIPE)
    assert counted == (optimizer.ROUNDS, optimizer.FEWEST_ROWS, optimizer.WIDE, optimizer.STRIPE)
