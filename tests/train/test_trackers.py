"""Trackers receive the lines of metrics.jsonl, offline; one that is missing is said before training."""

import sys
import types

import pytest
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.loop import train
from malmoi.train.record import read_metrics
from malmoi.train.trackers import Trackers


def spy(name):
    """A module that speaks as trackio and wandb do."""
    module = types.ModuleType(name)
    module.heard = []
    for verb in ("init", "log", "finish"):
        setattr(module, verb, lambda *given, verb=verb, **named: module.heard.append((verb, given, named)))
    return module


def run(folder, *names):
    config = TrainConfig(
        sequence_length=16, per_device_train_batch_size=4, max_steps=4, logging_steps=2, eval_steps=4, num_threads=1,
        memorization_samples=0, track=names,
    )  # fmt: skip
    return list(
        train(tiny_model(), PatternBatches(), config, folder=folder, held_out=[PatternBatches(seed=9).batch(0)])
    )


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_every_line_is_heard_and_the_run_is_closed(tmp_path, monkeypatch, name):
    module = spy(name)
    monkeypatch.setitem(sys.modules, name, module)
    run(tmp_path / "run", name)
    (began, _, named), *logged, (ended, _, _) = module.heard
    assert (began, ended) == ("init", "finish") and named["project"] == "malmoi" and named["name"] == "run"
    assert named.get("mode") == ("offline" if name == "wandb" else None)
    lines = read_metrics(tmp_path / "run")
    assert [one[2]["step"] for one in logged] == [line["step"] for line in lines] == [1, 2, 4]
    for (_, (numbers,), _), line in zip(logged, lines, strict=True):
        assert numbers["loss"] == line["loss"] and numbers.get("val_loss") == line["val_loss"]
        assert all(isinstance(value, float) for value in numbers.values())


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path / "run")
    assert [event.step for event in events.Scalars("loss")] == [line["step"] for line in lines]
    assert events.Scalars("loss")[-1].value == pytest.approx(lines[-1]["loss"])


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_what_is_not_installed_is_said_before_a_step_is_taken(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MalmoiError, match=rf"track: {name} is not installed.*malmoi\[track\]"):
        run(tmp_path / "run", name)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_numbers_only():
    heard = []
    trackers = Trackers((), None, {})
    trackers.open = [types.SimpleNamespace(log=lambda numbers, step: heard.append((step, numbers)))]
    trackers.log({"step": 3, "loss": 1.5, "val_loss": None, "skipped_because": "words", "bpb": float("nan"), "n": 2})
    assert heard == [(3, {"loss": 1.5, "n": 2.0})]
