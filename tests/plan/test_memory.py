"""Memory: published formulas, and properties over random configurations."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import presets
from malmoi.config import ModelConfig
from malmoi.plan.layout import Layout, Training
from malmoi.plan.memory import activations, cache, memory, parameters, stage_layers, stage_memory, states
from malmoi.plan.work import Work, work_of

OLD = Training(64, 2048, "fp16", scores=True, dropout=True, overlap="none")


def classic(layers: int = 96) -> Work:
    """GPT-3's widths without its windows: Korthikanti's model."""
    return work_of(
        ModelConfig(
            vocab_size=51_200,
            hidden_size=12_288,
            num_hidden_layers=layers,
            num_attention_heads=96,
            max_position_embeddings=2048,
            positions="learned",
            norm="layer_norm",
            qk_norm=False,
            feed_forward="plain",
            hidden_act="gelu",
            attention_bias=True,
            mlp_bias=True,
        )
    )


@pytest.mark.parametrize(
    ("tensor", "sequence_parallel", "recompute", "formula"),
    [
        (1, False, "none", lambda s, h, a, t: s * h * (34 + 5 * a * s / h)),
        (8, False, "none", lambda s, h, a, t: s * h * (10 + 24 / t + 5 * a * s / (h * t))),
        (8, True, "none", lambda s, h, a, t: s * h / t * (34 + 5 * a * s / h)),
    ],
)
def test_activations_of_a_layer_are_korthikantis(tensor, sequence_parallel, recompute, formula):
    layout = Layout(tensor=tensor, sequence_parallel=sequence_parallel, recompute=recompute)
    found = activations(classic(1), layout, OLD, 0)
    assert found == pytest.approx(formula(2048, 12_288, 96, tensor), rel=0.01)


def test_recomputation_keeps_less():
    work = classic()
    none, selective, full = (
        activations(work, Layout(tensor=8, sequence_parallel=True, recompute=how), OLD, 0)
        for how in ("none", "selective", "full")
    )
    assert none > selective > full
    assert selective == pytest.approx(96 * 34 * 2048 * 12_288 / 8, rel=0.03)  # and one table of scores
    modern = replace(OLD, scores=False, dropout=False)
    assert activations(work, Layout(recompute="selective"), modern, 0) < activations(work, Layout(), modern, 0)


@pytest.mark.parametrize(("zero", "each"), [(0, 16), (1, 4 + 12 / 64), (2, 2 + 14 / 64), (3, 16 / 64)])
def test_zero_stages_are_rajbhandaris(zero: int, each: float):
    work = classic(4)
    training = Training(64, 2048, "fp16", gradient_bytes=2)
    assert sum(states(work, Layout(data=64, zero=zero), training, 0)) == pytest.approx(each * work.counted.total)


def test_autocast_keeps_fp32_weights_and_gradients():
    work = classic(4)
    found = states(work, Layout(zero=0), Training(1, 2048, recipe="autocast"), 0)
    assert found == tuple(size * work.counted.total for size in (4, 4, 8))


def test_an_adapter_learns_little():
    work = work_of(presets.qwen3("0.6b"))
    weights, gradients, moments = states(work, Layout(zero=0), Training(8, 2048, lora_rank=16), 0)
    assert weights < 2.1 * work.counted.total
    assert gradients + moments < 0.15 * weights


def test_windows_cut_the_cache():
    work = work_of(presets.gpt_oss("20b"))
    assert cache(work, 128) == 128 * 2 * work.cached
    assert cache(work, 4096) < 4096 * 2 * work.cached * 0.6


configs = st.builds(
    lambda width, heads, layers, experts: ModelConfig(
        vocab_size=1024,
        hidden_size=64 * width * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=8192,
        **({"num_experts": 8, "num_experts_per_tok": 2} if experts else {}),
    ),
    st.integers(1, 3),
    st.sampled_from([4, 8]),
    st.integers(2, 12),
    st.booleans(),
)
layouts = st.builds(
    lambda data, tensor, pipeline, zero, micro, how, parallel: Layout(
        data=data,
        tensor=tensor,
        pipeline=pipeline,
        zero=zero,
        micro_batch=micro,
        recompute=how,
        sequence_parallel=parallel and tensor > 1,
    ),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.integers(0, 3),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["none", "selective", "full"]),
    st.booleans(),
)
trainings = st.builds(
    lambda rows, sequence, how: Training(rows * 32, sequence * 256, how),
    st.integers(1, 8),
    st.integers(1, 16),
    st.sampled_from(["fp32", "bf16", "fp8"]),
)


@settings(max_examples=60, deadline=None)
@given(configs, layouts, trainings)
def test_memory_never_falls_when_something_grows(config: ModelConfig, layout: Layout, training: Training):
    now = memory(work_of(config), layout, training).peak
    assert now > 0
    assert memory(work_of(config), layout, replace(training, sequence=2 * training.sequence)).peak >= now
    assert memory(work_of(config), layout, replace(training, batch=2 * training.batch)).peak >= now
    larger = replace(training, batch=2 * training.batch)
    assert memory(work_of(config), replace(layout, micro_batch=2 * layout.micro_batch), larger).peak >= now
    deeper = config.model_copy(update={"num_hidden_layers": config.num_hidden_layers + 2, "layer_types": None})
    deeper = ModelConfig(**{**deeper.model_dump(), "layer_types": None})
    assert memory(work_of(deeper), layout, training).peak >= now


@settings(max_examples=60, deadline=None)
@given(configs, layouts, trainings)
def test_shards_add_up(config: ModelConfig, layout: Layout, training: Training):
    """Every learned number that is cut lies on one device; what nobody cuts lies on each."""
    work = work_of(config)
    stages = range(layout.pipeline)
    assert sum(number for stage in stages for _, number in stage_layers(work, layout, stage)) == work.depth
    each = [parameters(work, layout, stage) for stage in stages]
    held = sum(layout.tensor * dense + expert for dense, expert in each)
    uncut = sum(
        number * (layer.dense_parameters - sum(each.size for each in layer.dense if each.cut != "none"))
        for layer, number in work.layers
    ) + work.input_only + work.exit_other  # fmt: skip
    second = work.table if work.tied and layout.pipeline > 1 else 0
    assert held == pytest.approx(work.counted.total + (layout.tensor - 1) * uncut + second)
    for stage in stages:
        found = stage_memory(work, layout, training, stage)
        assert found.peak == pytest.approx(sum(found.classes().values()))
        whole, sliced = (states(work, replace(layout, zero=zero), training, stage) for zero in (0, 3))
        if not work.has_experts:
            assert sum(sliced) * layout.data == pytest.approx(sum(whole))
