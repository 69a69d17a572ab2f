"""A run's world: one process by default, a job under torchrun, which saves, stops, dies and comes back as one."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_run import tiny_model

from malmoi.cli import pipeline
from malmoi.config import MalmoiError, ParallelConfig, Recipe, TrainConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train import checkpoint, job, precision
from malmoi.train.record import read_metrics

RECIPE = """
data: {{sources: [{{path: {text}}}], held_out: 0.2}}
vocab_size: 300
model: {{hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}}
train: {{sequence_length: 32, per_device_train_batch_size: 8, gradient_accumulation_steps: 2, max_steps: {steps},
         eval_steps: 4, save_steps: 3, logging_steps: 1, dtype: float32, num_threads: 1, memorization_samples: 0}}
parallel: {{{parallel}}}
"""


def recipe(**values):
    return Recipe(data={"sources": [{"path": "village"}]}, **values)


def test_a_model_learns_where_the_machine_computes_and_is_saved_from_main_memory(monkeypatch):
    monkeypatch.setattr(job, "device", lambda: torch.device("meta"))  # stands for a GPU: only its name is looked at
    model, config = tiny_model(), TrainConfig()
    job.Alone().take(model, ParallelConfig(), config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    monkeypatch.undo()
    model = tiny_model()
    job.Alone().take(model, ParallelConfig(), config)
    assert {parameter.device for parameter in model.parameters()} == {job.device()}
    assert {parameter.device.type for parameter in job.Alone().whole(model, None).parameters()} == {"cpu"}


def test_numbers_that_the_machine_has_no_instructions_for_are_refused_before_a_text_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    (tmp_path / "text.txt").write_text("too short to learn a vocabulary from", encoding="utf-8")
    whole = Recipe(data={"sources": [{"path": str(tmp_path / "text.txt")}]}, train={"dtype": "bfloat16"})
    seen = []
    with pytest.raises(MalmoiError, match="no instructions"):
        pipeline.run(whole, tmp_path / "run", show=seen.append)
    assert not seen and not (tmp_path / "run").exists()


def test_one_process_is_the_ordinary_case(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    alone = job.of(recipe())
    assert type(alone) is job.Alone and alone.first and alone.rows == (0, 1) and not job.restarted()
    model = tiny_model()
    assert alone.whole(model, None) is model


def test_a_jobs_settings_without_a_job_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(MalmoiError, match="torchrun --nproc-per-node 4 -m malmoi train"):
        job.of(recipe(parallel=ParallelConfig(tensor_parallel=2, pipeline_parallel=2)))


def test_an_adapter_is_for_one_process(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(MalmoiError, match="lora is for one process"):
        job.of(recipe(start_from="runs/x", lora={}))


# ---- torchrun -------------------------------------------------------------------------------------------------------


class Launch:
    """`torchrun` on this computer; its processes never outlive the test."""

    def __init__(self, folder, size, parallel="", *more, steps=12, name="run", restarts=0):
        words = random.Random(0)
        text, path = folder / "text.txt", folder / f"{name}.yaml"
        vocabulary = ["cat", "dog", "house", "tree", "sun", "runs", "sees", "likes", "small", "big", "red", "old"]
        documents = [" ".join(words.choice(vocabulary) for _ in range(30)) for _ in range(400)]
        text.write_text("\n\n".join(documents), encoding="utf-8")
        path.write_text(RECIPE.format(text=text, steps=steps, parallel=parallel), encoding="utf-8")
        self.out = folder / name
        job = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", f"--max-restarts={restarts}"]
        command = [sys.executable, *(job if size else []), "-m", "malmoi", "train", str(path), "--out", str(self.out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.log = (folder / f"{name}.log").open("a+")
        self.process = subprocess.Popen(
            [*command, *more], stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.log.close()

    def wait(self):
        code = self.process.wait(timeout=150)
        return code, self.said()

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def until(self, step):
        """Wait for a checkpoint of this step or a later one."""
        begin = time.monotonic()
        while not any(s >= step and checkpoint.fault_of(checkpoint.path_of(self.out, s)) is None for s in self.steps()):
            assert self.process.poll() is None and time.monotonic() - begin < 120, self.said()
            time.sleep(0.05)

    def steps(self):
        return checkpoint.steps_in(self.out)

    def workers(self):
        """The job's processes in order of rank."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return [int(pid) for pid in children.split()]

    def losses(self):
        return {entry["step"]: entry["loss"] for entry in read_metrics(self.out)}


def same(one, other):
    assert one.keys() == other.keys()
    assert all(one[step] == pytest.approx(other[step], rel=1e-5) for step in one)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no process groups")
def test_a_job_is_stopped_resumed_with_another_grid_and_ends_as_one_process(tmp_path):
    with Launch(tmp_path, 0, name="alone") as alone:
        assert alone.wait()[0] == 0, alone.said()
        expected = alone.losses()
    with Launch(tmp_path, 2, "tensor_parallel: 2", steps=12) as job:
        job.until(3)
        os.kill(job.workers()[1], signal.SIGTERM)  # heard by one, obeyed by all
        code, said = job.wait()
        assert code != 0 and said.count("Interrupted after step") == 1, said
        stopped = max(job.steps())
        assert checkpoint.fault_of(checkpoint.path_of(job.out, stopped)) is None and stopped < 12
    with Launch(tmp_path, 4, "pipeline_parallel: 2, async_checkpoints: true", "--resume") as job:
        code, said = job.wait()
        assert code == 0, said
        same(job.losses(), expected)
        assert said.count("Finished after 12 steps") == 1  # one process speaks
        whole = GPT4LMHeadModel.from_pretrained(job.out / "model")
        best = GPT4LMHeadModel.from_pretrained(alone.out / "model")
        for one, two in zip(whole.parameters(), best.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no process groups")
def test_a_killed_process_is_replaced_and_the_job_goes_on(tmp_path):
    with Launch(tmp_path, 2, steps=30, restarts=2) as job:
        job.until(6)
        os.kill(job.workers()[0], signal.SIGKILL)
        code, said = job.wait()
        assert code == 0 and "Resumed from" in said and "Finished after 30 steps" in said, said
        assert sorted(job.losses()) == list(range(1, 31))


@pytest.mark.slow
def test_a_job_that_cannot_work_says_so_once(tmp_path):
    with Launch(tmp_path, 2, "tensor_parallel: 4") as job:
        code, said = job.wait()
        assert code == 1 and said.count("The job has 2 processes, but parallel asks for 4") == 1, said
        assert not job.out.exists()
