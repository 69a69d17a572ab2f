"""Decoding on this CPU beside the peers: transformers, CTranslate2, OpenVINO GenAI and llama.cpp.

    python benchmarks/decode.py batch1 batch16 prefill first memory cold quality small roofline --data DATA

Parts:

    batch1    tokens a second of one sequence, and the share of the memory's read speed that its weights make up
    batch16   tokens a second of sixteen sequences together
    prefill   tokens a second of reading a prompt of 512, another one each time
    first     milliseconds to the first token after a prompt of 32, the program being warm
    memory    the highest memory of a fresh process, and its seconds from its start to its first token
    cold      seconds of the command `malmoi generate` for one token: until it is said, and until the command's end
    quality   bits a byte of the same held-out text and the same weights, read by each program
    small     tokens a second of the sizes nano and mini, and what a token costs outside the compiled kernels
    roofline  what the machine can do at best: bytes and multiplications a second

Speeds are those of GPT-2 124M with random weights. Every contestant runs in a process of its own with the same cores
and threads, stays alive, and is asked in turns, so that a machine that changes its speed changes it for all; ratios are
taken within a round. Peers are installed under --peers, each into its own environment, when they are first needed
(llama.cpp is compiled, which takes minutes); models lie under --models. A peer that cannot be had is a row that says
so. Results are kept in docs/results/decode.json and written as docs/results/decode.md after every measurement.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import decode_report
from decode_machine import limits, machine
from decode_peers import Models, Peers, UnavailableError, random_weights, trained

ROOT = Path(__file__).parents[1]
CONTESTANTS = Path(__file__).with_name("decode_contestants.py")
RESULTS = ROOT / "docs" / "results"
SHORT, LONG, WARM = 8, 512, 32  # tokens of a prompt: before decoding, to be read quickly, to the first token
WINDOW = 256  # tokens that are read at once for quality


@dataclass(frozen=True)
class Entry:
    """A contestant: its environment (None: ours), the format of its model, what it is asked, and its environment."""

    environment: str | None
    form: str
    task: dict[str, Any]
    variables: dict[str, str] = field(default_factory=dict)


# What a peer gains by its surroundings. Its memory in huge pages, as ours is: a switch of the C library. Threads of
# OpenMP that keep to their cores.
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
BOUND = {"OMP_PROC_BIND": "true"}


def ours(kind: str) -> Entry:
    return Entry(None, f"malmoi {kind}", {"program": "malmoi"})


def transformers(kind: str) -> Entry:
    return Entry("transformers", "hf", {"program": "transformers", "kind": kind}, BOUND)


def ctranslate2(kind: str) -> Entry:
    return Entry("ctranslate2", f"ct2 {kind}", {"program": "ctranslate2", "kind": kind}, BOUND)


def openvino(program: str, kind: str, **settings: str) -> Entry:
    return Entry("openvino", f"openvino {kind}", {"program": program, "settings": settings})


def llama(kind: str) -> Entry:
    return Entry("llama.cpp", f"gguf {kind}", {"program": "llama.cpp", "mapped": True}, BOUND)


def huge(entry: Entry) -> Entry:
    """The same in huge pages; a file that is mapped lies in small ones, so it is read instead."""
    task = {key: value for key, value in entry.task.items() if key != "mapped"}
    return Entry(entry.environment, entry.form, task, {**entry.variables, **HUGE})


INSTALLED: dict[str, Entry] = {
    "transformers float32": transformers("float32"),
    "transformers bfloat16": transformers("bfloat16"),
    "CTranslate2 int8": ctranslate2("int8"),
    "OpenVINO GenAI int8, paged": openvino("openvino paged", "int8"),
    "OpenVINO int8": openvino("openvino", "int8"),
    "llama.cpp F16": llama("f16"),
    "llama.cpp Q8_0": llama("q8_0"),
    "llama.cpp Q4_0": llama("q4_0"),
}
OURS: dict[str, Entry] = {
    "malmoi float32": ours("float32"),
    "malmoi bfloat16": ours("bfloat16"),
    "malmoi int8": ours("int8"),
    "malmoi int4, head int8": ours("int4"),
    "malmoi int4": ours("int4/int4"),
}
TUNED = {f"{name}, huge pages": huge(entry) for name, entry in INSTALLED.items() if "transformers" not in name}
EVERYBODY = {**OURS, **INSTALLED, **TUNED}
PAGED = "OpenVINO GenAI int8, paged"
FOR_QUALITY = {name: entry for name, entry in {**OURS, **INSTALLED}.items() if name != PAGED} | {
    "OpenVINO float32, told to keep it": openvino("openvino", "fp32", INFERENCE_PRECISION_HINT="f32"),
    "OpenVINO float32": openvino("openvino", "fp32"),
}
SMALL = {
    name: Entry(entry.environment, entry.form, {**entry.task, "timed": True}, entry.variables)
    for name, entry in {**OURS, **INSTALLED}.items()
    if name not in ("malmoi bfloat16", "malmoi int4, head int8", "transformers bfloat16")
}


class Worker:
    """A contestant's process."""

    def __init__(self, entry: Entry, setting: Setting, model: Models, log: Path) -> None:
        python = setting.peers.python(entry.environment) if entry.environment else Path(sys.executable)
        path = model.path(entry.form)
        cores = sorted(os.sched_getaffinity(0))[: setting.threads]
        own = {"OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.log, self.began = log, time.perf_counter()
        self.running = subprocess.Popen(
            [str(python), str(CONTESTANTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w", encoding="utf-8"),
            text=True,
            env={**os.environ, **own, **entry.variables},
            preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
        )
        self.facts = self.ask("open", path=str(path), threads=setting.threads, **entry.task)
        self.facts["bytes"] = self.facts.get("bytes") or model.bytes_read(entry.form)

    def ask(self, what: str, **task: Any) -> Any:
        assert self.running.stdin is not None and self.running.stdout is not None
        try:
            self.running.stdin.write(json.dumps({"do": what, **task}) + "\n")
            self.running.stdin.flush()
            line = self.running.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UnavailableError(f"its process ended; see {self.log.name}")
        told = json.loads(line)
        if "error" in told:
            raise UnavailableError(told["error"])
        return told["answer"]

    def close(self) -> None:
        if self.running.stdin is not None:
            self.running.stdin.close()
        self.running.wait()


class Setting:
    """What all parts share: peers, models, living contestants, and what has been found so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.threads, self.rounds = arguments, arguments.threads, arguments.rounds
        self.peers = Peers(arguments.peers.resolve())
        self.folder = arguments.models.resolve()
        self.result = RESULTS / f"{arguments.result}.json"
        kept = self.result.read_text(encoding="utf-8") if self.result.is_file() else "{}"
        self.found: dict[str, Any] = json.loads(kept)
        self._models: dict[str, Models] = {}
        self._workers: dict[tuple[str, str], Worker | str] = {}
        self._warm: set[tuple[str, str, str]] = set()
        self._random = np.random.default_rng(time.time_ns())

    def model(self, name: str) -> Models:
        if name not in self._models:
            make, method = random_weights(name), "nearest"
            if name == "trained":
                make = trained(self.arguments.data, self.arguments.quality_model, self.arguments.quality_minutes)
                method = "calibrated"
            self._models[name] = Models(self.folder / name, self.peers, make, method)
        return self._models[name]

    def fresh(self, model: str, name: str, entry: Entry) -> Worker:
        log = self.peers.folder / f"{model} {name}.log".replace(" ", "-").replace(",", "").replace("/", "-")
        worker = Worker(entry, self, self.model(model), log)
        self.found.setdefault("contestants", {}).setdefault(model, {})[name] = worker.facts
        return worker

    def worker(self, model: str, name: str, entry: Entry) -> Worker:
        """The living contestant; what kept one from opening is not tried again in this run."""
        key = (model, name)
        if key not in self._workers:
            try:
                self._workers[key] = self.fresh(model, name, entry)
            except UnavailableError as error:
                self._workers[key] = str(error)
        worker = self._workers[key]
        if isinstance(worker, str):
            raise UnavailableError(worker)
        return worker

    def prompts(self, count: int, length: int, vocabulary: int) -> list[list[int]]:
        """Never the same twice: no program can have kept it."""
        return self._random.integers(2, vocabulary - 2, (count, length)).tolist()

    def keep(self, part: str, name: str, turn: int, make: Callable[[], dict[str, Any]]) -> None:
        """A measurement by part, contestant and turn, made once; what failed is kept as a row, and tried again."""
        turns = self.found.setdefault(part, {}).setdefault(name, {})
        if str(turn) in turns and "error" not in turns[str(turn)] and not self.arguments.again:
            return
        try:
            turns[str(turn)] = made = make()
        except UnavailableError as error:
            turns[str(turn)] = made = {"error": str(error)}
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in made.items()}
        print(f"{part} | {name} | {turn}: {shown}", flush=True)
        self.found["machine"] = machine(self.threads)
        self.result.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        self.report()

    def turns(
        self,
        part: str,
        entries: dict[str, Entry],
        measure: Callable[[str, Entry], dict[str, Any]],
        *,
        machine: bool = False,
        rounds: int | None = None,
    ) -> None:
        """Everybody in turns, each round beginning with another one; with `machine`, what it can do at best, too."""
        asked = {name: entry for name, entry in entries.items() if wanted(name, self.arguments.only)}
        for turn in range(rounds or self.rounds):
            if machine:
                self.keep(part, "machine", turn, lambda: limits(self.peers.folder, self.threads))
            first = turn % len(asked) if asked else 0
            for name, entry in itertools.islice(itertools.cycle(asked.items()), first, first + len(asked)):
                self.keep(part, name, turn, functools.partial(measure, name, entry))

    def write(self, part: str, model: str, name: str, entry: Entry, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Sequences, tokens of each prompt, tokens to write: seconds to the first ones, and tokens a second after."""
        count, length, tokens = shape
        worker, vocabulary = self.worker(model, name, entry), self.vocabulary(model)
        if (part, model, name) not in self._warm:  # once in the shape that is measured
            worker.ask("write", prompts=self.prompts(count, length, vocabulary), count=min(tokens, 8))
            self._warm.add((part, model, name))
        answer = worker.ask("write", prompts=self.prompts(count, length, vocabulary), count=tokens)
        return {**read_steps(answer["steps"], count), "inside": answer["inside"]}

    def vocabulary(self, model: str) -> int:
        return json.loads((self.model(model).source / "config.json").read_text(encoding="utf-8"))["vocab_size"]

    def report(self) -> None:
        decode_report.write(self.found, self.result.with_suffix(".md"))

    def close(self) -> None:
        for worker in self._workers.values():
            if isinstance(worker, Worker):
                worker.close()


def wanted(name: str, only: Iterable[str] | None) -> bool:
    return only is None or any(word.lower() in name.lower() for word in only)


def read_steps(steps: list[tuple[float, int]], sequences: int) -> dict[str, Any]:
    """When every sequence had its first token, and the tokens a second from there to the last."""
    known, at = 0, 0
    while known < sequences:
        known, at = known + steps[at][1], at + 1
    first, last = steps[at - 1][0], steps[-1][0]
    after = sum(tokens for _, tokens in steps[at:])
    return {"first": first, "rate": after / (last - first) if after else None, "seconds": last}


# --- parts ------------------------------------------------------------------------------------------------------------


def batch1(setting: Setting) -> None:
    decoding(setting, "batch1", 1)


def batch16(setting: Setting) -> None:
    decoding(setting, "batch16", 16)


def decoding(setting: Setting, part: str, count: int) -> None:
    shape = (count, SHORT, setting.arguments.tokens)
    setting.turns(part, EVERYBODY, lambda name, entry: setting.write(part, "gpt2", name, entry, shape), machine=True)


def prefill(setting: Setting) -> None:
    def measure(name: str, entry: Entry) -> dict[str, Any]:
        made = setting.write("prefill", "gpt2", name, entry, (1, LONG, 1))
        return {"rate": LONG / made["first"]}

    setting.turns("prefill", EVERYBODY, measure)


def first(setting: Setting) -> None:
    def measure(name: str, entry: Entry) -> dict[str, Any]:
        return {"first": setting.write("first", "gpt2", name, entry, (1, WARM, 1))["first"]}

    setting.turns("first", EVERYBODY, measure)


def memory(setting: Setting) -> None:
    def measure(name: str, entry: Entry) -> dict[str, Any]:
        worker = setting.fresh("gpt2", name, entry)
        try:
            answer = worker.ask("write", prompts=setting.prompts(1, WARM, setting.vocabulary("gpt2")), count=32)
            cold = time.perf_counter() - worker.began - (answer["steps"][-1][0] - answer["steps"][0][0])
            return {"peak": worker.ask("memory"), "cold": cold}
        finally:
            worker.close()

    setting.turns("memory", EVERYBODY, measure)


def cold(setting: Setting) -> None:
    """The whole command for one token, beside an interpreter that does nothing and one that imports torch."""
    prompt = ["Once upon a time", "--max-new-tokens", "1"]
    commands = {
        decode_report.COMMAND: ["-m", "malmoi", "generate", setting.model("gpt2").path("malmoi int8"), *prompt],
        "malmoi generate, float32 folder": ["-m", "malmoi", "generate", setting.model("gpt2").source, *prompt],
        "python, nothing": ["-c", "pass"],
        "python, import torch": ["-c", "import torch"],
    }
    for words in commands.values():
        command(setting, words)  # files into the system's cache, modules into bytecode, as an installation leaves them
    for turn in range(setting.rounds):
        for name, words in commands.items():
            setting.keep("cold", name, turn, functools.partial(command, setting, words))


def command(setting: Setting, words: list[str | Path]) -> dict[str, float]:
    """Seconds of a whole command in a fresh process: to the last that it says, to its end, and of the CPUs."""
    log = setting.peers.folder / "command.log"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (
        log.open("w", encoding="utf-8") as told,
        subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=told, env=environment) as running,
    ):
        assert running.stdout is not None
        spoken = start
        while os.read(running.stdout.fileno(), 65_536):
            spoken = time.perf_counter()
        code = running.wait()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise UnavailableError(f"it ended with {code}; see {log.name}")
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"seconds": seconds, "cpu": work}
    return {**found, "spoken": spoken - start} if spoken > start else found


def quality(setting: Setting) -> None:
    @functools.cache
    def text() -> tuple[list[list[int]], int]:
        return held_out(setting.arguments.data, setting.model("trained").source, setting.arguments.windows)

    def measure(name: str, entry: Entry) -> dict[str, Any]:
        rows, size = text()
        nats = setting.worker("trained", name, entry).ask("score", rows=rows)
        return {"bits_per_byte": nats / math.log(2) / size, "tokens": sum(len(row) - 1 for row in rows), "bytes": size}

    setting.turns("quality", FOR_QUALITY, measure, rounds=1)


def held_out(data: Path | None, folder: Path, count: int) -> tuple[list[list[int]], int]:
    """Windows of tokens of books that the model has not seen, and the bytes of all but each window's first token."""
    from malmoi.config import SourceConfig
    from malmoi.data.corpus import read
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    if data is None:
        raise UnavailableError("needs --data")
    tokenizer = GPT4Tokenizer.from_pretrained(folder)
    file = data / "english" / "gutenberg_children_books" / "valid.jsonl.xz"
    rows: list[list[int]] = []
    for document in read(SourceConfig(path=str(file))):
        ids = tokenizer.encode(document.text, add_special_tokens=False)
        rows += [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW, WINDOW)]
    rows = rows[:: max(1, len(rows) // count)][:count]  # from all over the text
    return rows, sum(len(tokenizer.token_bytes(token)) for row in rows for token in row[1:])


def small(setting: Setting) -> None:
    for size, tokens in (("nano", 128), ("mini", 128)):
        part = f"small {size}"

        def measure(name: str, entry: Entry, size: str = size, part: str = part, tokens: int = tokens) -> dict:
            made = setting.write(part, size, name, entry, (1, SHORT, tokens))
            around = (made["seconds"] - made["inside"]) / tokens if made["inside"] else None
            return {"rate": made["rate"], "around": around}

        setting.turns(part, SMALL, measure)


def roofline(setting: Setting) -> None:
    for turn in range(setting.rounds):
        setting.keep("roofline", "machine", turn, lambda: limits(setting.peers.folder, setting.threads))
    setting.keep("roofline", "gpt2", 0, lambda: operations(setting.model("gpt2").source))


def operations(folder: Path) -> dict[str, Any]:
    """Multiplications and additions of a token's matrices, and of the head among them: two for each weight.

    Attention's own come to little.
    """
    from malmoi.model.gpt import GPT4LMHeadModel

    model = GPT4LMHeadModel.from_pretrained(folder)
    matrices = (p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "positions" not in name)
    return {"operations": 2 * sum(matrices), "head": 2 * model.lm_head.weight.numel()}


PARTS: dict[str, Callable[[Setting], None]] = {
    "batch1": batch1,
    "batch16": batch16,
    "prefill": prefill,
    "first": first,
    "memory": memory,
    "cold": cold,
    "quality": quality,
    "small": small,
    "roofline": roofline,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; none: write the report again")
    parser.add_argument("--result", default="decode", help="name of the files in docs/results; one for each machine")
    parser.add_argument("--peers", type=Path, default=ROOT / "runs" / "decode" / "peers", help="where to install them")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "decode" / "models")
    parser.add_argument("--data", type=Path, help="the folder with english/gutenberg_children_books, for quality")
    parser.add_argument("--quality-model", type=Path, help="a trained model folder instead of one trained here")
    parser.add_argument("--quality-minutes", type=float, default=4.0, help="of training it otherwise")
    parser.add_argument("--windows", type=int, default=64, help=f"of {WINDOW} tokens, read for quality")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48, help="written in a measurement of decoding")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", help="contestants whose names hold one of these words")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    arguments = parser.parse_args()
    setting = Setting(arguments)
    try:
        for part in arguments.parts:
            PARTS[part](setting)
    finally:
        setting.close()
    setting.report()


if __name__ == "__main__":
    main()
