"""A step's time: its parts, what must never make it shorter, and a published layer that no fit has seen."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import presets
from malmoi.plan.hardware import device
from malmoi.plan.layout import Layout, Training
from malmoi.plan.physics import Machine, physics
from malmoi.plan.step_time import Clock, step_time
from malmoi.plan.work import work_of

DENSE, SPARSE = work_of(presets.llama31("8b")), work_of(presets.gpt_oss("20b"))
TRAINING = Training(512, 2048)


def test_the_parts_are_the_whole():
    step = step_time(SPARSE, device("H100"), TRAINING, Layout(data=32, expert=8, micro_batch=2))
    assert step.total == pytest.approx(sum(getattr(step, name) for name in step.__dataclass_fields__))
    assert step.expert > 0 == step.tensor == step.bubble


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([DENSE, SPARSE]), st.sampled_from(["A100", "H100", "B200", "RTX4090"]), st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from(["none", "selective", "full"]),
)  # fmt: skip
def test_more_work_takes_longer(work, name, tensor, pipeline, micro, how):
    layout = Layout(8, tensor, pipeline, micro_batch=micro, recompute=how, sequence_parallel=tensor > 1)
    now = step_time(work, device(name), TRAINING, layout)
    operations = 6 * work.counted.active_without_input_embedding * TRAINING.tokens
    assert now.total > operations / layout.devices / device(name).bf16
    assert all(getattr(now, part) >= 0 for part in now.__dataclass_fields__)
    assert step_time(work, device(name), replace(TRAINING, batch=1024), layout).total > now.total
    assert step_time(work, device(name), replace(TRAINING, sequence=4096), layout).total > now.total
    assert step_time(work, device(name), TRAINING, replace(layout, recompute="full")).total >= now.total


def test_interleaving_shortens_the_bubble():
    plain, turned = (step_time(DENSE, device("H100"), TRAINING, Layout(4, 1, 8, turns)).bubble for turns in (1, 4))
    assert turned == pytest.approx(plain / 4)


def test_what_software_hides_costs_less():
    layout = Layout(8, 8, sequence_parallel=True)
    shown, hidden = (
        step_time(DENSE, device("H100"), replace(TRAINING, overlap=kind), layout).tensor for kind in ("none", "tensor")
    )
    assert hidden < shown / 2


def test_a_published_layer_that_no_fit_has_seen():
    """Korthikanti et al., table 4: a layer of 22B, sequence parallel, forward and backward in 19.0 ms on A100s."""
    from tests.plan.test_flops import megatron

    training = Training(4, 2048, "fp16", scores=True, dropout=True, overlap="none", gradient_bytes=2)
    machine = Machine(device("A100"), physics())
    layout = Layout(1, 8, zero=0, micro_batch=4, sequence_parallel=True)
    clock = Clock(megatron(6144, 48, 64), machine, training, layout)
    found = clock.both_ways(clock.work.layers[0][0])
    kernels, found.kernels = found.kernels, 0.0
    assert found.total + machine.kernels(kernels, found.total) == pytest.approx(0.019, rel=0.1)
