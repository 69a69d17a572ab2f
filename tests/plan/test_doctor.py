"""Measuring: every number is there and plausible, and each thing in the way is named with what to do."""

import pytest
import torch

from malmoi.plan import doctor

HEALTHY = {
    "libraries": {"training kernels": None},
    "cpu": {"cores": 4, "threads": 4, "speedup": 3.8, "matmul": {"float32": 1e11, "bfloat16": 2e11, "int8": None}},
    "cuda": [],
    "memory": {"total": 16 << 30, "available": 12 << 30},
    "disk": {"free": 100 << 30},
}


@pytest.fixture
def quick(monkeypatch):
    for name, value in (("SIDE", 64), ("BUFFER", 1 << 20), ("DISK", 2 << 20), ("ENOUGH", 0.01)):
        monkeypatch.setattr(doctor, name, value)


def test_everything_is_measured_and_nothing_is_left_behind(quick, tmp_path):
    record = doctor.examine({"training kernels": None}, tmp_path)
    assert record["cpu"]["matmul"]["float32"] > 1e6
    assert all(value > 1e6 for value in (*record["cpu"]["bandwidth"].values(), record["disk"]["write"]))
    assert 1e-8 < record["cpu"]["launch"] < 1e-2
    assert 0 < record["memory"]["available"] <= record["memory"]["total"]
    assert len(record["cuda"]) == torch.cuda.device_count()
    assert not list(tmp_path.iterdir())


def test_a_product_counts_two_operations_a_term(monkeypatch):
    monkeypatch.setattr(doctor, "fastest", lambda _: 2.0)
    assert doctor.matmul("float32", 10, "cpu") == 1000.0


def test_the_quickest_run_counts():
    runs = []
    assert doctor.fastest(lambda: runs.append(1), 0.0005) < 0.0005
    assert len(runs) >= 3


def test_a_healthy_machine_needs_no_advice():
    assert doctor.advice(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        ({"libraries": {"training kernels": "no compiler"}}, "no compiler", "Install a C++ compiler"),
        ({"cpu": {**HEALTHY["cpu"], "matmul": {"float32": 1e11, "bfloat16": 1e9}}}, "bfloat16", "float32"),
        ({"cpu": {**HEALTHY["cpu"], "threads": 2, "speedup": 1.9}}, "2 of 4 cores", "OMP_NUM_THREADS"),
        ({"cpu": {**HEALTHY["cpu"], "speedup": 1.4}}, "1.4 times", "num_threads 3"),
        ({"memory": {"total": 4 << 30, "available": 1 << 30}}, "1.0 GiB of memory", "per_device_train_batch_size"),
        ({"disk": {"free": 1 << 30}}, "1.0 GiB of disk", "save_total_limit"),
    ],
)
def test_each_thing_in_the_way_is_named_with_what_to_do(change, problem, remedy):
    (found,) = doctor.advice({**HEALTHY, **change})
    assert problem in found["problem"] and remedy in found["do"]
