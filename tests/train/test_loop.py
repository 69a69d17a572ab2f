"""The whole loop: interrupted = straight, bitwise; what it says; what it leaves behind."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, Recipe, TrainConfig
from malmoi.train import checkpoint
from malmoi.train.loop import Step, train
from malmoi.train.memory import OutOfMemoryInLearning
from malmoi.train.record import read_metrics
from malmoi.train.step import StepResult, optimizer_step

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("without_pictures")
TIMES = ("seconds", "tokens_per_sec", "joules")
DROPOUT = {"residual_dropout": 0.1, "embedding_dropout": 0.1}


def settings(**changes) -> TrainConfig:
    return TrainConfig(
        **{
            "sequence_length": 16,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 14,
            "eval_steps": 4,
            "save_steps": 3,
            "logging_steps": 2,
            "warmup_steps": 2,
            "num_threads": 1,
            **changes,
        }
    )


def begin(folder, config=None, *, resume=False, model=None, seed=0, **more):
    """A run over data whose epoch ends after 5 steps, with dropout: (model, generator)."""
    model = model or tiny_model(**DROPOUT)
    batches = PatternBatches(seed=seed)
    held_out = more.pop("held_out", [PatternBatches(seed=9).batch(index) for index in range(2)])
    return model, train(model, batches, config or settings(), folder=folder, held_out=held_out, resume=resume, **more)


def lines(folder):
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in read_metrics(folder)]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def same_ends(one: Path, other: Path, step=14):
    """The last checkpoints of two runs hold the same weights, optimizer state and counters, bit for bit."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / f"checkpoint-{step}" / name).read_bytes() == (other / f"checkpoint-{step}" / name).read_bytes()
    a, b = (checkpoint.read_state(folder / f"checkpoint-{step}") for folder in (one, other))
    a["progress"].pop("seconds"), b["progress"].pop("seconds")
    assert a == b


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    model, run = begin(folder)
    return folder, model, list(run)


def test_a_step_for_each_step_with_everything_in_it(straight):
    _, model, steps = straight
    assert [step.step for step in steps] == list(range(1, 15))
    assert all(step.max_steps == 14 and math.isfinite(step.loss) and step.grad_norm > 0 for step in steps)
    assert [step.step for step in steps if step.held_out_loss is not None] == [4, 8, 12, 14]
    assert all((step.held_out_loss is None) == (step.bits_per_byte is None) for step in steps)
    assert [step.epoch for step in steps] == [0] * 5 + [1] * 5 + [2] * 4
    assert steps[-1].event == "finished" and "evaluated" in steps[-1].events
    assert sorted({step.tokens for step in steps}) == [step.tokens for step in steps]
    assert steps[1].learning_rate == 3e-3 > steps[-1].learning_rate
    assert steps[-1].held_out_loss < steps[3].held_out_loss
    assert not model.training


def test_the_folder_holds_what_a_person_and_a_program_want(straight):
    folder, _, steps = straight
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "versions.json", "metrics.jsonl", "loss.png"}
    found = lines(folder)
    assert [entry["step"] for entry in found] == [1, 2, 4, 6, 8, 10, 12, 14]
    names = "step loss val_loss bpb gap memorized lr grad_norm tokens skipped skipped_because epoch"
    assert set(found[0]) == set(names.split())
    assert found[2]["loss"] == pytest.approx((steps[2].loss + steps[3].loss) / 2)  # mean since the last line
    assert found[-1]["val_loss"] == steps[-1].held_out_loss
    resolved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert TrainConfig(**resolved["train"]) == settings()
    assert resolved["model"]["residual_dropout"] == 0.1
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    kept = checkpoint.steps_in(folder)
    assert kept[-1] == 14 and len(kept) <= 3


@pytest.fixture
def without_pictures(monkeypatch):
    """The picture is drawn and looked at elsewhere; here it would take longer than the training."""
    monkeypatch.setattr("malmoi.train.record.plot", lambda folder: folder / "loss.png")


class KillError(Exception):
    pass


class TornBatches(PatternBatches):
    """The power goes while a batch is fetched: between the micro-batches of a step, gradients half gathered."""

    def batch(self, step):
        made = super().batch(step)
        if step != TornBatches.torn_at:
            return made

        class Torn:
            def __getattr__(self, name):
                if name == "labels":
                    raise KillError
                return getattr(made, name)

        return Torn()


@pytest.mark.parametrize("moment", [2, 7, 12])
def test_interrupted_in_the_middle_of_a_step_is_straight_bitwise(straight, tmp_path, moment):
    """After the first micro-batch's gradients, in the first, the second and the third epoch."""
    TornBatches.torn_at = 2 * moment + 1
    held_out = [PatternBatches(seed=9).batch(index) for index in range(2)]
    with pytest.raises(KillError):
        list(train(tiny_model(**DROPOUT), TornBatches(), settings(), folder=tmp_path / "run", held_out=held_out))
    model, run = begin(tmp_path / "run", resume=True)
    assert [step.epoch for step in run][-1] == 2
    same_ends(straight[0], tmp_path / "run")
    assert same_weights(straight[1], model)
    assert lines(tmp_path / "run") == lines(straight[0])


@pytest.mark.parametrize("how", ["closed", "exception", "keyboard"])
@pytest.mark.parametrize("moment", [1, 3, 5, 7, 11, 13])
def test_interrupted_is_straight_bitwise(straight, tmp_path, moment, how):
    """Stopped after or inside step `moment` (without a chance to save), resumed in a fresh process's state."""
    folder = tmp_path / "run"

    def broken(*arguments, **keywords) -> StepResult:
        result = optimizer_step(*arguments, **keywords)  # the weights have moved, nobody wrote it down
        if keywords["step"] == moment:
            raise KeyboardInterrupt if how == "keyboard" else KillError
        return result

    _, run = begin(folder, step_function=optimizer_step if how == "closed" else broken)
    if how == "closed":
        for step in run:
            if step.step == moment:
                run.close()
    else:
        with pytest.raises((KeyboardInterrupt, KillError)):
            list(run)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 99, "lo')  # as a kill would leave it
    model, run = begin(folder, resume=True)
    steps = list(run)
    saved = max(s for s in (0, 3, 4, 6, 8, 9, 12) if s <= moment)
    assert steps[0].step == saved + 1
    assert [step.loss for step in steps] == [step.loss for step in straight[2][saved:]]
    assert ("resumed" in steps[0].events) == (saved > 0)
    same_ends(straight[0], folder)
    assert same_weights(straight[1], model)
    assert lines(folder) == lines(straight[0])


def test_resumed_again_and_again(straight, tmp_path):
    folder = tmp_path / "run"
    for stop in (2, 3, 5, 8, 9, 12):
        _, run = begin(folder, resume=True)
        for step in run:
            if step.step >= stop:
                run.close()
    _, run = begin(folder, resume=True)
    list(run)
    same_ends(straight[0], folder)
    assert lines(folder) == lines(straight[0])


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a Windows process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["in the step", "between steps"])
def test_a_signal_saves_and_tells_how_to_go_on(straight, tmp_path, number, where):
    folder, before = tmp_path / "run", signal.getsignal(number)

    def signalled(*arguments, **keywords):
        if keywords["step"] == 6 and where == "in the step":
            os.kill(os.getpid(), number)
        return optimizer_step(*arguments, **keywords)

    _, run = begin(folder, step_function=signalled)
    steps = []
    for step in run:
        steps.append(step)
        if step.step == 7 and where == "between steps" and step.event != "interrupted":
            os.kill(os.getpid(), number)
    assert steps[-1].event == "interrupted" and steps[-1].step == 7
    assert "checkpoint-7" in steps[-1].message and "resume" in steps[-1].message
    assert checkpoint.latest(folder) == folder / "checkpoint-7"
    assert signal.getsignal(number) == before
    _, run = begin(folder, resume=True)
    assert [step.loss for step in run] == [step.loss for step in straight[2][7:]]
    same_ends(straight[0], folder)
    assert lines(folder) == lines(straight[0])


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a Windows process")
@pytest.mark.parametrize("place", ["evaluate", "save", "measure"])
def test_a_signal_outside_of_a_step_is_obeyed_after_it(straight, tmp_path, monkeypatch, place):
    """In an evaluation, in a save, while memorisation is measured: the step is ended, saved, and goes on the same."""
    from malmoi.train import job, loop

    home = {"evaluate": job, "save": checkpoint, "measure": loop}[place]
    real, uses = getattr(home, place), []

    def signalled(*arguments, **keywords):
        uses.append(place)
        if len(uses) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(home, place, signalled)
        *_, last = begin(tmp_path / "run")[1]
    if place == "measure":  # at the very end: there is nothing left to stop
        assert last.step == 14 and last.event == "finished"
    else:
        assert last.step == {"evaluate": 4, "save": 3}[place] and last.event == "interrupted"
        assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / f"checkpoint-{last.step}"
        list(begin(tmp_path / "run", resume=True)[1])
    same_ends(straight[0], tmp_path / "run")
    assert lines(tmp_path / "run") == lines(straight[0])


def test_without_a_folder_an_interruption_says_that_nothing_is_saved():
    def signalled(*arguments, **keywords):
        if keywords["step"] == 2:
            signal.raise_signal(signal.SIGINT)
        return optimizer_step(*arguments, **keywords)

    *_, last = begin(None, step_function=signalled, language="ko")[1]
    assert last.step == 3 and last.event == "interrupted" and "저장하지 않았습니다" in last.message


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
import test_loop
from malmoi.train import checkpoint
at, inside = {at}, {inside!r}
if inside:
    real = getattr(checkpoint, inside)
    def wrapped(*arguments, **keywords):
        if f"checkpoint-{{at}}" in str(arguments) or f"checkpoint-{{at}}-" in str(arguments):
            os._exit(137)
        return real(*arguments, **keywords)
    setattr(checkpoint, inside, wrapped)
for step in test_loop.begin({folder!r})[1]:
    print(step.step, flush=True)
    if step.step == at and not inside:
        import time
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("at", "inside"), [(7, ""), (9, "_sha256_and_flush"), (12, "_swap_in")])
def test_a_killed_process_resumes_bitwise(straight, tmp_path, at, inside):
    """kill -9 while it waits, and death in the middle of a save: before the manifest, and just before the rename."""
    folder = tmp_path / "run"
    code = KILLED.format(here=str(HERE), folder=str(folder), at=at, inside=inside)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if int(line) == at:
            process.kill()
    assert process.wait(60) != 0
    process.stdout.close()
    assert any(p.name.startswith(".writing") for p in folder.iterdir()) == bool(inside)
    model, run = begin(folder, resume=True)
    steps = list(run)
    assert steps[0].step == {7: 7, 9: 9, 12: 10}[at]
    same_ends(straight[0], folder)
    assert same_weights(straight[1], model)
    assert lines(folder) == lines(straight[0])
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_a_damaged_checkpoint_is_passed_over_and_said(straight, tmp_path):
    folder = tmp_path / "run"
    _, run = begin(folder, settings(save_total_limit=1))
    for step in run:
        if step.step == 9:
            run.close()
    newest = checkpoint.steps_in(folder)[-1]
    data = bytearray((folder / f"checkpoint-{newest}" / "model.safetensors").read_bytes())
    data[-5] ^= 4
    (folder / f"checkpoint-{newest}" / "model.safetensors").write_bytes(bytes(data))
    _, run = begin(folder, settings(save_total_limit=1), resume=True)
    steps = list(run)
    assert newest == 9 and steps[0].step == 9
    assert "checkpoint-9 is damaged" in steps[0].message and "SHA-256" in steps[0].message
    assert (folder / "damaged-checkpoint-9").is_dir()
    same_weights_bytes = [(f / "checkpoint-14" / "model.safetensors").read_bytes() for f in (straight[0], folder)]
    assert same_weights_bytes[0] == same_weights_bytes[1]
    assert lines(folder) == lines(straight[0])


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "flipped", "gone with the newest checkpoint"])
def test_a_damaged_log_is_made_whole_from_the_checkpoint(straight, tmp_path, damage):
    folder = tmp_path / "run"
    _, run = begin(folder)
    for step in run:
        if step.step == 11:
            run.close()
    log = folder / "metrics.jsonl"
    if damage == "cut":
        log.write_bytes(log.read_bytes()[:250])
    elif damage == "emptied":
        log.write_bytes(b"")
    elif damage == "flipped":
        data = bytearray(log.read_bytes())
        data[data.index(b'"loss": ') + 8] ^= 1  # another digit: still JSON
        log.write_bytes(bytes(data))
    else:
        log.unlink()
    if "newest" in damage:
        newest = checkpoint.steps_in(folder)[-1]
        (folder / f"checkpoint-{newest}" / "metrics.jsonl").write_text("", encoding="utf-8")
    list(begin(folder, resume=True)[1])
    same_ends(straight[0], folder)
    assert lines(folder) == lines(straight[0])


def test_nothing_whole_to_resume_from_is_an_error(tmp_path):
    folder = tmp_path / "run"
    list(begin(folder, settings(max_steps=3))[1])
    (folder / "checkpoint-3" / "manifest.json").unlink()
    with pytest.raises(MalmoiError, match=r"No checkpoint can be used.*writing was not finished"):
        begin(folder, settings(max_steps=3), resume=True)


def test_an_existing_run_is_not_run_over(straight):
    with pytest.raises(MalmoiError, match=r"already holds a run \(checkpoint-14\)"):
        begin(straight[0])


def test_resume_needs_a_folder_and_begins_where_there_is_nothing(tmp_path):
    with pytest.raises(MalmoiError, match="resume needs the folder"):
        begin(None, resume=True)
    steps = list(begin(tmp_path / "new", settings(max_steps=2), resume=True)[1])
    assert len(steps) == 2 and "starting from the beginning" in steps[0].message


def test_a_run_that_has_ended_ends_again(straight, tmp_path):
    import shutil

    shutil.copytree(straight[0], tmp_path / "run")
    model, run = begin(tmp_path / "run", resume=True)
    (step,) = run
    assert step.step == 14 and step.event == "finished" and same_weights(model, straight[1])
    assert lines(tmp_path / "run") == lines(straight[0])


def test_changed_settings_model_or_data_are_refused_by_name(straight):
    folder = straight[0]
    with pytest.raises(MalmoiError, match=r"train\.weight_decay was 0\.1"):
        begin(folder, settings(weight_decay=0.2), resume=True)
    with pytest.raises(MalmoiError, match=r"model\.residual_dropout was 0\.1"):
        begin(folder, resume=True, model=tiny_model(embedding_dropout=0.1))
    with pytest.raises(MalmoiError, match="data have changed"):
        begin(folder, resume=True, seed=3)


def overfitting_run(folder, **changes):
    """Two batches over and over, measured on other text: training loss falls, held-out loss turns."""
    config = settings(**{"max_steps": 60, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant", **changes})
    config = config.replace(dtype="float32")  # rounding would move the turn
    model = tiny_model()
    batches = PatternBatches(distinct=2)
    return model, train(model, batches, config, folder=folder, held_out=PatternBatches(seed=9, per_epoch=3))


@pytest.mark.parametrize("with_folder", [True, False])
def test_early_stopping_keeps_and_loads_the_best(tmp_path, with_folder):
    folder = tmp_path / "run" if with_folder else None
    model, run = overfitting_run(folder, early_stopping_patience=3)
    steps = list(run)
    measured = {step.step: step.held_out_loss for step in steps if step.held_out_loss is not None}
    best = min(measured, key=measured.get)
    last = steps[-1]
    assert last.step == best + 12 < 60 and "stopped early" in last.events and last.event == "finished"
    assert f"step {best}, held-out loss {measured[best]:.4f}" in last.message
    from malmoi.train.loss import evaluate

    held_out = PatternBatches(seed=9, per_epoch=3)
    assert evaluate(model, [held_out.batch(i) for i in range(3)]).loss == pytest.approx(measured[best], rel=0.01)
    if folder:
        assert best in checkpoint.steps_in(folder)
        with_best = tiny_model(seed=3)
        checkpoint.load(folder / f"checkpoint-{best}", with_best)
        assert same_weights(with_best, model)


@pytest.mark.parametrize("moment", [3, 13, 21, 29])
def test_early_stopping_and_averages_are_the_same_after_an_interruption(tmp_path, moment):
    """Also where it is the resumed run that stops, and the best weights were kept by the run before."""
    changes = {"early_stopping_patience": 3, "ema_decay": 0.5, "save_steps": 5}

    def again(folder, resume):
        lasting = {"max_steps": 80, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant"}
        config = settings(**lasting, dtype="float32", **changes)
        model = tiny_model(**DROPOUT)
        held_out = PatternBatches(seed=9, per_epoch=3)
        return model, train(model, PatternBatches(distinct=2), config, folder=folder, held_out=held_out, resume=resume)

    model, run = again(tmp_path / "straight", False)
    *_, last = run
    assert "stopped early" in last.events and 29 < last.step < 80
    _, run = again(tmp_path / "broken", False)
    for step in run:
        if step.step == moment:
            run.close()
    resumed, run = again(tmp_path / "broken", True)
    *_, end = run
    assert (end.step, end.held_out_loss, end.skipped) == (last.step, last.held_out_loss, last.skipped)
    same_ends(tmp_path / "straight", tmp_path / "broken", last.step)
    assert same_weights(model, resumed)
    assert lines(tmp_path / "broken") == lines(tmp_path / "straight")


def test_another_number_of_threads_is_said(tmp_path):
    _, run = begin(tmp_path / "run")
    for step in run:
        if step.step == 4:
            run.close()
    first = next(begin(tmp_path / "run", settings(num_threads=2), resume=True)[1])
    assert first.step == 5 and "began with 1 threads and goes on with 2: results may differ" in first.message


def test_the_last_weights_stay_when_asked_for():
    model, run = overfitting_run(None, load_best_model_at_end=False)
    other, other_run = overfitting_run(None)
    list(run), list(other_run)
    assert not same_weights(model, other)


def test_overfitting_is_said():
    messages = [step.message for step in overfitting_run(None)[1]]
    assert any("Overfitting: since step" in message and "by heart" in message for message in messages)


def test_a_bad_step_is_skipped_counted_and_shown(tmp_path):
    def poisoned(model, *arguments, **keywords) -> StepResult:
        if keywords["step"] not in (3, 4):
            return optimizer_step(model, *arguments, **keywords)
        kept = model.model.norm.weight.data.clone()
        model.model.norm.weight.data[0] = math.nan
        result = optimizer_step(model, *arguments, **keywords)
        model.model.norm.weight.data.copy_(kept)
        return result

    _, run = begin(tmp_path / "run", step_function=poisoned)
    steps = list(run)
    assert [step.step for step in steps if "skipped" in step.events] == [4, 5]
    assert "Step 4 was skipped: loss nan" in steps[3].message and steps[-1].skipped == 2
    assert steps[3].tokens == steps[2].tokens
    assert math.isfinite(steps[-1].loss) and math.isfinite(steps[-1].held_out_loss)
    found = {entry["step"]: entry for entry in lines(tmp_path / "run")}
    assert found[4]["loss"] == pytest.approx(steps[2].loss) and found[14]["skipped"] == 2


def test_a_run_that_diverged_stops_and_says_what_was_seen(tmp_path):
    def hopeless(*arguments, **keywords) -> StepResult:
        if keywords["step"] < 6:
            return optimizer_step(*arguments, **keywords)
        return StepResult(math.inf, math.nan, 10, 16, False)

    seen = []
    with pytest.raises(MalmoiError) as caught:
        for step in begin(tmp_path / "run", step_function=hopeless)[1]:
            seen.append(step.step)
    assert seen[-1] == 10
    for words in ("diverged", "5 of the last 11 steps", "loss inf", "norm nan", "learning_rate", "checkpoint-9"):
        assert words in str(caught.value), words


def test_a_full_disk_stops_with_the_way_back(straight, tmp_path, monkeypatch):
    folder, real = tmp_path / "run", checkpoint.save_file

    def full(tensors, path):
        if "checkpoint-9" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(MalmoiError, match=r"checkpoint-9 could not be written: the disk is full.*checkpoint-8"):
        list(begin(folder)[1])
    monkeypatch.undo()
    list(begin(folder, resume=True)[1])
    same_ends(straight[0], folder)
    assert lines(folder) == lines(straight[0])


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of a file are a Unix thing")
@pytest.mark.parametrize("at", ["the log", "a checkpoint"])
def test_a_disk_that_really_fills_up_stops_with_one_clear_error(straight, tmp_path, at):
    """Whatever else cannot be written on the way out, what is said is where it began and how to go on."""
    import resource

    folder = tmp_path / "run"
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(MalmoiError) as caught:
            for step in begin(folder)[1]:
                if step.step == 7:
                    size = (folder / "metrics.jsonl").stat().st_size + 40 if at == "the log" else 30_000
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    if at == "the log":
        assert "metrics.jsonl: cannot be written: File too large. Make room, then resume." in str(caught.value)
    else:
        assert "checkpoint-8 could not be written" in str(caught.value) and "resumed from" in str(caught.value)
    list(begin(folder, resume=True)[1])
    same_ends(straight[0], folder)
    assert lines(folder) == lines(straight[0])


def test_minutes_become_steps_once_and_a_resume_does_not_ask_the_clock(tmp_path, monkeypatch):
    from malmoi.train import loop

    folder, config = tmp_path / "run", settings(max_steps=None, max_minutes=0.5)
    monkeypatch.setattr(loop, "time_steps", lambda *_, **__: (2.0, 1.0))
    _, run = begin(folder, config)
    first = next(run)
    expected = int((0.5 * 60 * 0.97 - 1.0) / (2.0 + 1.0 / 4))
    assert first.max_steps == pytest.approx(expected, abs=1) and "0.5 minutes are" in first.message
    for step in run:
        if step.step == 4:
            run.close()
    monkeypatch.setattr(loop, "time_steps", lambda *_, **__: pytest.fail("timed again"))
    steps = list(begin(folder, config, resume=True)[1])
    assert steps[-1].step == steps[-1].max_steps == first.max_steps
    resolved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["train"]
    assert resolved["max_steps"] == first.max_steps and resolved["max_minutes"] == 0.5


def test_files_of_the_caller_are_part_of_a_checkpoint(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    list(
        begin(
            tmp_path / "run",
            settings(max_steps=1),
            tokenizer=Tokenizer(),
            on_save=lambda folder: (folder / "note.txt").write_text("x", encoding="utf-8"),
        )[1]
    )
    manifest = json.loads((tmp_path / "run" / "checkpoint-1" / "manifest.json").read_text(encoding="utf-8"))
    assert {"tokenizer.json", "note.txt"} <= set(manifest["files"])


def test_the_recipe_is_written_with_everything_filled_in(tmp_path):
    recipe = Recipe(data={"sources": [{"path": "village"}]}, train={"max_steps": 1})
    list(begin(tmp_path / "run", settings(max_steps=1), recipe=recipe)[1])
    written = Recipe.from_yaml(tmp_path / "run" / "config.yaml")
    assert written.data == recipe.data and TrainConfig(**written.train) == settings(max_steps=1)
    assert written.model["hidden_size"] == 32


def test_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    _, run = begin(None, settings(num_threads=1, max_steps=2))
    next(run)
    inside = torch.get_num_threads()
    run.close()
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (inside, after) == (1, 2)


def test_observed_is_unobserved():
    """A plain loop over the generator and one that reads everything learn the same."""
    one, run = begin(None, settings(max_steps=4))
    losses = [step.loss for step in run]
    other, run = begin(None, settings(max_steps=4), held_out=None)
    assert [step.loss for step in run] == losses
    assert isinstance(step := Step(1, 1, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0), Step) and step.event == ""
    assert same_weights(one, other)


def test_real_batches_of_a_mixture_resume_in_the_second_epoch(tmp_path):
    from malmoi.data.batches import Batches, held_out_batches
    from malmoi.data.corpus import Document
    from malmoi.data.mixture import Mixture, Part
    from malmoi.data.shards import build
    from malmoi.tokens.vocabulary import learn

    texts = [f"한때 {n} cats lived by the sea; {n * 7} dogs saw them. " * (1 + n % 3) for n in range(60)]
    tokenizer = learn(texts, 300)
    files = [
        build((Document(text=text) for text in texts[start::2]), tokenizer, tmp_path / str(start), held_out=0.2)
        for start in (0, 1)
    ]
    config = settings(max_steps=None, num_train_epochs=2.5, sequence_length=32, eval_steps=50, save_steps=5)

    def run(folder, resume=False):
        mixture = Mixture([Part(files[0].train, weight=0.4), Part(files[1].train, weight=0.6)])
        model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=32, **DROPOUT)
        measured = held_out_batches(files[0].held_out, 32, 4)
        batches = Batches(mixture, 32, 4, seed=3)
        return model, train(model, batches, config, folder=folder, held_out=measured, resume=resume)

    model, steps = run(tmp_path / "straight")
    expected = list(steps)
    assert expected[-1].epoch == 2 and expected[-1].bits_per_byte > 0
    middle = next(step.step for step in expected if step.epoch == 1) + 3
    _, steps = run(tmp_path / "broken")
    for step in steps:
        if step.step == middle:
            steps.close()
    resumed, steps = run(tmp_path / "broken", resume=True)
    tail = list(steps)
    assert 0 < tail[0].step - 1 <= middle and tail[0].epoch == 1
    assert [step.loss for step in tail] == [step.loss for step in expected[tail[0].step - 1 :]]
    assert same_weights(model, resumed)
    same_ends(tmp_path / "straight", tmp_path / "broken", expected[-1].step)


class SpikingBatches(PatternBatches):
    """Some batches hold noise in place of the pattern: their loss leaps once the pattern is known."""

    def batch(self, step):
        made = super().batch(step)
        if step in (84, 91):
            made.labels[made.labels != -100] = 0  # a token that nothing ends in
        return made


def spiking(folder, resume=False):
    config = settings(
        gradient_accumulation_steps=1,
        max_steps=100,
        learning_rate=0.02,
        spike_threshold=4,
        eval_steps=20,
        save_steps=16,
        ema_decay=0.9,
    )
    model = tiny_model(**DROPOUT)
    return model, train(
        model,
        SpikingBatches(distinct=2),
        config,
        folder=folder,
        held_out=[PatternBatches(seed=9).batch(0)],
        resume=resume,
    )


@pytest.mark.slow
def test_a_spike_is_skipped_and_interrupted_is_straight_with_it(tmp_path):
    model, run = spiking(tmp_path / "straight")
    straight = list(run)
    assert [step.step for step in straight if "skipped" in step.events] == [85, 92]
    assert "leapt above" in straight[84].message and straight[84].tokens == straight[83].tokens
    noted = {entry["step"]: entry["skipped_because"] for entry in lines(tmp_path / "straight")}
    assert {step for step, reason in noted.items() if reason} == {85, 92} and "leapt above" in noted[85]
    for moment in (79, 85, 90):
        folder = tmp_path / str(moment)
        _, run = spiking(folder)
        for step in run:
            if step.step == moment:
                run.close()
        resumed, run = spiking(folder, resume=True)
        tail = list(run)
        assert [step.loss for step in tail] == [step.loss for step in straight[tail[0].step - 1 :]]
        same_ends(tmp_path / "straight", folder, 100)
        assert same_weights(model, resumed)
        assert lines(folder) == lines(tmp_path / "straight")


@pytest.mark.parametrize("with_folder", [True, False])
def test_the_average_is_measured_and_kept_in_the_end(tmp_path, with_folder):
    from malmoi.train.loss import evaluate

    folder = tmp_path / "run" if with_folder else None
    config = settings(ema_decay=0.9, max_steps=24, dtype="float32")
    model, run = begin(folder, config)
    steps = list(run)
    plain, other = begin(None, settings(max_steps=24, dtype="float32"))
    assert [step.loss for step in other] == [step.loss for step in steps]  # training itself does not read it
    measured = {step.step: step.held_out_loss for step in steps if step.held_out_loss is not None}
    held_out = [PatternBatches(seed=9).batch(index) for index in range(2)]
    assert evaluate(model, held_out).loss == pytest.approx(min(measured.values()), rel=1e-6)
    assert not same_weights(model, plain)
    if folder:
        again, run = begin(folder, config, resume=True)  # it had ended: the same model comes out
        list(run)
        assert same_weights(again, model)


def test_memory_that_runs_out_halves_the_batches_and_goes_on(tmp_path):
    """Four rows do not fit, nor do two; the losses are those of the whole batches but for rounding."""

    def narrow(model, optimizer, micro_batches, **keywords):
        if max(len(batch.input_ids) for batch in micro_batches) > 1:
            raise OutOfMemoryInLearning("nothing left")
        return optimizer_step(model, optimizer, micro_batches, **keywords)

    config = settings(dtype="float32")
    _, run = begin(tmp_path / "run", config, model=tiny_model(), step_function=narrow)
    steps = list(run)
    _, run = begin(None, config, model=tiny_model())
    for mine, whole in zip(steps, run, strict=True):
        assert mine.loss == pytest.approx(whole.loss, rel=1e-3)
        assert mine.tokens == whole.tokens
    assert "4 pieces of 1 rows" in steps[0].message and "gradient_accumulation_steps: 8" in steps[0].message
    assert [step.step for step in steps if "halved" in step.events] == [1]
    state = checkpoint.read_state(tmp_path / "run" / "checkpoint-14")
    assert state["progress"]["pieces"] == 4

    def hopeless(*arguments, **keywords):
        raise OutOfMemoryInLearning("nothing left")

    with pytest.raises(MalmoiError, match=r"not enough memory for one step.*sequence_length"):
        list(begin(None, config, step_function=hopeless)[1])


def test_the_disk_is_counted_before_training(straight):
    assert "A checkpoint takes" in straight[2][0].message and "are free" in straight[2][0].message


def golden_losses():
    """20 steps in float32: Muon and AdamW, accumulation, packing, dropout, warm-up, decay, clipping."""
    config = settings(max_steps=20, dtype="float32", eval_steps=20)
    return [step.loss for step in begin(None, config)[1]]


def test_golden_losses_have_not_moved():
    """A refactoring must not move these. Where a change is meant: `python tests/train/test_loop.py`."""
    golden = json.loads((HERE.parent / "golden" / "train_20_steps.json").read_text(encoding="utf-8"))
    assert golden_losses() == pytest.approx(golden, abs=1e-4)


def test_compiled_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("malmoi.train.precision.COMPILER", "eager")
    how = settings(torch_compile=True, ema_decay=0.9)
    _, straight = begin(tmp_path / "straight", how)
    assert list(straight)
    _, broken = begin(tmp_path / "broken", how)
    for _ in range(7):
        next(broken)
    broken.close()
    _, rest = begin(tmp_path / "broken", how, resume=True)
    assert list(rest)
    same_ends(tmp_path / "straight", tmp_path / "broken")


if __name__ == "__main__":
    text = json.dumps(golden_losses(), indent=1) + "\n"
    (HERE.parent / "golden" / "train_20_steps.json").write_text(text, encoding="utf-8")
