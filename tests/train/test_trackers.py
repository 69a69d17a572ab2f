"""Trackers receive the lines of metrics.jsonl, offline; one that is missing is said before training."""

import json
import os
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.loop import train
from malmoi.train.record import read_metrics
from malmoi.train.trackers import ELSEWHERE, Trackers


def spy(name):
    """A module that speaks as trackio and wandb do."""
    module = types.ModuleType(name)
    module.heard = []

    def hears(verb):
        return lambda *given, **named: module.heard.append((verb, given, named))

    def init(**named):
        hears("init")(**named)
        module.environment = {name: os.environ.get(name) for name in (*ELSEWHERE, "WANDB_MODE")}
        return types.SimpleNamespace(log=hears("log"), finish=hears("finish"))

    module.init, module.finish = init, hears("finish")
    module.Settings = lambda **named: named
    return module


def run(folder, *names, steps=4, resume=False):
    config = TrainConfig(
        sequence_length=16, per_device_train_batch_size=4, max_steps=4, logging_steps=2, eval_steps=4, num_threads=1,
        memorization_samples=0, save_steps=2, track=names,
    )  # fmt: skip
    held_out = [PatternBatches(seed=9).batch(0)]
    for step in train(tiny_model(), PatternBatches(), config, folder=folder, held_out=held_out, resume=resume):
        if step.step == steps:
            break


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_every_line_is_heard_and_the_run_is_closed(tmp_path, monkeypatch, name):
    module = spy(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/else")
    monkeypatch.setenv("WANDB_MODE", "online")
    run(tmp_path / "run", name, steps=5)
    (began, _, named), *logged, (ended, _, _) = module.heard
    assert (began, ended) == ("init", "finish") and named["project"] == "malmoi" and named["name"] == "run"
    assert named.get("mode") == ("offline" if name == "wandb" else None)
    assert module.environment == {**dict.fromkeys(ELSEWHERE), "WANDB_MODE": "offline"}
    assert (os.environ["TRACKIO_SPACE_ID"], os.environ["WANDB_MODE"]) == ("somebody/else", "online")  # put back
    lines = read_metrics(tmp_path / "run")
    assert [one[2]["step"] for one in logged] == [line["step"] for line in lines] == [1, 2, 4]
    for (_, (numbers,), _), line in zip(logged, lines, strict=True):
        assert numbers["loss"] == line["loss"] and numbers.get("val_loss") == line["val_loss"]
        assert all(isinstance(value, float) for value in numbers.values())


# ---- the libraries themselves, with no way out --------------------------------------------------------------------

ALONE = """
import pathlib, socket, sys
sys.path.insert(0, {tests!r})
def refuse(self, address):
    if self.family != getattr(socket, "AF_UNIX", None):
        print("REACHED OUT:", address)
        raise OSError("there is no network in this test")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
from test_trackers import run
run(pathlib.Path({folder!r}), {name!r}, steps={steps}, resume={resume})
"""


def alone(name, folder, steps=5, resume=False):
    """A tracked run in a process without a network (where the system allows to take it away), account or keyboard."""
    values = {"tests": str(Path(__file__).parent), "folder": str(folder), "name": name}
    code = ALONE.format(**values, steps=steps, resume=resume)
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HF_", "TRACKIO_"))}
    environment = {**kept, "HOME": str(home), "TRACKIO_DIR": str(folder.parent / "trackio")}
    apart = ["unshare", "--user", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
    done = subprocess.run(
        [*apart, sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", done.stdout
    assert "REACHED OUT" not in done.stderr


def agree(found, folder):
    """The (step, loss) that a tracker holds, and those of metrics.jsonl."""
    lines = [(line["step"], line["loss"]) for line in read_metrics(folder)]
    assert len(lines) == 3
    assert [step for step, _ in found] == [step for step, _ in lines]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in lines], rel=1e-6)


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    agree([(event.step, event.value) for event in events.Scalars("loss")], tmp_path / "run")


@pytest.mark.slow
def test_trackio_itself_and_a_resumed_run_goes_on_under_its_name(tmp_path):
    pytest.importorskip("trackio")
    import sqlite3

    alone("trackio", tmp_path / "run", steps=2)
    alone("trackio", tmp_path / "run", resume=True)
    with sqlite3.connect(tmp_path / "trackio" / "malmoi.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in rows} == {"run"}
    agree([(step, json.loads(metrics)["loss"]) for _, step, metrics in rows], tmp_path / "run")


@pytest.mark.slow
def test_wandb_itself(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    alone("wandb", tmp_path / "run")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    found = []
    for data in leveldb_records(written.read_bytes()[7:]):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            found.append((items["_step"], items["loss"]))
    agree(found, tmp_path / "run")


def leveldb_records(data):
    """The records of a log in LevelDB's format: blocks of 32 KiB, each piece with checksum, length and kind."""
    place, parts = 0, b""
    offset = 7  # of wandb's own header, which is part of the first block
    while place + 7 <= len(data):
        left = 32768 - (place + offset) % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


# ---- what can go wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_what_is_not_installed_is_said_before_a_step_is_taken(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MalmoiError, match=rf"track: {name} is not installed.*malmoi\[track\]"):
        run(tmp_path / "run", name)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_numbers_only():
    heard = []
    trackers = Trackers((), None, {})
    trackers.open = [("spy", types.SimpleNamespace(log=lambda numbers, step: heard.append((step, numbers))))]
    trackers.log({"step": 3, "loss": 1.5, "val_loss": None, "skipped_because": "words", "bpb": float("nan"), "n": 2})
    assert heard == [(3, {"loss": 1.5, "n": 2.0})]


def test_a_tracker_that_fails_on_the_way_does_not_end_the_run(tmp_path, monkeypatch):
    module = spy("trackio")

    def full(*given, **named):
        raise OSError("the disk is full")

    module.init = lambda **named: types.SimpleNamespace(log=full, finish=full)
    monkeypatch.setitem(sys.modules, "trackio", module)
    with pytest.warns(UserWarning, match="trackio failed and hears no more of this run .the disk is full"):
        run(tmp_path / "run", "trackio", steps=5)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 4]


def test_a_tracker_that_cannot_begin_is_said_before_a_step_is_taken(tmp_path, monkeypatch):
    module = spy("wandb")
    module.init = lambda **named: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(MalmoiError, match=r"track: wandb cannot begin .division by zero"):
        run(tmp_path / "run", "wandb")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
