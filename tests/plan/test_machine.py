"""The kept measurements: where they lie, what the planner reads of them, and every way in which they may be missing."""

import json

import pytest

from malmoi.config import MalmoiError
from malmoi.plan import hardware, machine

CPU = {
    "name": "a processor",
    "matmul": {"float32": 1e11, "bfloat16": 1e9, "int8": None},
    "bandwidth": {"read": 1e10, "copy": 2e10},
    "launch": 3e-6,
}
RECORD = {"date": "2026-01-02T03:04:05+00:00", "cpu": CPU, "cuda": [], "memory": {"total": 9, "available": 8}}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    file = tmp_path / "here" / "machine.json"
    monkeypatch.setenv(machine.VARIABLE, str(file))
    return file


def test_the_place_follows_the_convention(monkeypatch, tmp_path):
    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.path() == tmp_path / "malmoi" / "this-machine.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the convention
    assert machine.path().parts[-3:] == (".cache", "malmoi", "this-machine.json")


def test_a_processor_as_a_device(kept):
    assert machine.save(RECORD) == kept
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]
    device = hardware.device("this-machine")
    assert (device.fp32, device.achievable, device.bf16) == (1e11, 1e11, 1e9)
    assert (device.memory, device.bandwidth, device.launch, device.node) == (8, 2e10, 3e-6, 1)
    assert device.measured and not device.doubtful and "2026-01-02" in device.source


def test_a_gpu_comes_before_the_processor(kept):
    gpu = {**CPU, "name": "a gpu", "memory": 80, "matmul": {"float32": 5e13, "bfloat16": 6e14, "int8": 1e15}}
    machine.save({**RECORD, "cuda": [gpu, gpu]})
    device = machine.this_machine()
    assert (device.note, device.memory, device.achievable, device.node) == ("a gpu", 80, 6e14, 2)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', json.dumps({**RECORD, "format": 99})])
def test_what_cannot_be_used_says_to_measure_again(kept, text):
    with pytest.raises(MalmoiError, match="Run `malmoi doctor` first"):
        machine.this_machine()
    kept.parent.mkdir()
    kept.write_text(text)
    with pytest.raises(MalmoiError, match="malmoi doctor` again"):
        machine.this_machine()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MalmoiError, match="--out"):
        machine.save(RECORD, tmp_path / "file" / "machine.json")
