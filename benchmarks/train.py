"""How fast Malmoi learns on this machine, beside its peers: seconds to a loss, tokens a second, text left unexplained.

    git clone https://github.com/karpathy/nanoGPT
    pip install --no-deps --target peers litgpt lightning lightning-utilities torchmetrics jsonargparse
    python benchmarks/train.py race speed ablations --data DATA --nanogpt nanoGPT --litgpt peers
    python benchmarks/train.py clock --minutes 2 10 30 ...        (three quarters of an hour for each text)

Parts:

    race       the whole command `malmoi train recipe.yaml`, from its start to its end with everything between (import,
               reading the text, learning, measuring, saving), until Tiny Shakespeare's validation loss is nanoGPT's
               1.8982, and to the end of its first step; beside nanoGPT's own CPU recipe. Windows of 64 bytes, all of
               the split, none overlapping.
    race256    the same with rows of 256, to the 1.4697 that nanoGPT's recipe for a data-centre GPU reaches.
    speed      tokens a second and share of the machine's own matrix product at three sizes
    gpu        the same on a GPU, 124m and 350m with rows of 1,024, compiled and not; where torch finds one
    equal      the loss of each contestant after the same number of tokens
    clock      bits a byte after equal minutes, all at the same time: Gutenberg's children's books, Korean text
    ablations  one choice of ours undone at a time: the loss after equal steps, and the speed
    rates      do learning rates carry over from one width to another?
    dial       rates and momentum for the dial's sizes: those that win short runs, at a thousand steps
    batch      rows of a step for the dial's sizes: many small steps or few large ones, at equal tokens
    decay      the share of the run in which the rate falls, for the dial's sizes
    where      where the time of a step goes

Contestants take turns, so that a machine that changes its speed changes it for all. Weights are learned by gradient
alone. The recipes of the race, and their numbers of steps, were chosen with `--choose`, which learns from the first
nine tenths of the training split and measures on the last tenth: the validation split took no part. Results are kept in
docs/results/train.json and written as docs/results/train.md after every measurement.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import lzma
import os
import pickle
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import train_report

ROOT = Path(__file__).parents[1]
CONTESTANTS = Path(__file__).with_name("contestants.py")
RESULT = ROOT / "docs" / "results" / "train.json"

# The shapes of the race: narrow networks learn most in a few seconds. 272 is 256 bytes and the control tokens.
COMMON = {"num_hidden_layers": 2, "max_position_embeddings": 64}
RECIPES: dict[str, dict[str, Any]] = {
    "malmoi, default layout": {
        "model": {
            **COMMON,
            "hidden_size": 96,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "intermediate_size": 256,
        },
        "train": {"max_steps": 145, "learning_rate": 6e-3, "short_rows_steps": 0.3},
    },
    "malmoi, with n-gram embeddings": {
        "model": {
            **COMMON,
            "hidden_size": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 176,
            "ngram_sizes": [2, 3],
            "ngram_vocab_size": 16_384,
        },
        "train": {"max_steps": 80, "learning_rate": 2e-2},
    },
}
RACE_TRAIN = {"sequence_length": 64, "per_device_train_batch_size": 32, "matrix_learning_rate": 0.03}
RACE_TRAIN |= {"muon_momentum": 0.9, "decay_steps": 0.6}
RECIPES_256: dict[str, dict[str, Any]] = {
    "malmoi, default layout": {
        "model": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "intermediate_size": 704,
            "max_position_embeddings": 256,
        },
        "train": {
            "sequence_length": 256,
            "per_device_train_batch_size": 16,
            "max_steps": 800,
            "decay_steps": 0.6,
            "matrix_learning_rate": 0.03,
            "muon_momentum": 0.9,
            "short_rows_steps": 0.3,
        },
    },
}
NANOGPT_CPU = [
    *("config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100"),
    *("--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"),
    *("--max_iters=2000", "--lr_decay_iters=2000"),
]


# --- the race -------------------------------------------------------------------------------------------------------


def shakespeare(data: Path, choose: bool) -> tuple[bytes, bytes]:
    """What is learned from and what is measured on; to `choose`, both from the training split."""
    folder = data / "english" / "tinyshakespeare"
    train, valid = (lzma.decompress((folder / f"{part}.txt.xz").read_bytes()) for part in ("train", "valid"))
    if choose:
        cut = int(len(train) * 0.9)
        return train[:cut], train[cut:]
    return train, valid


def windows(text: bytes, width: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.frombuffer(text, np.uint8).astype(np.int64)
    count = (len(ids) - 1) // width
    return ids[: count * width].reshape(count, width), ids[1 : count * width + 1].reshape(count, width)


def malmoi_race(place: Path, recipe: dict[str, Any], texts: tuple[bytes, bytes], seed: int) -> dict[str, Any]:
    """Seconds of the whole command, and the loss of the model folder that it left, measured in float32 afterwards."""
    for name, text in zip(("train.txt", "valid.txt"), texts, strict=True):
        (place / name).write_bytes(text)
    train = {"eval_steps": recipe["train"]["max_steps"], **recipe["train"], "seed": seed}
    whole = {
        "data": {"sources": [{"path": str(place / "train.txt")}], "validation": [{"path": str(place / "valid.txt")}]},
        "size": "nano",
        "vocab_size": 272,
        "model": recipe["model"],
        "train": train,
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    shutil.rmtree(place / "run", ignore_errors=True)
    start, start_core = time.perf_counter(), core_seconds()
    command = [sys.executable, "-m", "malmoi", "train", str(place / "recipe.yaml"), "--out", str(place / "run")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        log = place / "run" / "metrics.jsonl"
        while running.poll() is None and not (log.is_file() and log.stat().st_size):  # its first line is step 1's
            time.sleep(0.005)
        first, first_core = time.perf_counter() - start, core_seconds_of(running.pid)
        _, said = running.communicate()
    if running.returncode:
        sys.exit(said.decode())
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    width = recipe["model"]["max_position_embeddings"]
    times = {"seconds": seconds, "core_seconds": core_seconds() - start_core, "learning": lines[-1]["seconds"]}
    times |= {"first_step": first, "first_step_core": first_core}
    return {**times, **malmoi_loss(place / "run", texts[1], width)}


def core_seconds() -> float:
    """Seconds of a core that all commands used which have ended: wall-clock grows with other work, they hardly do."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def core_seconds_of(process: int) -> float | None:
    """The same of a process that runs; only Linux tells."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.is_file():
        return None
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def malmoi_loss(run: Path, text: bytes, width: int) -> dict[str, Any]:
    import torch

    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    tokenizer = GPT4Tokenizer.from_pretrained(run / "model")
    every = bytes(range(128)).decode()  # the text is ASCII; each byte is one token
    ids = {ord(letter): tokenizer.encode(letter, add_special_tokens=False) for letter in every}
    table = np.zeros(256, np.int64)
    for byte, found in ids.items():
        assert len(found) == 1, f"byte {byte} is {len(found)} tokens"
        table[byte] = found[0]
    model = GPT4LMHeadModel.from_pretrained(run / "model").eval()
    inputs, targets = (torch.from_numpy(table[part]) for part in windows(text, width))
    total = 0.0
    with torch.no_grad():
        for x, y in zip(inputs.split(256), targets.split(256), strict=True):
            logits = model(x).logits.flatten(0, 1)
            total += float(torch.nn.functional.cross_entropy(logits, y.flatten(), reduction="sum"))
    return {"nats": total / targets.numel(), "parameters": model.num_parameters()}


def nanogpt_race(place: Path, checkout: Path, texts: tuple[bytes, bytes], seed: int) -> dict[str, Any]:
    """nanoGPT's own script with its own recipe; its loss is measured in the same windows afterwards."""
    data = checkout / "data" / "malmoi_race"
    data.mkdir(parents=True, exist_ok=True)
    letters = sorted(set(b"".join(texts)))
    place_of = {letter: index for index, letter in enumerate(letters)}
    table = np.array([place_of.get(byte, 0) for byte in range(256)], np.uint16)
    for name, text in zip(("train.bin", "val.bin"), texts, strict=True):
        table[np.frombuffer(text, np.uint8)].tofile(data / name)
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(letters), "stoi": {}, "itos": {}}))
    out = place / "nanogpt"
    more = [f"--out_dir={out}", "--dataset=malmoi_race", "--always_save_checkpoint=True"]
    seeded = (
        f"text = open('train.py').read().replace('1337 + seed_offset', '{1337 + seed}')\n"
        "exec(compile(text, 'train.py', 'exec'))"
    )
    start, start_core = time.perf_counter(), core_seconds()
    subprocess.run([sys.executable, "-c", seeded, *NANOGPT_CPU, *more], cwd=checkout, check=True, capture_output=True)
    seconds, used = time.perf_counter() - start, core_seconds() - start_core
    measured = (
        "import sys, json, torch, numpy as np; from model import GPT, GPTConfig\n"
        f"c = torch.load({str(out / 'ckpt.pt')!r}, map_location='cpu', weights_only=False)\n"
        "m = GPT(GPTConfig(**c['model_args'])); m.load_state_dict(c['model']); m.eval()\n"
        f"v = np.fromfile({str(data / 'val.bin')!r}, np.uint16).astype(np.int64); n = (len(v) - 1) // 64\n"
        "x, y = (torch.from_numpy(a.reshape(n, 64)) for a in (v[:n*64], v[1:n*64+1])); t = 0\n"
        "with torch.no_grad():\n"
        "    for a, b in zip(x.split(256), y.split(256)): t += m(a, b)[1].item() * len(a)\n"
        "print(json.dumps({'nats': t / n, 'parameters': sum(p.numel() for p in m.parameters())}))"
    )
    answer = subprocess.run([sys.executable, "-c", measured], cwd=checkout, check=True, capture_output=True, text=True)
    return {"seconds": seconds, "core_seconds": used, **json.loads(answer.stdout.splitlines()[-1])}


def race(arguments: argparse.Namespace, keep: Keep, recipes: dict[str, dict[str, Any]], name: str) -> None:
    texts = shakespeare(arguments.data, arguments.choose)
    part = f"{name} (choosing)" if arguments.choose else name
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for seed in range(arguments.seeds):
            if arguments.nanogpt and name == "race" and seed < arguments.peer_seeds:
                keep(part, "nanoGPT", seed, lambda seed=seed: nanogpt_race(place, arguments.nanogpt, texts, seed))
            for contestant, recipe in recipes.items():
                settings = {**recipe, "train": {**(RACE_TRAIN if name == "race" else {}), **recipe["train"]}}
                keep(part, contestant, seed, lambda r=settings, s=seed: malmoi_race(place, r, texts, s))


# --- measurements by contestants.py ---------------------------------------------------------------------------------


def measure(task: dict[str, Any]) -> dict[str, Any]:
    answer = subprocess.run([sys.executable, str(CONTESTANTS), json.dumps(task)], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{task}:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def fields(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {name: str(getattr(arguments, name)) for name in ("nanogpt", "litgpt") if getattr(arguments, name)}
    return {"threads": arguments.threads, **found}


def peers(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "malmoi, Muon", {"kind": "malmoi"}
    plain = {"optimizer": "adamw", "learning_rate": 1e-3, "warmup_steps": 0.1, "lr_scheduler_type": "cosine"}
    yield "malmoi, AdamW", {"kind": "malmoi", "train": {**plain, "min_learning_rate_ratio": 0.1}}
    if arguments.nanogpt:
        yield "nanoGPT", {"kind": "nanogpt"}
    if arguments.litgpt:
        yield "litgpt", {"kind": "litgpt"}
    yield "transformers GPT-2", {"kind": "transformers"}


def speed(arguments: argparse.Namespace, keep: Keep) -> None:
    counts = {"1m": 30, "10m": 3, "124m": 2}
    for shape in arguments.shapes:
        for turn in range(arguments.rounds):
            peak = {"measure": "peak", "threads": arguments.threads}
            keep(f"speed {shape}", "peak", turn, lambda peak=peak: measure(peak))
            compiled = ("malmoi, Muon, torch_compile", {"kind": "malmoi", "train": {"torch_compile": True}})
            for name, task in (*peers(arguments), *([compiled] if shape == "1m" else [])):  # a minute for each size
                whole = {**fields(arguments), **task, "shape": shape, "measure": "speed", "steps": counts[shape]}
                keep(f"speed {shape}", name, turn, lambda task=whole: measure(task))


def gpu(arguments: argparse.Namespace, keep: Keep) -> None:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("gpu: torch finds no GPU here; nothing was measured.")
    for shape in ("gpu 124m", "gpu 350m"):
        for turn in range(arguments.rounds):
            common = {"device": "cuda", **fields(arguments)}
            keep(f"speed {shape}", "peak", turn, lambda common=common: measure({**common, "measure": "peak"}))
            entries = {name: task for name, task in peers(arguments) if task["kind"] in ("malmoi", "nanogpt")}
            for name in [name for name, task in entries.items() if task["kind"] == "malmoi"]:
                train = {**entries[name].get("train", {}), "torch_compile": True}
                entries[f"{name}, torch_compile"] = {**entries[name], "train": train}
            for name, task in entries.items():
                whole = {**common, **task, "shape": shape, "measure": "speed", "steps": 20}
                keep(f"speed {shape}", name, turn, lambda task=whole: measure(task))


def token_files(data: Path, which: str, folder: Path) -> dict[str, Any]:
    """A training and a held-out file of ids, from one vocabulary of 4,096 learned from the training text."""
    from malmoi.config import SourceConfig
    from malmoi.data.corpus import read
    from malmoi.tokens.vocabulary import learn

    korean = data / "korean"
    sources = {
        "Gutenberg": {
            part: [data / f"english/gutenberg_children_books/{part}.jsonl.xz"] for part in ("train", "valid")
        },
        "Korean": {
            part: [korean / f"nsmc_reviews/{part}.tsv.xz", korean / f"boddari_prose/{part}.jsonl.xz"]
            for part in ("train", "valid")
        },
    }[which]
    texts: dict[str, list[str]] = {}
    for part, files in sources.items():
        texts[part] = []
        for file in files:
            source = SourceConfig(path=str(file), template="{text}" if file.name.endswith(".tsv.xz") else None)
            texts[part] += [document.text for document in read(source)]
    generator = np.random.default_rng(0)
    for part in texts:  # two kinds of Korean text, mixed
        generator.shuffle(texts[part])
    tokenizer = learn(texts["train"], 4096)
    found: dict[str, Any] = {}
    for part, parts in texts.items():
        file = folder / f"{which}-{part}.npy"
        ids = [np.array(tokenizer.encode(text + "\n"), np.uint16) for text in parts]
        np.save(file, np.concatenate(ids))
        found[f"{part}_file"] = str(file)
        if part == "valid":
            found["bytes_per_token"] = sum(len((text + "\n").encode()) for text in parts) / sum(len(i) for i in ids)
    return found


ON_THE_CLOCK = ("malmoi, Muon", "nanoGPT", "litgpt")


def clock(arguments: argparse.Namespace, keep: Keep) -> None:
    """All contestants learn at the same time, one thread each, so that nothing that happens to the machine is unequal.

    What each got of it, in seconds of a core, stands beside its result.
    """
    for which in arguments.texts:
        with tempfile.TemporaryDirectory() as folder:
            files: dict[str, Any] = {}
            for minutes in arguments.minutes:
                part = f"clock {which}"
                tasks = {f"{name}, {minutes:g} min": task for name, task in peers(arguments) if name in ON_THE_CLOCK}
                tasks = {name: task for name, task in tasks.items() if not keep.has(part, name, 0)}
                if not tasks:
                    continue
                files = files or token_files(arguments.data, which, Path(folder))
                common = {**files, "shape": "clock", "measure": "learn", "minutes": minutes, "seed": 0}
                with ThreadPoolExecutor() as together:
                    wholes = {
                        name: {**fields(arguments), **task, **common, "threads": 1} for name, task in tasks.items()
                    }
                    made = dict(zip(wholes, together.map(measure, wholes.values()), strict=True))
                for name, answer in made.items():
                    keep(part, name, 0, lambda answer=answer: answer)


def equal(arguments: argparse.Namespace, keep: Keep) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = byte_files(arguments.data, Path(folder))
        for shape, steps, rows in (("1m", 300, 32), ("10m", 60, 16)):
            for seed in range(arguments.peer_seeds):
                for name, task in peers(arguments):
                    whole = {**fields(arguments), **task, **files, "shape": shape, "measure": "learn", "steps": steps}
                    whole |= {"seed": seed, "rows": rows}
                    keep(f"equal {shape}", name, seed, lambda task=whole: measure(task))


def byte_files(data: Path, folder: Path) -> dict[str, str]:
    """Tiny Shakespeare's training split as bytes, its last tenth held out."""
    found = {}
    for name, text in zip(("train", "valid"), shakespeare(data, choose=True), strict=True):
        np.save(folder / f"{name}.npy", np.frombuffer(text, np.uint8))
        found[f"{name}_file"] = str(folder / f"{name}.npy")
    return found


# What is undone, one thing at a time, from the shipped trainer at the size of the race.
BASE = {**RACE_TRAIN, "learning_rate": 6e-3, "max_steps": 125}
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "AdamW for the matrices too (3e-3)": {"train": {"optimizer": "adamw", "learning_rate": 3e-3}},
    "AdamW for the matrices too (1e-3)": {"train": {"optimizer": "adamw", "learning_rate": 1e-3}},
    "AdamW for the matrices too (3e-3), longer warm-up": {
        "train": {"optimizer": "adamw", "learning_rate": 3e-3, "warmup_steps": 0.2}
    },
    "AdamW for the matrices too (1e-2)": {"train": {"optimizer": "adamw", "learning_rate": 1e-2}},
    "float32": {"train": {"dtype": "float32"}},
    "without the compiled steps": {"environment": {"MALMOI_KERNELS": "0"}},
    "memory as the C library hands it out": {"environment": {"MALMOI_KEEP_MEMORY": "0"}},
    "no norm on queries and keys": {"model": {"qk_norm": False}},
    "cosine to zero instead of stable, then down": {"train": {"lr_scheduler_type": "cosine"}},
    "no warm-up": {"train": {"warmup_steps": 0}},
    "no weight decay": {"train": {"weight_decay": 0.0}},
    "no clipping": {"train": {"max_grad_norm": 0.0}},
    "momentum 0.95": {"train": {"muon_momentum": 0.95}},
    "16 rows, twice the steps": {"rows": 16, "steps": 250},
    "shorter rows in the first 30 %": {"train": {"short_rows_steps": 0.3}},
    "fewer rows in the first 30 %, more steps": {"few": 0.3, "steps": 147},
    "with n-gram embeddings": {"model": {"ngram_sizes": [2, 3]}},
    "four documents in each row, that do not see each other": {"documents": 4},
    "one thread": {"threads": 1},
}


def small(arguments: argparse.Namespace, wishes: dict[str, Any], width: int = 96) -> dict[str, Any]:
    model = {**COMMON, "vocab_size": 256, "hidden_size": width, "num_attention_heads": width // 32}
    model |= {"num_key_value_heads": width // 32, "head_dim": 32, "intermediate_size": -(-width * 8 // 3 // 32) * 32}
    task = {**fields(arguments), "kind": "malmoi", "shape": "1m", "measure": "learn", "steps": 125, **wishes}
    task |= {"model": {**model, **wishes.get("model", {})}, "train": {**BASE, **wishes.get("train", {})}}
    return task


def with_environment(task: dict[str, Any]) -> dict[str, Any]:
    before = dict(os.environ)
    os.environ.update(task.pop("environment", {}))
    try:
        return measure(task)
    finally:
        os.environ.clear()
        os.environ.update(before)


def ablations(arguments: argparse.Namespace, keep: Keep) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = byte_files(arguments.data, Path(folder))
        for seed in range(arguments.seeds):
            for name, wishes in ABLATIONS.items():
                if arguments.only and name not in arguments.only:
                    continue
                task = {**small(arguments, wishes), **files, "seed": seed}
                keep("ablations", name, seed, lambda task=task: with_environment(task))


def rates(arguments: argparse.Namespace, keep: Keep) -> None:
    """Each rate times a half, one and two, at four widths, for as many steps."""
    with tempfile.TemporaryDirectory() as folder:
        files = byte_files(arguments.data, Path(folder))
        for width in (64, 96, 192, 384):
            for which, base in (("learning_rate", 6e-3), ("matrix_learning_rate", 0.03)):
                for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
                    if factor == 1.0 and which == "matrix_learning_rate":
                        continue  # measured with the other
                    wishes = {"train": {which: base * factor}}
                    task = {**small(arguments, wishes, width), **files, "seed": 0}
                    keep("rates", f"{width} {which} {factor:g}", 0, lambda task=task: measure(task))


# Rates of AdamW and Muon, and Muon's momentum: the dial's first choice, the race's, and one changed at a time.
SETTINGS = {
    f"rates {slow:g} and {matrices:g}, momentum {momentum:g}": {
        "learning_rate": slow,
        "matrix_learning_rate": matrices,
        "muon_momentum": momentum,
    }
    for slow, matrices in ((3e-3, 0.02), (6e-3, 0.03))
    for momentum in (0.95, 0.9)
}


STEP = 2048  # tokens of a step of the runs below, where nothing else is said
RATES = ("learning_rate", "matrix_learning_rate", "muon_momentum")


def dial(arguments: argparse.Namespace, keep: Keep) -> None:
    """Runs of `--steps`, all settings at the same time, one thread each; only their losses are compared.

    The race's network reads Tiny Shakespeare's bytes, the dial's sizes read Gutenberg's children's books and Korean
    reviews and prose (`--texts`).
    """
    compare(arguments, keep, "dial", {name: (SETTINGS[name], STEP) for name in arguments.settings or SETTINGS})


def batch(arguments: argparse.Namespace, keep: Keep) -> None:
    """As `dial`: as many tokens in all, with more or fewer of them in a step."""
    compare(arguments, keep, "batch", {f"{tokens:,} tokens": ({}, tokens) for tokens in arguments.batches})


def decay(arguments: argparse.Namespace, keep: Keep) -> None:
    """As `dial`: the share of the run in which the rate falls."""
    settings = {f"the last {share:.0%}": ({"decay_steps": share}, STEP) for share in arguments.shares}
    compare(arguments, keep, "decay", settings)


def compare(arguments: argparse.Namespace, keep: Keep, kind: str, settings: dict[str, tuple[Any, int]]) -> None:
    """One network with several settings (what training is told, tokens of a step), `--steps` of `STEP` tokens each."""
    from malmoi.presets.dial import size, train_defaults

    runs = [(network, text) for network in arguments.networks for text in arguments.texts if network != "race"]
    for network, text in [*runs, *([("race", "")] if "race" in arguments.networks else [])]:
        with tempfile.TemporaryDirectory() as folder:
            rates, length = {}, 64
            if text:
                files, shape = token_files(arguments.data, text, Path(folder)), network
                model = size(network, vocab_size=4096).model_dump(mode="json", exclude_defaults=True)
                rates = {key: getattr(train_defaults(network), key) for key in RATES}
                length = train_defaults(network).sequence_length
            else:
                files, shape, model = byte_files(arguments.data, Path(folder)), "1m", small(arguments, {})["model"]
            common = {**files, "kind": "malmoi", "shape": shape, "measure": "learn", "threads": 1, "model": model}
            chosen = {
                name: {
                    **common,
                    "train": {**rates, **train, "max_steps": arguments.steps * STEP // tokens},
                    "steps": arguments.steps * STEP // tokens,
                    "rows": tokens // length,
                }
                for name, (train, tokens) in settings.items()
            }
            part = f"{kind} {network}{', Korean' if text == 'Korean' else ''}, {arguments.steps:,} steps"

            def one(name: str, seed: int, part: str = part, chosen: dict[str, Any] = chosen) -> None:
                keep(part, name, seed, lambda: measure({**chosen[name], "seed": seed}))

            with ThreadPoolExecutor(arguments.together) as together:
                for seed in range(arguments.peer_seeds):
                    list(together.map(one, settings, [seed] * len(settings)))


def where(arguments: argparse.Namespace, keep: Keep) -> None:
    for shape, steps in (("1m", 5), ("10m", 3)):
        for name, task in (("malmoi, Muon", {}), ("malmoi, AdamW", {"train": {"optimizer": "adamw"}})):
            whole = {**fields(arguments), **task, "kind": "malmoi", "shape": shape, "measure": "where", "steps": steps}
            keep(f"where {shape}", name, 0, lambda task=whole: measure(task))


# --- keeping --------------------------------------------------------------------------------------------------------


class Keep:
    """Measurements by machine, part, contestant and turn, each made once: what was broken off goes on where it was.

    Figures of one machine never stand in a table with those of another, and two benchmarks may run at the same time:
    the file is read again, under a lock, before something is added to it.
    """

    def __init__(self, again: bool) -> None:
        self.again = again
        self.facts = machine()
        self.machine = f"{self.facts['cpu']} ({self.facts['instructions']}), {self.facts['cores']} cores"

    def found(self) -> dict[str, Any]:
        return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}

    def has(self, part: str, name: str, turn: int) -> bool:
        measured = self.found().get(self.machine, {}).get("measured", {})
        return str(turn) in measured.get(part, {}).get(name, {}) and not self.again

    def __call__(self, part: str, name: str, turn: int, make: Callable[[], dict[str, Any]]) -> None:
        if self.has(part, name, turn):
            return
        made = make()
        shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in made.items()}
        print(f"{part} | {name} | {turn}: {shown}", flush=True)
        folder = os.open(RESULT.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            found = self.found()
            here = found.setdefault(self.machine, {"measured": {}})
            here["facts"] = self.facts
            here["measured"].setdefault(part, {}).setdefault(name, {})[str(turn)] = made
            beside = RESULT.with_name(".train.json.writing")
            beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            beside.replace(RESULT)
            train_report.write(found)
        finally:
            os.close(folder)


def machine() -> dict[str, Any]:
    import torch

    from malmoi.train.precision import has_fast_bfloat16

    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    named = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    flags = next((line.split() for line in facts.splitlines() if line.startswith("flags")), [])
    return {
        "cpu": named[0] if named else platform.machine(),
        "instructions": " ".join(name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags),
        "bfloat16": has_fast_bfloat16(torch.device("cpu")),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


PARTS: dict[str, Callable[[argparse.Namespace, Keep], None]] = {
    "race": lambda arguments, keep: race(arguments, keep, RECIPES, "race"),
    "race256": lambda arguments, keep: race(arguments, keep, RECIPES_256, "race256"),
    "speed": speed,
    "gpu": gpu,
    "equal": equal,
    "clock": clock,
    "ablations": ablations,
    "rates": rates,
    "dial": dial,
    "batch": batch,
    "decay": decay,
    "where": where,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; none: write the report again")
    parser.add_argument("--data", type=Path, help="the folder with english/tinyshakespeare and the others")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--litgpt", type=Path, help="a folder that litgpt was installed into")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=2, help="of nanoGPT, which takes a minute and a half each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=["1m", "10m", "124m"])
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0])
    parser.add_argument("--texts", nargs="+", default=["Gutenberg", "Korean"])
    parser.add_argument("--only", nargs="+", choices=list(ABLATIONS), help="these rows of the ablations; default: all")
    parser.add_argument(
        "--networks", nargs="+", default=["nano"], choices=["race", "nano", "micro"], help="of the dial's runs"
    )
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), help="these of the dial's runs; default: all")
    parser.add_argument("--steps", type=int, default=1000, help="of the dial's, the batch's and the decay's runs")
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 1024, 512], help="tokens of a step")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="of the run, for decay")
    parser.add_argument("--together", type=int, help="how many of these runs at a time; default: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--choose", action="store_true", help="measure the race on a tenth of the training split")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    arguments = parser.parse_args()
    for name in ("data", "nanogpt", "litgpt"):
        if getattr(arguments, name):
            setattr(arguments, name, getattr(arguments, name).resolve())
    keep = Keep(arguments.again)
    for part in arguments.parts:
        PARTS[part](arguments, keep)
    train_report.write(keep.found())


if __name__ == "__main__":
    main()
