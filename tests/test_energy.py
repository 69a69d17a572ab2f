"""Joules: counters that overflow, are doubled, may not be read; estimates that say so; sessions that add up."""

import importlib.util
import json
import sys
import types

import pytest
import torch

from malmoi import energy
from malmoi.config import TrainConfig
from malmoi.energy import Meter, Nvml, ProcessorTime, Rapl
from malmoi.train.loop import train
from malmoi.train.record import ENERGY, Record, read_metrics
from train.tiny_run import PatternBatches, tiny_model


def counter(place, folder, name, microjoules, limit=1_000_000):
    path = place / folder
    path.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", limit)):
        (path / file).write_text(f"{value}\n", encoding="ascii")
    return path / "energy_uj"


class Fixed:
    """A source that has used what it is told."""

    def __init__(self, label="measured (a spy)"):
        self.label, self.used = label, 0.0

    def joules(self):
        return self.used


def test_packages_are_counted_once_and_through_an_overflow(tmp_path):
    first = counter(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = counter(tmp_path, "intel-rapl:1", "package-1", 0)
    others = [
        counter(tmp_path, "intel-rapl:0:0", "core", 0),
        counter(tmp_path, "intel-rapl:0:1", "dram", 0),
        counter(tmp_path, "intel-rapl:2", "psys", 0),
        counter(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    rapl = Rapl.find(place=tmp_path)
    assert rapl is not None and rapl.joules() == 0
    for path in others:
        path.write_text("500000", encoding="ascii")
    assert rapl.joules() == 0
    second.write_text("250000", encoding="ascii")
    assert rapl.joules() == pytest.approx(0.25)
    first.write_text("100000", encoding="ascii")  # began again at 0: 0.1 J to the limit, 0.1 J since
    assert rapl.joules() == pytest.approx(0.45)
    first.unlink()
    assert rapl.joules() == pytest.approx(0.45)


def test_counters_that_may_not_be_read_are_no_source(tmp_path, monkeypatch):
    assert Rapl.find(place=tmp_path / "nowhere") is None
    path = counter(tmp_path, "intel-rapl:0", "package-0", 5)
    path.write_text("not a number", encoding="ascii")
    assert Rapl.find(place=tmp_path) is None

    def forbidden(self, *given, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_text", forbidden)
    assert Rapl.find(place=tmp_path) is None


def test_a_measured_processor_is_preferred_to_an_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "codecarbon_watts", lambda: None)
    found = Rapl([counter(tmp_path, "intel-rapl:0", "package-0", 0).parent])
    monkeypatch.setattr(energy.Rapl, "find", lambda times: found)
    assert Meter.here().method == "measured (RAPL)"
    monkeypatch.setattr(energy.Rapl, "find", lambda times: None)
    assert Meter.here().method == "estimated (12 W assumed for a busy core)"


def test_cards_count_from_the_beginning_of_the_run(monkeypatch):
    library = types.ModuleType("pynvml")
    counts = {"GPU-a": 5_000, "GPU-b": 70_000}
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda name: name
    library.nvmlDeviceGetTotalEnergyConsumption = counts.__getitem__
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: types.SimpleNamespace(uuid="ab"[number]))
    monkeypatch.setattr(energy, "codecarbon_watts", lambda: None)
    monkeypatch.setattr(energy.Rapl, "find", lambda times: None)
    meter = Meter.here()
    assert meter.method == "estimated (12 W assumed for a busy core) + measured (NVML)"
    card = meter.sources[1]
    counts["GPU-a"] += 1_500
    counts["GPU-b"] += 9_999  # somebody else's
    assert card.joules() == pytest.approx(1.5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    both = Nvml.find(times=3)
    assert both is not None
    counts["GPU-a"] += 1_000
    counts["GPU-b"] += 1_000
    assert both.joules() == pytest.approx(6.0)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml.find() is None
    assert Meter.here().method.endswith("; without the GPU, which cannot be read")


def test_an_estimate_grows_with_processor_time_and_with_the_processes(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(energy.time, "process_time", lambda: now[0])
    source = ProcessorTime(4.0, "estimated", times=2)
    now[0] += 3.0
    assert source.joules() == pytest.approx(24.0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(energy, "codecarbon_watts", lambda: (4.0, "estimated (a table)"))
    seen = []
    monkeypatch.setattr(energy.Rapl, "find", lambda times: seen.append(times))
    meter = Meter.here()
    assert seen == [2] and meter.sources[0].times == 4
    assert meter.method == "estimated (a table); 4 processes taken to be alike"


def test_a_meter_counts_between_start_and_stop():
    source = Fixed()
    source.used = 7.0
    meter = Meter([source])
    meter.start()
    source.used += 1.0
    assert meter.joules() == 1.0
    meter.stop()
    source.used += 10.0
    assert meter.joules() == 1.0
    meter.start()
    source.used += 2.0
    assert meter.joules() == 3.0
    meter.stop()
    meter.stop()
    assert meter.joules() == 3.0


def test_an_overflowing_counter_is_read_between_the_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "OFTEN", 0.01)
    path = counter(tmp_path, "intel-rapl:0", "package-0", 0)
    rapl = Rapl([path.parent])
    meter = Meter([rapl])
    read = energy.threading.Event()
    original = rapl.joules
    rapl.joules = lambda: (read.set(), original())[1]
    meter.start()
    read.clear()
    assert read.wait(5)
    meter.stop()
    (thread,) = [one for one in energy.threading.enumerate() if one.name == "energy"] or [None]
    if thread is not None:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="codecarbon is not installed")
@pytest.mark.parametrize(
    ("name", "virtual", "watts", "said"),
    [
        ("AMD EPYC 7763 64-Core Processor", False, 280 / 128, ": 280 W for AMD EPYC 7763"),
        ("AMD EPYC 7763 64-Core Processor", True, 4.0, ": 4 W for a busy core"),
        ("A processor that nobody has heard of", False, 4.0, ": 4 W for a busy core"),
    ],
)
def test_codecarbon_itself(monkeypatch, capfd, tmp_path, name, virtual, watts, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", None)  # nobody is asked
    monkeypatch.setattr(energy, "processor", lambda: (name, virtual))
    monkeypatch.setattr(energy.os, "cpu_count", lambda: 128)
    found = energy.codecarbon_watts.__wrapped__()
    assert found is not None and found[0] == pytest.approx(watts)
    assert found[1].startswith("estimated (codecarbon 3") and said in found[1]
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_without_codecarbon_or_with_one_of_other_insides_our_own_assumption_is_said(monkeypatch):
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    assert energy.codecarbon_watts.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "codecarbon.core.cpu", types.ModuleType("empty"))
    assert energy.codecarbon_watts.__wrapped__() is None
    energy.codecarbon_watts.cache_clear()
    assert ProcessorTime.here().label == "estimated (12 W assumed for a busy core)"
    energy.codecarbon_watts.cache_clear()


def test_the_processors_name(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor sse\n", encoding="utf-8")
    monkeypatch.setattr(energy, "CPUINFO", path)
    assert energy.processor() == ("Some CPU @ 2 GHz", True)
    path.unlink()
    assert energy.processor()[1] is False


# ---- in a run's folder --------------------------------------------------------------------------------------------


def test_sessions_add_up_also_by_other_methods_and_with_steps_that_were_lost(tmp_path):
    one, two = Fixed("measured (one)"), Fixed("estimated (two)")
    record = Record(tmp_path, meter=Meter([one]))
    one.used = 5.0
    assert record.append({"step": 1, "loss": 1.0}) == 5.0
    one.used = 8.0
    record.flush()  # a checkpoint after step 2
    one.used = 20.0
    record.append({"step": 3, "loss": 1.0})
    assert json.loads((tmp_path / ENERGY).read_text(encoding="utf-8")) == {"measured (one)": 8.0}
    # killed here: step 3 is lost, what it took is not
    record = Record(tmp_path, keep_through=2, meter=Meter([two]))
    two.used = 4.0
    assert record.append({"step": 3, "loss": 1.0}) == 24.0
    record.conclude({"tokens": 48})
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["energy"]
    assert found == {
        "joules": 24.0,
        "kilowatt_hours": pytest.approx(24 / 3.6e6),
        "joules_per_token": 0.5,
        "method": "measured (one); estimated (two)",
    }
    record.close()
    two.used = 1e9
    record.close()
    assert json.loads((tmp_path / ENERGY).read_text(encoding="utf-8")) == {
        "measured (one)": 20.0, "estimated (two)": 4.0
    }  # fmt: skip
    assert [line["joules"] for line in read_metrics(tmp_path)] == [5.0, 24.0]


def test_a_new_run_begins_at_nothing_and_a_damaged_file_is_no_obstacle(tmp_path):
    (tmp_path / ENERGY).write_text('{"measured (one)": 100.0}', encoding="utf-8")
    record = Record(tmp_path, meter=Meter([Fixed()]))
    assert record.append({"step": 1}) == 0.0
    record.close()
    for damaged in ("[1]", '{"a": null}', "{", '{"a": "x"}'):
        (tmp_path / ENERGY).write_text(damaged, encoding="utf-8")
        record = Record(tmp_path, keep_through=1, meter=Meter([Fixed()]))
        assert record.append({"step": 2}) == 0.0
        record.close()


def test_without_a_meter_nothing_is_said(tmp_path):
    record = Record(tmp_path)
    assert record.append({"step": 1}) is None
    record.conclude({"tokens": 3})
    record.close()
    assert "energy" not in (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert not (tmp_path / ENERGY).exists() and "joules" not in read_metrics(tmp_path)[0]


def test_a_real_run_says_what_it_took(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "codecarbon_watts", lambda: None)
    monkeypatch.setattr(energy.Rapl, "find", lambda times: None)
    config = TrainConfig(
        sequence_length=16, per_device_train_batch_size=4, max_steps=6, logging_steps=2, save_steps=3, num_threads=1,
        memorization_samples=0,
    )  # fmt: skip

    def session(resume, last):
        for step in train(tiny_model(), PatternBatches(), config, folder=tmp_path / "run", resume=resume):
            yield step
            if step.step == last:
                return

    first = list(session(False, 3))
    second = list(session(True, 6))
    logged = [step.joules for step in first + second if step.joules is not None]
    assert len(logged) == 4 and logged == sorted(logged) and logged[0] > 0  # steps 1, 2, 4, 6
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    found = summary["energy"]
    assert found["joules"] >= round(logged[-1], 1) and found["method"] == "estimated (12 W assumed for a busy core)"
    assert found["joules_per_token"] == pytest.approx(found["joules"] / summary["tokens"], rel=0.1)
