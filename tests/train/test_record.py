"""The run folder: a log that survives kills, settings that can be read back, a picture."""

import json
import sys

import pytest
import yaml

from malmoi.tokens.folder import write_text
from malmoi.train.record import Record, plot, read_metrics, versions


def entries(steps):
    return [{"step": step, "loss": 3 / step, "val_loss": 3.1 / step if step % 2 == 0 else None} for step in steps]


def written(folder, steps):
    log = Record(folder)
    for entry in entries(steps):
        log.append(entry)
    log.close()
    return folder / "metrics.jsonl"


def test_lines_are_read_back(tmp_path):
    path = written(tmp_path / "new", range(1, 6))
    assert read_metrics(path.parent) == entries(range(1, 6))
    assert read_metrics(tmp_path / "nowhere") == []


@pytest.mark.parametrize("torn", ['{"step": 6, "lo', "\x00\x00\x00", '"text"', "[1]", '{"loss": 1}', ""])
def test_a_resume_cuts_the_log_back_to_the_checkpoint(tmp_path, torn):
    path = written(tmp_path, range(1, 6))
    with path.open("a", encoding="utf-8") as stream:
        stream.write(torn)
    log = Record(tmp_path, keep_through=3)
    log.append(entries([4])[0])
    log.flush()
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [1, 2, 3, 4]


def test_a_new_run_begins_a_new_log(tmp_path):
    written(tmp_path, range(1, 6))
    Record(tmp_path).close()
    assert read_metrics(tmp_path) == []


def test_what_is_not_finite_becomes_null(tmp_path):
    log = Record(tmp_path)
    log.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.1})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.1}]


def test_settings_and_versions(tmp_path):
    log = Record(tmp_path)
    log.describe({"train": {"max_steps": 5}, "name": "말모이"}, {"data": "abc"})
    log.close()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["name"] == "말모이"
    found = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))
    assert found["data"] == "abc" and found["torch"] == versions()["torch"] is not None and found["threads"] >= 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")  # half of a surrogate pair cannot be written
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_plot_shows_both_curves(tmp_path):
    pytest.importorskip("matplotlib")
    written(tmp_path, range(1, 30))
    path = plot(tmp_path, "Village")
    assert path == tmp_path / "loss.png"
    from matplotlib import image

    pixels = image.imread(path)
    assert pixels.shape[0] >= 400 and pixels.shape[1] >= 700
    for colour in ((0x1F, 0x77, 0xB4), (0xD9, 0x5F, 0x02)):  # training, held-out
        close = abs(pixels[..., :3] * 255 - colour).max(axis=-1) < 12
        assert close.sum() > 200
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_no_plot_without_numbers_or_without_matplotlib(tmp_path, monkeypatch):
    assert plot(tmp_path) is None
    written(tmp_path, range(1, 5))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot(tmp_path) is None
    assert not (tmp_path / "loss.png").exists()


def test_a_korean_title_never_becomes_boxes(tmp_path):
    pytest.importorskip("matplotlib")
    import warnings

    written(tmp_path, range(1, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        assert plot(tmp_path, "마을 이야기") is not None
        assert plot(tmp_path, "Élan") is not None
