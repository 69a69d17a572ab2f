"""Kill a training run at random moments, a thousand times, and see whether it ever ends differently.

    python benchmarks/kill.py --kills 1000 --minutes 60

A real run (`malmoi train`, with its tokenizer, token file, checkpoints and evaluations) of a tiny model is started in a
process of its own and ended from outside: by SIGKILL at a random moment of its whole life, by SIGKILL while a
checkpoint is being written, by SIGTERM and by Ctrl-C, or by a disk that is full. Now and then a finished checkpoint
is damaged too: cut short, or one bit flipped. The same command with --resume goes on, until the run has ended. Then
weights, optimizer state, counters and the log of losses must be those of the run that nobody disturbed, bit for bit.

Processes are forked from a parent that has imported everything once, as a first run named it: what is killed is the
run, not Python's start.
Moments and ways are drawn from a seed. Counts that were reached are kept in the results file and added to
(`--fresh` begins anew). Writes docs/results/kill.json and kill.md. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import malmoi.cli
import malmoi.cli.pipeline
import malmoi.cli.train
import malmoi.data.batches
import malmoi.data.shards
import malmoi.formats.huggingface
import malmoi.generate.engine
import malmoi.tokens.vocabulary
import malmoi.train.loop
from malmoi.train import checkpoint
from malmoi.train.record import read_metrics

RESULTS = Path(__file__).parents[1] / "docs" / "results"
STEPS = 24
WAYS = {"anywhere": 0.45, "in a save": 0.35, "SIGTERM": 0.08, "Ctrl-C": 0.06, "full disk": 0.06}
DAMAGE = 0.1  # of the kills are followed by damage to the newest checkpoint, where an older one is left
TIMES = ("seconds", "tokens_per_sec", "joules")
RECIPE = """
data: {{sources: [{{path: "{text}"}}], held_out: 0.2}}
vocab_size: 300
model: {{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, residual_dropout: 0.1, attention_dropout: 0.1,
         embedding_dropout: 0.1}}
train:
  {{max_steps: {steps}, sequence_length: 32, per_device_train_batch_size: 2, gradient_accumulation_steps: 2,
    eval_steps: 6, save_steps: 3, logging_steps: 1, num_threads: 1, ema_decay: 0.9, memorization_samples: 0}}
"""


def child(arguments: list[str], log: Path, most_bytes: int | None = None, loaded: Path | None = None) -> int:
    """Fork a process that runs `malmoi` with these arguments; its number. `loaded`: where it names its modules."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        os.environ["MPLBACKEND"] = "agg"
        if most_bytes is not None:  # no file may grow beyond it: to the program, a disk that is full
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        malmoi.train.record.plot = lambda folder: None  # a picture takes longer than the training
        code = malmoi.cli.main(arguments)
        if loaded is not None:
            loaded.write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(code)
    finally:
        os._exit(99)


def ended(number: int) -> int | None:
    """The exit status of a child, or None while it runs."""
    done, status = os.waitpid(number, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def is_saving(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(entry.name.startswith(".writing-checkpoint-") for entry in os.scandir(folder))
    return False


class Stress:
    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.draw = place, random.Random(seed)
        self.counts: Counter[str] = Counter()
        text = place / "text.txt"
        lines = [f"The {n % 7} cats saw {n} birds by the river. 고양이 {n % 5}마리가 새를 봅니다." for n in range(30)]
        text.write_text("\n\n".join(lines), encoding="utf-8")
        self.recipe = place / "recipe.yaml"
        self.recipe.write_text(RECIPE.format(text=text, steps=STEPS), encoding="utf-8")
        modules = place / "modules"
        self._undisturbed(place / "first", modules)
        for name in modules.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ImportError):  # what a run loads late is loaded here, once for all of them
                importlib.import_module(name)
        began = time.monotonic()
        self.straight = place / "straight"
        self._undisturbed(self.straight)
        assert read_metrics(self.straight)[-1]["epoch"] >= 2, "too much text: the run shall see it again and again"
        self.seconds = time.monotonic() - began  # of an undisturbed run

    def _undisturbed(self, folder: Path, loaded: Path | None = None) -> None:
        log = folder.with_suffix(".log")
        number = child(self._arguments(folder, False), log, loaded=loaded)
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        assert code == 0, log.read_text(encoding="utf-8")

    def _arguments(self, folder: Path, resume: bool) -> list[str]:
        return ["train", str(self.recipe), "--out", str(folder), *(["--resume"] if resume else [])]

    def one_run(self, most_kills: int) -> int:
        """Kill one run up to `most_kills` times, let it end, compare; the number of kills."""
        folder, log = self.place / "run", self.place / "run.log"
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink(missing_ok=True)
        kills = 0
        self.hurt: set[int] = set()  # steps whose checkpoint was damaged
        damaged = False  # just now: the next process that is left alone must say so (one that is hit may not get to it)
        while kills < most_kills:
            way = self.draw.choices(list(WAYS), list(WAYS.values()))[0]
            code = self._disturb(folder, log, way)
            if code == 0:
                break
            kills += 1
            self._check_whole(folder)
            damaged = self.draw.random() < DAMAGE and self._damage(folder)
        code = os.waitstatus_to_exitcode(os.waitpid(child(self._arguments(folder, folder.exists()), log), 0)[1])
        assert code == 0, f"exit code {code}\\n{log.read_text(encoding='utf-8')[-3000:]}"
        self._compare(folder)
        said = log.read_text(encoding="utf-8")
        assert not damaged or "is damaged and was passed over" in said
        self.counts["runs"] += 1
        return kills

    def _disturb(self, folder: Path, log: Path, way: str) -> int:
        """Start or resume the run and end it in some way; its exit code, negative for a signal."""
        limit = self.draw.randrange(200, 30_000) if way == "full disk" else None
        fresh, began = not folder.exists(), time.monotonic()
        number = child(self._arguments(folder, not fresh), log, limit)
        deadline = began + self.draw.random() * self.seconds
        saves = self.draw.randrange(1, 6)  # the how-many-th save it shall be
        code, was_saving = None, False
        while (code := ended(number)) is None:
            if way == "full disk":
                time.sleep(0.002)
                continue
            if way == "in a save":
                saving = is_saving(folder)
                saves -= saving and not was_saving
                was_saving = saving
                if saves > 0 or not saving:
                    continue
                time.sleep(self.draw.random() * 0.004)
                break
            if time.monotonic() >= deadline:
                break
            time.sleep(0.001)
        if code is None:
            sign = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}.get(way, signal.SIGKILL)
            os.kill(number, sign)
            code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        if code == 0:
            self.counts["ended before the blow"] += 1
            if fresh:  # the machine has more time for us, or less, than when the straight run was timed
                self.seconds = time.monotonic() - began
            else:
                self.seconds *= 0.9
            return code
        left = is_saving(folder)
        self.counts[way] += 1
        self.counts["half-written checkpoint left"] += left
        self.counts[f"exit code {code}"] += 1
        return code

    def _check_whole(self, folder: Path) -> None:
        """No blow ever leaves a checkpoint that can be seen and is not whole."""
        for step in checkpoint.steps_in(folder):
            fault = checkpoint.fault_of(checkpoint.path_of(folder, step))
            if fault and step in self.hurt:
                continue  # by us, and no resume has come as far as to pass over it
            assert fault is None, f"checkpoint-{step}: {fault}"
            self.counts["checkpoints read again"] += 1

    def _damage(self, folder: Path) -> bool:
        """Cut a file of the newest checkpoint short, or flip one bit of it; False where there is no second one."""
        steps = checkpoint.steps_in(folder)
        if len(steps) < 2:
            return False
        files = sorted(file for file in checkpoint.path_of(folder, steps[-1]).iterdir() if file.stat().st_size)
        file = self.draw.choice(files)
        data = bytearray(file.read_bytes())
        if self.draw.random() < 0.5:
            data = data[: self.draw.randrange(len(data))]
            self.counts["checkpoints cut short"] += 1
        else:
            data[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
            self.counts["bits flipped"] += 1
        file.write_bytes(bytes(data))
        self.hurt.add(steps[-1])
        return True

    def _compare(self, folder: Path) -> None:
        ends = [place / f"checkpoint-{STEPS}" for place in (self.straight, folder)]
        for name in ("model.safetensors", "optimizer.safetensors"):
            same = len({(end / name).read_bytes() for end in ends}) == 1
            assert same, f"{name} differs from the straight run's"
        states = [checkpoint.read_state(end) for end in ends]
        for state in states:
            state["progress"].pop("seconds")
        apart = {n: [state.get(n) for state in states] for n in states[0] if states[0][n] != states[1].get(n)}
        assert not apart, f"state.json differs from the straight run's: {apart}"
        logs = [
            [{key: value for key, value in entry.items() if key not in TIMES} for entry in read_metrics(place)]
            for place in (self.straight, folder)
        ]
        assert logs[0] == logs[1], "metrics.jsonl differs from the straight run's"
        models = {(place / "model" / "model.safetensors").read_bytes() for place in (self.straight, folder)}
        assert len(models) == 1, "the finished model differs from the straight run's"
        hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
        assert not hidden, f"left behind: {hidden}"


def write(found: dict[str, int], seconds: float) -> None:
    kills = sum(found.get(way, 0) for way in WAYS)
    rows = "\n".join(f"| {name} | {number:,} |" for name, number in found.items() if number)
    RESULTS.joinpath("kill.md").write_text(
        f"""# A run that is killed ends like one that is not

Written by `python benchmarks/kill.py`. A small real run ({STEPS} steps, a checkpoint every three, dropout, averaged
weights, evaluations) was ended from outside **{kills:,} times**, in {found["runs"]:,} runs, within {seconds / 60:.0f}
minutes on this machine. After every blow each visible checkpoint was read again and compared with its hashes; every run
was resumed until it ended, and its weights, optimizer state, counters, log of losses and finished model were compared
with those of a run that nobody disturbed. **Runs that ended differently: 0. Damaged checkpoints that were loaded: 0.**
(The script stops at the first one.)

| what happened | times |
|---|--:|
{rows}
""",
        encoding="utf-8",
    )
    RESULTS.joinpath("kill.json").write_text(json.dumps({"seconds": seconds, "found": found}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="forget the counts of earlier sessions")
    parser.add_argument("--no-results", action="store_true", help="write no results (for a test)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no thread of torch's may exist when a child is forked
    earlier = RESULTS / "kill.json"
    before = {"seconds": 0.0, "found": {}}
    if earlier.is_file() and not options.fresh and not options.no_results:
        before = json.loads(earlier.read_text(encoding="utf-8"))
    done = sum(before["found"].get(way, 0) for way in WAYS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        stress = Stress(Path(place), options.seed + done)
        while done < options.kills and time.monotonic() - began < options.minutes * 60:
            done += stress.one_run(min(stress.draw.randrange(1, 13), options.kills - done))
            print(f"{done} blows, {stress.counts['runs']} runs, {time.monotonic() - began:.0f} s", flush=True)
    found = Counter(before["found"]) + stress.counts
    print(dict(found))
    if not options.no_results:
        write(dict(sorted(found.items())), before["seconds"] + time.monotonic() - began)


if __name__ == "__main__":
    main()
