"""What is kept of a run's weights, with a folder and without one."""

import pytest
import torch
from tiny_run import tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train import checkpoint
from malmoi.train.keeper import Keeper
from malmoi.train.optimizer import build


def keeper(folder, **changes):
    model, config = tiny_model(), TrainConfig(**{"save_total_limit": 1, **changes})
    return Keeper(folder, model, build(model, config), config)


def shifted(model, by):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_best_come_back_from_the_folder(tmp_path, decay):
    kept = keeper(tmp_path, ema_decay=decay)
    kept.optimizer.average and kept.optimizer.average.step()
    best = [parameter.detach().clone() for parameter in kept.model.parameters()]
    kept.save(3, 3, {})
    for step in (4, 5):
        shifted(kept.model, 1.0)
        kept.optimizer.average and kept.optimizer.average.step()
        kept.save(step, 3, {})
    assert checkpoint.steps_in(tmp_path) == [3, 5] and kept.saved_step == 5
    assert "checkpoint-5" in kept.way_back()
    assert kept.load_best(3)
    assert all(torch.equal(a, b) for a, b in zip(best, kept.model.parameters(), strict=True))
    (tmp_path / "checkpoint-3" / "state.json").unlink()
    assert not kept.load_best(3)


def test_a_checkpoint_holds_the_log_as_it_was(tmp_path):
    kept = keeper(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("one\n", encoding="utf-8")
    path = kept.save(3, None, {})
    for text in ("one\ntwo\n", "o", None):
        (tmp_path / "metrics.jsonl").unlink()
        if text is not None:
            (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
        kept.load(path)
        assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == "one\n"
    (path / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "metrics.jsonl has 0 bytes" in checkpoint.fault_of(path)


def test_without_a_folder_they_are_held_in_memory():
    kept = keeper(None)
    assert not kept.load_best(1) and kept.way_back() == "" and kept.save(1, None, {}) is None
    best = shifted(kept.model, 1.0)
    kept.remember_best()
    shifted(kept.model, 1.0)
    assert kept.load_best(7)
    assert all(torch.equal(a, b) for a, b in zip(best, kept.model.parameters(), strict=True))


def test_room_is_counted_before_training_and_planned_is_written(tmp_path, monkeypatch):
    kept = keeper(tmp_path / "run", save_total_limit=2, ema_decay=0.9)
    (tmp_path / "run").mkdir()
    sizes = kept.make_room(None, 0)
    assert sizes["count"] == 3 and sizes["needed"] == pytest.approx(3 * sizes["each"])
    for parameter in kept.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept.optimizer.step()
    path = kept.save(1, None, {})
    written = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    assert written == pytest.approx(sizes["each"], rel=0.3) and written <= sizes["each"]
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(MalmoiError, match=r"too full for the checkpoints of this run: it needs .* MB and 0\.0 MB"):
        kept.make_room(None, 1)
