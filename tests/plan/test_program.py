"""Which program a plan is about: our own on a processor, and whatever the plan says there is what `here` says."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import presets
from malmoi.config import MalmoiError, ModelConfig
from malmoi.plan.explain import explain, texts, value
from malmoi.plan.hardware import Cluster, Device, cluster
from malmoi.plan.here import INTERVAL, memory_here, step_here, terms_here
from malmoi.plan.layout import Layout, Training
from malmoi.plan.memory import memory
from malmoi.plan.planner import Question, answer
from malmoi.plan.program import program
from malmoi.plan.search import room, search
from malmoi.plan.step_time import step_time
from malmoi.plan.targets import largest
from malmoi.plan.work import work_of

CPU = Device("this-machine", 1e10, 8e10, 4 * 2**30, 1.5e10, 1, 1e9, 1e9, 0.0, fp32=8e10, launch=5e-6, cpu=True,
             status="measured")  # fmt: skip
HERE = Cluster(1, CPU)
NANO = work_of(presets.preset("nano"), "nano")
TRAINING = Training(32, 256, "fp32", "muon")


def test_a_gpu_is_planned_as_a_cluster_and_a_processor_as_our_own_loop():
    work, gpu, layout = NANO, cluster("H100").device, Layout(zero=0, micro_batch=32)
    assert program(gpu).memory(work, layout, TRAINING) == memory(work, layout, TRAINING)
    assert program(gpu).step(work, gpu, TRAINING, layout) == step_time(work, gpu, TRAINING, layout)
    assert program(CPU).memory(work, layout, TRAINING) == memory_here(work, layout, TRAINING)
    assert program(CPU).step(work, CPU, TRAINING, layout) == step_here(work, CPU, TRAINING, layout)


def test_the_plan_says_what_here_says():
    found = answer(Question(NANO, HERE, TRAINING))
    layout = Layout(**{name: one for name, one in found["layout"].items() if name not in ("accumulation", "words")})
    assert (layout.devices, layout.zero) == (1, 0)
    ours = memory_here(NANO, layout, TRAINING)
    assert {name: found["memory"][name] for name in ours.classes()} == ours.classes()
    assert found["memory"]["peak"] == ours.peak and found["terms"] == terms_here(NANO, layout, TRAINING)
    step = step_here(NANO, CPU, TRAINING, layout)
    assert found["step"]["seconds"] == step.total and found["step"]["optimizer"] == step.optimizer
    assert found["step"]["low"] == step.total * INTERVAL[0] and "planner_here" in found["step"]["interval_of"]
    assert found["run"]["seconds"] == pytest.approx(found["run"]["steps"] * step.total / 0.9)
    assert found["memory"]["peak"] != memory(NANO, layout, TRAINING).peak


def test_a_processor_recomputes_before_it_gives_up():
    whole = memory_here(NANO, Layout(zero=0), TRAINING).peak
    kinds = []
    for share in (1.1, 0.97, 0.93):
        tight = Cluster(1, replace(CPU, memory=share * whole / 0.94))
        kinds.append(search(NANO, tight, TRAINING).winner.layout.recompute)
    assert kinds[0] == "none" and set(kinds[1:]) <= {"selective", "full"}


def test_a_machine_too_small_hears_what_would_do():
    question = Question(work_of(presets.gpt2("xl"), "gpt2-xl"), HERE, TRAINING)
    found = answer(question)
    assert not found["fits"] and "enough" not in found and found["devices_needed"] is None
    assert "GiB" in found["verdict"] and "--laptop" in found["verdict"]
    with pytest.raises(MalmoiError, match="gpt2-xl does not fit on this-machine"):
        search(question.work, HERE, TRAINING)


def test_the_largest_model_for_a_night_is_planned_with_our_own_loop():
    found = largest(HERE, 8, "fp32")
    assert found["model"]["optimizer"] == "muon" and found["machine"]["cpu"] and found["fits"]
    assert found["memory"]["buffers"] > 0 == found["step"]["bubble"]


@pytest.mark.parametrize("rank", [0, 16])
@pytest.mark.parametrize("name", texts("here"))
def test_every_explanation_has_value_formula_source_and_inputs(name: str, rank: int):
    found = answer(Question(NANO, HERE, replace(TRAINING, lora_rank=rank)))
    if value(found, name) is None:  # power and price of a processor are not known, an adapter's loss neither
        assert name in ("run.kwh", "run.co2_tonnes", "run.usd") or name.startswith(("worth.", "loss."))
        return
    said = explain(found, name)
    missing = set(texts("here")[name]["with"]) - set(said["inputs"])
    assert said["formula"] and said["source"] and missing <= {"model.lora_rank"}


def test_the_numbers_put_in_give_the_number():
    found = answer(Question(NANO, HERE, TRAINING))
    put = {name.split(".")[1]: one for name, one in explain(found, "memory.activations")["inputs"].items()}
    each = put["kept_bytes_per_token"] * put["layers_on_stage"] + put["end_bytes_per_token"]
    assert found["memory"]["activations"] == pytest.approx(put["tokens_on_device"] * each + put["mask_bytes"])
    step = explain(found, "step.seconds")
    assert step["value"] == pytest.approx(sum(step["inputs"].values()))
    assert "Korthikanti" not in explain(found, "memory.activations")["source"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 4), st.sampled_from(["muon", "adamw"]),
    st.sampled_from(["none", "selective", "full"]), st.booleans(), st.sampled_from([0, 8]),
    st.sampled_from(["fp32", "bf16"]),
)  # fmt: skip
def test_bytes_and_seconds_never_fall_when_something_grows(heads, layers, rows, length, rule, how, sparse, rank, kind):
    experts = {"num_experts": 4, "num_experts_per_tok": 2} if sparse else {}

    def model(depth: int, width: int):
        return work_of(ModelConfig(vocab_size=1024, hidden_size=64 * width, num_attention_heads=width,
                                   num_hidden_layers=depth, **experts))  # fmt: skip

    now, training = model(layers, heads), Training(2 * rows, 256 * length, kind, rule, lora_rank=rank)
    layout = Layout(zero=0, micro_batch=rows, recompute=how)
    larger = [
        (model(layers + 1, heads), training, layout),
        (model(layers, heads + 1), training, layout),
        (now, replace(training, batch=4 * rows), layout),
        (now, replace(training, batch=4 * rows), replace(layout, micro_batch=2 * rows)),
        (now, replace(training, sequence=512 * length), layout),
    ]
    bytes_now = memory_here(now, layout, training)
    assert bytes_now.peak == pytest.approx(sum(bytes_now.classes().values()))
    seconds_now = step_here(now, CPU, training, layout)
    assert all(getattr(seconds_now, part) >= 0 for part in seconds_now.__dataclass_fields__)
    for work, more, cut in larger:
        assert memory_here(work, cut, more).peak >= bytes_now.peak
        assert step_here(work, CPU, more, cut).total > seconds_now.total


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.2, 0.5, 1, 4]), st.sampled_from([1, 6, 32]), st.sampled_from(["muon", "adamw"]),
       st.sampled_from(["fastest", "smallest", "cheapest"]))  # fmt: skip
def test_the_search_never_returns_what_does_not_fit(gib, rows, rule, goal):
    here = Cluster(1, replace(CPU, memory=gib * 2**30))
    training = Training(rows, 1024, "fp32", rule)
    try:
        found = search(work_of(presets.gpt2("small"), "gpt2"), here, training, goal)
    except MalmoiError as error:
        assert "does not fit on this-machine" in str(error)
        return
    for each in (found.winner, *(other for other, _ in found.runners_up)):
        assert each.peak == memory_here(work_of(presets.gpt2("small")), each.layout, training).peak <= room(here)
