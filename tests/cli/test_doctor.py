"""`malmoi doctor`: a page or JSON, and the file that the planner reads."""

import json

import pytest

from malmoi.plan import doctor, machine


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "kept.json"))
    for name, value in (("SIDE", 64), ("BUFFER", 1 << 20), ("DISK", 2 << 20), ("ENOUGH", 0.01)):
        monkeypatch.setattr(doctor, name, value)


def test_the_page_says_what_was_measured_and_where_it_is_kept(malmoi, tmp_path):
    out = malmoi("doctor").out
    assert "float32" in out and "FLOP/s" in out and "instructions" in out
    assert str(tmp_path / "kept.json") in out.replace("\n", "")
    assert machine.this_machine().fp32 > 0


@pytest.mark.slow
def test_json_elsewhere(malmoi, tmp_path):
    printed = json.loads(malmoi("doctor", "--json", "--out", str(tmp_path / "other.json")).out)
    kept = json.loads((tmp_path / "other.json").read_text())
    assert printed["cpu"] == kept["cpu"] and printed["kept"].endswith("other.json")
    assert set(printed["libraries"]) == {"training kernels", "generation engine"}
    assert not (tmp_path / "kept.json").exists()


def test_a_place_that_cannot_be_written(malmoi, tmp_path):
    (tmp_path / "file").write_text("")
    result = malmoi("doctor", "--out", str(tmp_path / "file" / "x.json"))
    assert result.code != 0 and "--out" in result.err and "Traceback" not in result.err
