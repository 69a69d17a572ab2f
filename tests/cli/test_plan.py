"""`malmoi plan`: the commands of the manual, options, and one clear error for each mistake."""

import json
import subprocess
import sys

import pytest

from malmoi.cli import plan
from malmoi.config import MalmoiError
from malmoi.plan import machine
from malmoi.plan.layout import Training

RECORD = {
    "date": "2026-01-02T03:04:05+00:00",
    "cpu": {
        "name": "a processor",
        "matmul": {"float32": 1e11, "bfloat16": 1e9, "int8": None},
        "bandwidth": {"read": 1e10, "copy": 2e10},
        "launch": 3e-6,
    },
    "cuda": [],
    "memory": {"total": 2**34, "available": 2**33},
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "machine.json"))
    machine.save(RECORD)


def planned(malmoi, *arguments: str) -> dict:
    return json.loads(malmoi("plan", *arguments, "--json").out)


def test_gpt3_on_a_thousand_a100s(malmoi):
    found = planned(malmoi, "gpt3-175b", "--on", "1024xA100-80GB", "--tokens", "300B")
    assert found["model"]["parameters"] == 174_604_259_328
    assert found["fits"] and found["layout"]["tensor"] > 1
    assert 15 < found["run"]["days"] < 45  # Megatron 2021: 34 days with full recomputation
    assert found["search"]["runners_up"]


def test_gpt4_does_not_fit_and_hears_what_would_do(malmoi):
    found = planned(malmoi, "gpt4", "--on", "96xNVL72")
    assert found["model"]["parameters"] == 170_175_431_802_880
    assert not found["fits"] and found["devices_needed"] > 6912 and found["enough"]["fits"]


def test_an_adapter_on_a_graphics_card(malmoi):
    found = planned(malmoi, "qwen3-0.6b", "--on", "1xRTX4090", "--finetune", "lora")
    assert found["fits"] and found["model"]["lora_rank"] == 16
    assert "unverified" in found["machine"]["doubt"]
    assert "unverified" in malmoi("plan", "qwen3-0.6b", "--on", "1xRTX4090", "--finetune", "lora").out


def test_nano_on_this_machine(malmoi, measured):
    found = planned(malmoi, "nano", "--on", "this-machine")
    assert found["model"]["precision"] == "fp32" and found["fits"]
    assert found["run"]["kwh"] is None and found["run"]["usd"] is None
    out = malmoi("plan", "nano", "--on", "this-machine").out
    assert "not known" in out and "no price is known" in out


def test_this_machine_is_planned_as_our_own_training(malmoi, measured):
    from malmoi import presets
    from malmoi.plan.here import memory_here, step_here
    from malmoi.plan.layout import Layout
    from malmoi.plan.work import work_of

    found = planned(malmoi, "nano", "--on", "this-machine", "--batch", "32", "--search", "smallest")
    axes = {name: value for name, value in found["layout"].items() if name not in ("accumulation", "words")}
    training = Training(32, 256, "fp32", "muon")
    work = work_of(presets.preset("nano"))
    assert found["memory"]["peak"] == memory_here(work, Layout(**axes), training).peak
    step = step_here(work, machine.this_machine(), training, Layout(**axes))
    assert found["step"]["seconds"] == pytest.approx(step.total)
    out = malmoi("plan", "nano", "--on", "this-machine", "--batch", "32").out
    assert "Muon" in out and "planner_here.md" in out.replace("\n", "")
    out = malmoi("plan", "nano", "--on", "this-machine", "--explain", "memory.activations").out
    assert "autograd" in out and "Korthikanti" not in out
    chosen = planned(
        malmoi, "nano", "--on", "this-machine", "--layout", "recompute=full,micro_batch=8", "--batch", "32"
    )
    assert chosen["layout"]["accumulation"] == 4 and chosen["layout"]["recompute"] == "full"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nano", "--precision", "bf16"], "only imitate it, slowly. Take fp32"),
        (["nano", "--precision", "fp16"], "only imitate it"),
        (["nano", "--precision", "fp8"], "no fp8 units. Take fp32"),
        (["nano", "--layout", "tensor=2"], "2 devices, but there are 1"),
        (["nano", "--layout", "micro_batch=3", "--batch", "32"], "does not divide the batch's rows = 32"),
    ],
)
def test_mistakes_on_this_machine(malmoi, measured, arguments: list[str], words: str):
    result = malmoi("plan", *arguments, "--on", "this-machine")
    assert result.code != 0 and words in result.err.replace("\n", " ")


def test_a_model_too_large_for_this_machine_hears_what_would_do(malmoi, measured):
    found = planned(malmoi, "llama3.1-8b", "--on", "this-machine")
    assert not found["fits"] and "enough" not in found
    assert "--laptop" in found["verdict"] and "GiB" in found["verdict"]
    assert "Does not fit" in malmoi("plan", "llama3.1-8b", "--on", "this-machine").out


def test_a_processor_that_multiplies_bfloat16_trains_in_it(malmoi, measured):
    cpu = {**RECORD["cpu"], "matmul": {"float32": 1e11, "bfloat16": 2e11, "int8": None}}
    plain = planned(malmoi, "nano", "--on", "this-machine", "--batch", "32")
    machine.save({**RECORD, "cpu": cpu})
    found = planned(malmoi, "nano", "--on", "this-machine", "--batch", "32")
    assert (plain["model"]["precision"], found["model"]["precision"]) == ("fp32", "bf16")
    assert found["step"]["seconds"] < plain["step"]["seconds"]
    assert found["memory"]["activations"] < plain["memory"]["activations"]


def test_this_machine_unmeasured(malmoi, tmp_path, monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "none.json"))
    result = malmoi("plan", "nano", "--on", "this-machine")
    assert result.code != 0 and "malmoi doctor" in result.err


def test_serving_a_folder(malmoi, finished_run):
    found = planned(malmoi, str(finished_run), "--serve", "--users", "200")
    assert all(each["fits"] and each["users"] == 200 for each in found["compared"])
    assert "RTX4090" in malmoi("plan", str(finished_run), "--serve", "--users", "200").out
    assert planned(malmoi, "gpt2-xl", "--serve", "--users", "5", "--on", "H100")["most_users"] > 5


def test_a_budget_and_a_laptop(malmoi, measured):
    found = planned(malmoi, "--budget", "100usd", "--on", "8xH100")
    assert found["worth"]["parameters"] > 1e8 and found["price"]["used"] > 1
    assert found["run"]["device_hours"] * found["price"]["used"] == pytest.approx(100, rel=0.15)
    laptop = planned(malmoi, "--laptop")
    assert laptop["worth"]["hours"] == 8 and laptop["machine"]["device"] == "this-machine"
    assert "loss to expect" in malmoi("plan", "--hours", "24", "--on", "RTX4090").out


def test_a_layout_of_ones_own(malmoi):
    axes = "tensor=2,pipeline=2,recompute=full,micro_batch=2"
    found = planned(malmoi, "gpt2-medium", "--on", "8xH100", "--layout", axes)
    layout = found["layout"]
    assert (layout["data"], layout["tensor"], layout["pipeline"], layout["recompute"]) == (2, 2, 2, "full")


def test_an_explanation(malmoi):
    out = malmoi("plan", "gpt2", "--on", "H100", "--explain", "memory.activations").out
    assert "formula" in out and "2205.05198" in out and "terms.kept_bytes_per_token" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt9", "--on", "H100"], "Did you mean 'gpt"),
        (["gpt2", "--on", "8xH10"], "There is no device 'H10'"),
        (["gpt2"], "On which machine"),
        ([], "Plan which model"),
        (["gpt2", "--on", "H100", "--tokens", "0"], "--tokens 0"),
        (["gpt2", "--on", "H100", "--tokens", "many"], "--tokens 'many'"),
        (["gpt2", "--on", "H100", "--tokens", "1e30"], "at most"),
        (["gpt2", "--on", "8xH100", "--layout", "tensor=8"], "tensor = 8 does not divide attention heads = 12"),
        (["gpt2", "--on", "8xH100", "--layout", "tensr=8"], "Did you mean 'tensor'"),
        (["gpt2", "--on", "8xH100", "--layout", "tensor=x"], "whole number"),
        (["gpt2", "--on", "8xH100", "--layout", "recompute=some"], "none, selective or full"),
        (["gpt2", "--on", "H100", "--seq", "5000"], "1,024"),
        (["gpt2", "--on", "H100", "--batch", "0"], "--batch 0"),
        (["gpt2", "--on", "A100", "--precision", "fp8"], "no fp8 units"),
        (["gpt2", "--on", "H100", "--precision", "fp7"], "fp7"),
        (["gpt2", "--on", "H100", "--pue", "0.5"], "--pue"),
        (["gpt2", "--on", "H100", "--goodput", "0"], "--goodput"),
        (["gpt2", "--on", "H100", "--explain", "memory.weight"], "Did you mean 'memory.weights'"),
        (["--budget", "100usd", "--on", "TPU-v4"], "No price is known"),
        (["--budget", "0usd"], "above 0"),
        (["--budget", "100usd", "--hours", "3"], "one limit at a time"),
        (["gpt2", "--budget", "100usd"], "leave the model's name away"),
        (["gpt2", "--serve", "--users", "0", "--on", "H100"], "--users 0"),
        (["deepseek-v3", "--on", "2048xH800", "--dry-run"], "cannot build it"),
    ],
)
def test_mistakes(malmoi, arguments: list[str], words: str):
    result = malmoi("plan", *arguments)
    assert result.code != 0 and words in result.err.replace("\n", " ")
    assert "Traceback" not in result.err and result.out == ""


def test_the_dry_run_is_asked_with_the_layout_that_was_found(malmoi, monkeypatch):
    from malmoi.plan import dry_run

    asked = {}

    def pretend(config, layout, training, ranks=None):
        asked.update(config=config, layout=layout, ranks=ranks)
        classes = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "peak")
        memory, formula = dict.fromkeys(classes, 2.0**30), dict.fromkeys((*classes, "flops"), 2.0**30)
        apart = [{"class": "weights", "bytes": 2.0**30, "why": "slices are rounded up"}]
        rank = {"rank": 0, "stage": 0, "memory": memory, "formula": formula, "apart": apart, "flops": 1.0}
        return {"world": 8, "ranks": [{**rank, "communication": {"all_reduce": 5}}], "not_run": ["context"]}

    monkeypatch.setattr(dry_run, "dry_run", pretend)
    out = malmoi("plan", "gpt2", "--on", "8xH100", "--dry-run", "--ranks", "3").out
    assert asked["layout"].devices == 8 and asked["ranks"] == [3]
    assert "not run: context" in out and "rank 0 of 8" in out
    assert "-50.0%" in out and "slices are rounded up" in out


def test_amounts():
    assert plan.amount("300B", "--tokens") == 3e11
    assert plan.amount("1.5t", "--tokens") == 1.5e12
    assert plan.amount("2e12", "--tokens") == 2e12
    assert plan.dollars("$2.5k") == plan.dollars("2500 USD") == 2500
    for bad in ("", "B", "-5", "5x", "1.2.3"):
        with pytest.raises(MalmoiError):
            plan.amount(bad, "--tokens")


def test_parsed_layouts_fill_the_data_axis():
    found = plan.parse_layout("tensor=4, context=2", 32, Training(32, 1024))
    assert (found.data, found.tensor, found.context, found.zero, found.sequence_parallel) == (4, 4, 2, 1, True)


def test_no_torch_is_needed():
    code = "import sys; from malmoi.cli import main; main(['plan', 'gpt2', '--on', 'H100']); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    assert "tokens a second" in out
    assert "\nTrue" not in out
