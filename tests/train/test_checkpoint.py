"""Whole or absent: every damage to a checkpoint is seen, every failure to write one leaves the others as they were."""

import errno
import json
import shutil
import sys

import pytest
import torch
from tiny_run import tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train import checkpoint
from malmoi.train.optimizer import build


@pytest.fixture
def trained():
    """A model whose optimizers have state."""
    model = tiny_model()
    optimizer = build(model, TrainConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def test_round_trip_is_exact(trained, tmp_path):
    model, optimizer = trained
    path = checkpoint.save(tmp_path, 7, model, optimizer, {"words": "말모이", "number": 0.1})
    assert path == tmp_path / "checkpoint-7" == checkpoint.latest(tmp_path)
    assert checkpoint.fault_of(path) is None
    other = tiny_model(seed=5)
    other_optimizer = build(other, TrainConfig())
    assert checkpoint.load(path, other, other_optimizer) == {"words": "말모이", "number": 0.1, "step": 7}
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, other_optimizer.state_tensors()[name]), name


def test_only_known_files_and_no_leftovers(trained, tmp_path):
    def extra(folder):
        (folder / "inner").mkdir()
        (folder / "inner" / "note.txt").write_text("안녕", encoding="utf-8")

    path = checkpoint.save(tmp_path, 1, *trained, {}, extra)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        f"checkpoint-1/{name}"
        for name in ("inner/note.txt", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
    ]
    (path / "inner" / "note.txt").write_text("안녕!", encoding="utf-8")
    assert "inner/note.txt has" in checkpoint.fault_of(path)


def damage(path, name, how):
    file = path / name
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_damage_is_seen_and_the_newest_whole_one_taken(trained, tmp_path, name, how):
    whole = checkpoint.save(tmp_path, 10, *trained, {})
    torn = checkpoint.save(tmp_path, 20, *trained, {})
    damage(torn, name, how)
    said = []
    assert checkpoint.latest(tmp_path, said.append) == whole
    assert len(said) == 1 and str(torn) in said[0] and name in said[0]
    damage(whole, name, how)
    assert checkpoint.latest(tmp_path) is None


def test_latest_of_nothing(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-5").write_text("a file of that name", encoding="utf-8")
    (tmp_path / "checkpoint-abc").mkdir()
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("moment", ["model", "optimizer", "state", "extra", "manifest", "rename"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_at_any_moment_leaves_the_earlier_one(trained, tmp_path, monkeypatch, moment, kind):
    earlier = checkpoint.save(tmp_path, 1, *trained, {})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(*_, **__):
        raise kind

    extra, real_save, real_json = None, checkpoint.save_file, json.dumps
    if moment in ("model", "optimizer"):
        name = f"{moment}.safetensors"
        replacement = lambda tensors, path: fail() if path.name == name else real_save(tensors, path)  # noqa: E731
        monkeypatch.setattr(checkpoint, "save_file", replacement)
    elif moment == "extra":
        extra = fail
    elif moment == "rename":
        monkeypatch.setattr(checkpoint, "_swap_in", fail)
    else:
        wanted = "sha256" if moment == "manifest" else "mine"
        replacement = lambda value, **keys: fail() if wanted in value else real_json(value, **keys)  # noqa: E731
        monkeypatch.setattr(checkpoint.json, "dumps", replacement)
    with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else MalmoiError) as caught:
        checkpoint.save(tmp_path, 2, *trained, {"mine": 1}, extra)
    if kind is not KeyboardInterrupt:
        assert "checkpoint-2 could not be written: the disk is full" in str(caught.value)
        assert f"resumed from {earlier}" in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert checkpoint.latest(tmp_path) == earlier


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of a file are a Unix thing")
@pytest.mark.parametrize("room", [100, 50_000, 115_000])
def test_a_file_system_that_stops_accepting_bytes(trained, tmp_path, room):
    """A real refusal in the middle of a real write, not a simulated one."""
    import resource
    import signal

    earlier = checkpoint.save(tmp_path, 1, *trained, {})
    assert (earlier / "model.safetensors").stat().st_size < 115_000 < (earlier / "optimizer.safetensors").stat().st_size
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old_limit[1]))
    try:
        with pytest.raises(MalmoiError, match="checkpoint-2 could not be written"):
            checkpoint.save(tmp_path, 2, *trained, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]
    assert checkpoint.latest(tmp_path) == earlier


def test_a_disk_without_room_is_refused_before_writing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(MalmoiError, match=r"too full for checkpoint-3: it needs 0\.\d MB and 0\.0 MB are free"):
        checkpoint.save(tmp_path, 3, *trained, {})
    assert not list(tmp_path.iterdir())


def test_the_same_step_again_replaces(trained, tmp_path):
    checkpoint.save(tmp_path, 4, *trained, {"number": 1})
    path = checkpoint.save(tmp_path, 4, *trained, {"number": 2})
    assert checkpoint.read_state(path)["number"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_last_ones_and_the_best_are_kept(trained, tmp_path):
    for step in (10, 20, 30, 40, 100):
        checkpoint.save(tmp_path, step, *trained, {})
    (tmp_path / ".writing-checkpoint-50-1").mkdir()  # what a killed process left
    (tmp_path / ".old-checkpoint-5-1").mkdir()
    checkpoint.prune(tmp_path, 2, best=20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20", "checkpoint-40"]
    checkpoint.prune(tmp_path, 1, best=100)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-100"]


def test_damaged_ones_are_set_aside_and_never_counted(trained, tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, *trained, {})
    checkpoint.set_aside_after(tmp_path, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "damaged-checkpoint-20"]
    checkpoint.save(tmp_path, 15, *trained, {})
    checkpoint.prune(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-15", "damaged-checkpoint-20"]


def test_another_models_weights_are_refused_by_name(trained, tmp_path):
    path = checkpoint.save(tmp_path, 1, *trained, {})
    wider = tiny_model(intermediate_size=64)
    before = [p.clone() for p in wider.parameters()]
    with pytest.raises(MalmoiError, match=r"mlp\.down_proj\.weight' is \(32, 96\) there, but \(32, 64\) in the model"):
        checkpoint.load(path, wider)
    with pytest.raises(MalmoiError, match=r"lm_head\.weight' is absent there"):
        checkpoint.load(path, tiny_model(tie_word_embeddings=False))
    assert all(torch.equal(a, b) for a, b in zip(wider.parameters(), before, strict=True))


def test_tied_weights_are_written_once_and_stay_tied(trained, tmp_path):
    from safetensors import safe_open

    path = checkpoint.save(tmp_path, 1, *trained, {})
    with safe_open(path / "model.safetensors", "pt") as file:
        assert "model.embed_tokens.weight" in file.keys() and "lm_head.weight" not in file.keys()  # noqa: SIM118
    model = tiny_model(seed=9)
    checkpoint.load(path, model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, trained[0].lm_head.weight)
