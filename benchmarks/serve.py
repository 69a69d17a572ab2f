"""The server under load, beside llama.cpp's server and `transformers serve`; overloaded, abandoned, fuzzed.

    python benchmarks/serve.py load            1, 8 and 32 streaming clients, the servers in turns
    python benchmarks/serve.py overload        100 times what it can do, for --minutes
    python benchmarks/serve.py disconnects     10,000 clients that leave
    python benchmarks/serve.py fuzz            100,000 odd requests

Everything stays on 127.0.0.1. The weights are GPT-2 124M with random numbers, the same for all: int8 in our engine,
Q8_0 for llama.cpp (its own server, as the wheel xllamacpp brings it), float32 for transformers. Sampling at temperature
1, so that no text repeats itself; every prompt is another, so that no prompt is found in a cache. A part's figures are
kept in docs/results/serve.json, and docs/results/serve.md is written anew from all that is there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import serve_report
from decode import random_weights
from decode_peers import Models, Peers
from malmoi.energy import processor
from serve_client import PATIENCE, Answered, fuzz, get, leave, stream

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "serve.json"
CLIENTS = (1, 8, 32)
SMALL_CACHE = 8_192  # tokens: soon full, so that what grows after that is no cache
WORDS = [
    "river",
    "stone",
    "child",
    "bread",
    "window",
    "morning",
    "garden",
    "winter",
    "letter",
    "music",
    "silver",
    "village",
]

LLAMA = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path = sys.argv[1]; p.n_parallel = 32; p.n_ctx = 32 * 512; p.port = 0; p.warmup = True
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[2]); p.kv_unified = True
server = xllamacpp.Server(p)
print("http " + server.listening_address, flush=True)
time.sleep(1e6)
"""


class Served:
    """A server in a process of its own, on a free port of this machine."""

    def __init__(self, name: str, command: list[str], fields: dict[str, Any], port: int | None = None) -> None:
        self.name, self.fields = name, fields
        log = ROOT / "runs" / f"serve-{name.replace(' ', '-').replace(',', '')}-{os.getpid()}.log"
        log.parent.mkdir(exist_ok=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        self.port, self.log = port or 0, log

    def ready(self, seconds: float = 240) -> Served:
        """Wait until it answers; raises where it does not."""
        until = time.monotonic() + seconds
        while True:
            said = self.log.read_text(errors="replace")
            found = [word for word in said.split() if word.startswith("http://127.0.0.1:")]
            if not self.port and found:
                self.port = int(found[-1].rsplit(":", 1)[1].rstrip("/"))
            with contextlib.suppress(OSError):
                if self.port and asyncio.run(get(self.port, "/health"))[0] == 200:
                    return self
            if self.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise RuntimeError(f"{self.name} does not start: {said[-300:]}")
            time.sleep(0.2)

    def memory(self) -> float:
        """Resident bytes of the process, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def ours(models: Models, threads: int, cache_tokens: int = 32_768) -> Served:
    command = [sys.executable, "-m", "malmoi", "serve", str(models.path("malmoi int8")), "--port", "0"]
    command += ["--threads", str(threads), "--name", "m", "--cache-tokens", str(cache_tokens)]
    return Served("malmoi int8", command, {"top_k": 40})


def llama(models: Models, threads: int) -> Served:
    command = [sys.executable, "-c", LLAMA, str(models.path("gguf q8_0")), str(threads)]
    return Served("llama.cpp Q8_0", command, {"top_k": 40, "top_p": 1.0, "min_p": 0.0, "cache_prompt": False})


def transformers(models: Models, threads: int, batching: bool) -> Served:
    place = str(models.path("hf"))
    program = str(Path(sys.executable).with_name("transformers"))
    flag = "--continuous-batching" if batching else "--no-continuous-batching"
    port = random.randrange(20_000, 40_000)
    command = [program, "serve", place, "--port", str(port), "--device", "cpu", "--dtype", "float32", flag]
    return Served("transformers float32" + (", batching" if batching else ""), command, {"model": place}, port)


def busy_cores(seconds: float = 2.0) -> float:
    """How many cores the machine is using now, by the kernel's own count."""

    def ticks() -> tuple[int, int]:
        counts = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # of which idle, and waiting for a disk

    (total, idle), _ = ticks(), time.sleep(seconds)
    after, idle_after = ticks()
    return round((1 - (idle_after - idle) / max(1, after - total)) * (os.cpu_count() or 1), 2)


def prompts(rng: random.Random) -> Iterator[str]:
    while True:
        yield " ".join(rng.choice(WORDS) for _ in range(32))


async def together(server: Served, clients: int, tokens: int, each: int, rng: random.Random) -> list[Answered]:
    """Every client asks `each` questions, one after another."""
    texts = prompts(rng)

    async def client() -> list[Answered]:
        made = []
        for _ in range(each):
            fields = {"prompt": next(texts), "max_tokens": tokens, "temperature": 1.0, "seed": rng.randrange(10**6)}
            asked = {**fields, "stream_options": {"include_usage": True}, **server.fields}
            made.append(await asyncio.wait_for(stream(server.port, "/v1/completions", asked), PATIENCE))
        return made

    return [one for many in await asyncio.gather(*(client() for _ in range(clients))) for one in many]


def measured(server: Served, clients: int, arguments: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        made = asyncio.run(together(server, clients, arguments.tokens, arguments.each, rng))
    except (OSError, asyncio.TimeoutError, ValueError, IndexError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    seconds = time.perf_counter() - began
    good = [one for one in made if one.status == 200 and one.tokens > arguments.tokens // 2]
    if len(good) < len(made):
        return {"error": f"{len(made) - len(good)} of {len(made)} requests failed (status {made[-1].status})"}
    return {
        "rate": sum(one.tokens for one in good) / seconds,
        "first": [one.first for one in good],
        "latency": [one.seconds for one in good],
    }


def load(arguments: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Tokens per second, time to the first token and latency, the servers in turns."""
    found: dict[str, Any] = {"rounds": [], "tokens": arguments.tokens, "each": arguments.each, "unavailable": {}}
    servers: list[Served] = []
    try:
        makers = {
            "malmoi int8": lambda: ours(models, arguments.threads),
            "llama.cpp Q8_0": lambda: llama(models, arguments.threads),
            "transformers float32": lambda: transformers(models, arguments.threads, False),
            "transformers float32, batching": lambda: transformers(models, arguments.threads, True),
        }
        asked = arguments.only or [name.split()[0] for name in makers]
        wanted = {name: make for name, make in makers.items() if name.split()[0] in asked}
        started = {name: make() for name, make in wanted.items()}
        for name, server in started.items():
            try:
                servers.append(server.ready())
            except RuntimeError as error:
                found["unavailable"][name] = str(error)[-200:]
        rng = random.Random(1)
        for server in servers:
            measured(server, 2, arguments, rng)  # warm
        time.sleep(arguments.rest)
        for turn in range(arguments.rounds):
            order = servers[turn % len(servers) :] + servers[: turn % len(servers)]
            row: dict[str, Any] = {"others": busy_cores()}  # while no server is asked
            for clients in CLIENTS:
                for server in order:
                    if server.name.startswith("transformers") and (turn > 0 or clients > arguments.slow_clients):
                        continue
                    row.setdefault(server.name, {})[str(clients)] = measured(server, clients, arguments, rng)
                    print(turn, clients, server.name, row[server.name][str(clients)].get("rate"), flush=True)
            found["rounds"].append(row)
    finally:
        for server in servers:
            server.close()
    for name, made in arguments.before.get("rounds", [{}])[0].items():
        found["rounds"][0].setdefault(name, made)  # of servers that were not asked this time
    return found


def overload(arguments: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Requests come at 100 times the rate at which they can be answered, whatever the answers say."""
    server, rng = ours(models, arguments.threads).ready(), random.Random(2)
    tokens = 256
    try:
        asyncio.run(together(server, 8, 32, 1, rng))
        began = time.perf_counter()
        made = asyncio.run(together(server, 64, tokens, 1, rng))
        capacity = sum(one.tokens for one in made) / (time.perf_counter() - began)
        rate = 100 * capacity / tokens
        memory = [server.memory()]
        done, statuses = asyncio.run(_flood(server, rate, tokens, 60 * arguments.minutes, memory, rng))
        asked, after = time.monotonic(), -1.0
        while after < 0 and time.monotonic() - asked < 60:  # those who were refused are told to ask again in a moment
            if asyncio.run(together(server, 1, 16, 1, rng))[0].status == 200:
                after = time.monotonic() - asked
            else:
                time.sleep(0.25)
        good = [one for one in done if one.status == 200]
        return {
            "minutes": arguments.minutes,
            "capacity": capacity,
            "offered": rate,
            "sent": len(done),
            "statuses": statuses,
            "goodput": sum(one.tokens for one in good) / (60 * arguments.minutes),
            "refused_in": [one.seconds for one in done if one.status == 429][-2000:],
            "first": [one.first for one in good],
            "memory": memory,
            "answered_after": after,
        }
    finally:
        server.close()


async def _flood(
    server: Served, rate: float, tokens: int, seconds: float, memory: list[float], rng: random.Random
) -> tuple[list[Answered], dict[str, int]]:
    texts, done, statuses = prompts(rng), [], {}
    open_requests: set[asyncio.Task[None]] = set()

    async def one() -> None:
        fields = {"prompt": next(texts), "max_tokens": tokens, "temperature": 1.0}
        try:
            answered = await stream(server.port, "/v1/completions", {**fields, **server.fields})
        except (OSError, ValueError, IndexError):
            answered = Answered(-1)
        done.append(answered)
        statuses[str(answered.status)] = statuses.get(str(answered.status), 0) + 1

    began = last = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) - began < seconds:
        while sent < (now - began) * rate and len(open_requests) < 900:
            task = asyncio.ensure_future(one())
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            sent += 1
        if now - last > 5:
            memory.append(server.memory())
            last = now
        await asyncio.sleep(0.005)
    for task in open_requests:
        task.cancel()
    await asyncio.gather(*open_requests, return_exceptions=True)
    return done, statuses


def disconnects(arguments: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Clients that leave at random moments, 32 at a time."""
    server = ours(models, arguments.threads, SMALL_CACHE).ready()
    try:
        asyncio.run(together(server, 8, 16, 1, random.Random(3)))

        async def one(worker: int, count: int) -> None:
            rng = random.Random(worker)
            texts = prompts(rng)
            for _ in range(count):
                fields = {"prompt": next(texts), "max_tokens": 256, "n": rng.choice([1, 1, 2, 4])}
                await leave(server.port, "/v1/completions", fields, rng)

        async def all_of(count: int) -> None:
            await asyncio.gather(*(one(worker, count // 32 + (worker < count % 32)) for worker in range(32)))

        memory = [server.memory()]
        began = time.perf_counter()
        for _ in range(10):
            asyncio.run(all_of(arguments.count // 10))
            memory.append(server.memory())
            print(memory[-1], flush=True)
        seconds = time.perf_counter() - began
        until = time.monotonic() + 10
        while True:
            status, body = asyncio.run(get(server.port, "/ready"))
            left = json.loads(body)
            if (not left["running"] and not left["waiting"]) or time.monotonic() > until:
                break
        after = asyncio.run(together(server, 1, 16, 1, random.Random(4)))[0]
        return {
            "count": arguments.count // 10 * 10,
            "seconds": seconds,
            "memory": memory,
            "ready": status,
            "left": left,
            "answered_after": after.status == 200,
        }
    finally:
        server.close()


def odd(arguments: argparse.Namespace, models: Models) -> dict[str, Any]:
    """Odd requests over 16 connections; with --piece, a part of them, added to those that were sent before."""
    server = ours(models, arguments.threads, SMALL_CACHE).ready()
    try:
        statuses: dict[int, int] = {}
        memory, began = [server.memory()], time.perf_counter()

        async def all_of() -> list[str]:
            share = arguments.count // 16
            seeds = range(16 * arguments.piece, 16 * arguments.piece + 16)
            made = await asyncio.gather(*(fuzz(server.port, seed, share, statuses) for seed in seeds))
            return [fault for faults in made for fault in faults]

        faults = asyncio.run(all_of())
        memory.append(server.memory())
        return {
            "count": sum(statuses.values()),
            "seconds": time.perf_counter() - began,
            "statuses": {str(status): count for status, count in sorted(statuses.items())},
            "faults": faults[:20],
            "memory": memory,
            "alive": server.process.poll() is None and asyncio.run(get(server.port, "/ready"))[0] == 200,
        }
    finally:
        server.close()


def added(before: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    """Both pieces of odd requests as one."""
    codes = {*before["statuses"], *piece["statuses"]}
    return {
        "threads": piece["threads"],
        "count": before["count"] + piece["count"],
        "seconds": before["seconds"] + piece["seconds"],
        "statuses": {code: before["statuses"].get(code, 0) + piece["statuses"].get(code, 0) for code in sorted(codes)},
        "faults": before["faults"] + piece["faults"],
        "memory": [*before["memory"], *piece["memory"]],
        "alive": before["alive"] and piece["alive"],
    }


PARTS = {"load": load, "overload": overload, "disconnects": disconnects, "fuzz": odd}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; none: write the report again")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "decode" / "models" / "gpt2")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--each", type=int, default=2, help="questions of a client in a round")
    parser.add_argument("--slow-clients", type=int, default=8, help="transformers is not asked by more at once")
    parser.add_argument("--only", nargs="+", help="servers by their first word; others' rows stay")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds before the first round")
    parser.add_argument("--piece", type=int, default=0, help="of fuzz: 1, 2, ... other seeds, added to what is there")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=0, help="of disconnects (10,000) or odd requests (100,000)")
    arguments = parser.parse_args()
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for part in arguments.parts:
        arguments.count = arguments.count or {"fuzz": 100_000}.get(part, 10_000)
        peers = Peers(ROOT / "runs" / "decode" / "peers")
        models = Models(arguments.models, peers, random_weights("gpt2"), method="nearest")
        arguments.before = found.get(part, {})
        made = {"threads": arguments.threads, **PARTS[part](arguments, models)}
        found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}  # what another run has added meanwhile
        found["machine"] = {"processor": processor()[0], "cores": os.cpu_count()}
        found[part] = added(found[part], made) if part == "fuzz" and arguments.piece and part in found else made
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(serve_report.page(found))


if __name__ == "__main__":
    main()
