"""One program with one model in a process of its own, asked by decode.py: JSON lines in, JSON lines out.

    {"do": "open", "program": "llama.cpp", "path": ..., "threads": 2, ...}    names, versions, bytes read for a token
    {"do": "write", "prompts": [[ids], ...], "count": 48}                     [[seconds, tokens], ...], a pair a step
    {"do": "score", "rows": [[ids], ...]}                                     nats of all tokens but each row's first
    {"do": "memory"}                                                          the process' highest, in bytes

Every program decodes greedily through the leanest way that it offers for tokens in and tokens out, with nothing kept
from one question to the next. This file runs in the environments of the peers: it imports nothing of ours at the top.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Steps = list[tuple[float, int]]  # after so many seconds, so many more tokens were known
Rows = list[list[int]]


class Contestant(Protocol):
    def facts(self) -> dict[str, Any]: ...
    def write(self, prompts: Rows, count: int) -> Steps: ...
    def score(self, rows: Rows) -> float: ...


def nats_of(logits: Any, row: list[int]) -> float:
    """Nats of row[1:], from the logits (T, V) of row[:-1] or more; probabilities in their logarithms do as well."""
    scores = np.asarray(logits[: len(row) - 1], np.float64)
    highest = scores.max(-1, keepdims=True)
    whole = np.log(np.exp(scores - highest).sum(-1)) + highest[:, 0]
    return float((whole - scores[np.arange(len(row) - 1), row[1:]]).sum())


class Timed:
    """The compiled library, counting the seconds within its step, so that those around it are known."""

    def __init__(self, library: Any) -> None:
        self.library, self.inside = library, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def malmoi_step(self, *given: Any) -> int:
        start = time.perf_counter()
        status = self.library.malmoi_step(*given)
        self.inside += time.perf_counter() - start
        return status


class Malmoi:
    """The engine over the native model: what a server does, without guesses and without kept prompts."""

    timed: Timed | None = None

    def __init__(self, task: dict[str, Any]) -> None:
        from malmoi.generate.engine import Engine
        from malmoi.native.core import NativeModel

        self.model = NativeModel.open(task["path"], num_blocks=256, threads=task["threads"])
        self.engine = Engine(self.model, prefix_cache=False, speculation=False)
        if task.get("timed"):
            self.model._library = self.timed = Timed(self.model._library)

    def facts(self) -> dict[str, Any]:
        instructions = self.model.instructions
        return {"version": version("malmoi"), "bytes": self.model.weight_bytes, "instructions": instructions}

    def write(self, prompts: Rows, count: int) -> Steps:
        from malmoi.config import GenerationConfig
        from malmoi.generate.request import Request

        settings = GenerationConfig(max_new_tokens=count, temperature=0, eos_token_id=())
        steps = []
        if self.timed is not None:
            self.timed.inside = 0.0
        start = time.perf_counter()
        for prompt in prompts:
            self.engine.submit(Request(prompt, settings))
        while self.engine.busy:
            tokens = self.engine.step()
            if any(token.error for token in tokens):
                raise RuntimeError(str(tokens[0].error))
            if tokens:
                steps.append((time.perf_counter() - start, len(tokens)))
        return steps

    def score(self, rows: Rows) -> float:
        nats = 0.0
        for row in rows:
            length = len(row) - 1
            table = np.arange(-(-length // self.model.block_size))[None]
            places = np.arange(length)
            nats += nats_of(self.model.step(row[:-1], places, np.zeros(length, int), table, places), row)
        return nats


class Transformers:
    """The model's own forward pass and its cache in a plain loop, which is quicker than its `generate`."""

    def __init__(self, task: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(task["threads"])
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(task["path"], dtype=getattr(torch, task["kind"])).eval()

    def facts(self) -> dict[str, Any]:
        places = sum(p.numel() * p.element_size() for name, p in self.model.named_parameters() if "wpe" in name)
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters()) - places
        return {"version": f"{version('transformers')}, torch {version('torch')}", "bytes": weights}

    def write(self, prompts: Rows, count: int) -> Steps:
        torch, steps = self.torch, []
        start = time.perf_counter()
        with torch.inference_mode():
            ids, past = torch.tensor(prompts), None
            for _ in range(count):
                made = self.model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                ids, past = made.logits[:, -1:].argmax(-1), made.past_key_values
                steps.append((time.perf_counter() - start, len(prompts)))
        return steps

    def score(self, rows: Rows) -> float:
        with self.torch.inference_mode():
            return sum(nats_of(self.model(self.torch.tensor([row])).logits[0].float().numpy(), row) for row in rows)


class CTranslate2:
    def __init__(self, task: dict[str, Any]) -> None:
        import ctranslate2

        self.ctranslate2, path = ctranslate2, Path(task["path"])
        self.generator = ctranslate2.Generator(
            str(path), device="cpu", compute_type=task["kind"], intra_threads=task["threads"], inter_threads=1
        )
        self.words = json.loads((path / "vocabulary.json").read_text(encoding="utf-8"))
        self.size = (path / "model.bin").stat().st_size

    def facts(self) -> dict[str, Any]:
        return {"version": version("ctranslate2"), "compute type": self.generator.compute_type}

    def write(self, prompts: Rows, count: int) -> Steps:
        told = [[self.words[token] for token in prompt] for prompt in prompts]
        steps: Steps = []

        def heard(_: Any) -> bool:
            steps.append((time.perf_counter() - start, 1))
            return False

        start = time.perf_counter()
        self.generator.generate_batch(
            told,
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            callback=heard,
        )
        return steps

    def score(self, rows: Rows) -> float:
        nats = 0.0
        for row in rows:
            logits = self.generator.forward_batch([row])
            nats += nats_of(np.array(logits.to(self.ctranslate2.DataType.float32))[0], row)
        return nats


class LlamaCpp:
    """llama.cpp's own C interface."""

    def __init__(self, task: dict[str, Any]) -> None:
        import llama_cpp as c

        self.c, self.path = c, task["path"]
        c.llama_backend_init()
        c.llama_log_set(self._quiet(), None)
        asked = c.llama_model_default_params()
        asked.load_mode = c.LLAMA_LOAD_MODE_MMAP if task.get("mapped") else c.LLAMA_LOAD_MODE_NONE
        self.model = c.llama_model_load_from_file(self.path.encode(), asked)
        wishes = c.llama_context_default_params()
        wishes.n_ctx, wishes.n_batch, wishes.n_ubatch, wishes.n_seq_max = 2048, 2048, 512, 16
        wishes.n_threads = wishes.n_threads_batch = task["threads"]
        wishes.no_perf = True
        wishes.kv_unified = True
        wishes.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_AUTO
        self.context = c.llama_init_from_model(self.model, wishes)
        if not self.model or not self.context:
            raise RuntimeError("llama.cpp cannot open the file")
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(2048, 0, 1)

    def _quiet(self) -> Any:
        self.told: list[str] = []
        self.listener = self.c.llama_log_callback(lambda _, text, __: self.told.append(text.decode(errors="replace")))
        return self.listener

    def facts(self) -> dict[str, Any]:
        system = self.c.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {version('llama-cpp-python')}", "instructions": system}

    def _read(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of token, position, sequence and whether its logits are wanted."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for place, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        if self.c.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")

    def _logits(self, place: int) -> np.ndarray:
        return np.ctypeslib.as_array(self.c.llama_get_logits_ith(self.context, place), (self.vocabulary,))

    def _forget(self) -> None:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), False)

    def write(self, prompts: Rows, count: int) -> Steps:
        self._forget()
        steps, start = [], time.perf_counter()
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for _ in range(count):
            self._read(rows)
            wanted = [place for place, row in enumerate(rows) if row[3]]
            ends = [rows[place] for place in wanted]
            chosen = [int(self._logits(place).argmax()) for place in wanted]
            steps.append((time.perf_counter() - start, len(chosen)))
            rows = [(token, row[1] + 1, row[2], True) for token, row in zip(chosen, ends, strict=True)]
        return steps

    def score(self, rows: Rows) -> float:
        nats = 0.0
        for row in rows:
            self._forget()
            self._read([(token, position, 0, True) for position, token in enumerate(row[:-1])])
            nats += nats_of(np.stack([self._logits(place) for place in range(len(row) - 1)]), row)
        return nats


class Paged:
    """OpenVINO GenAI's continuous batching over its paged attention."""

    def __init__(self, task: dict[str, Any]) -> None:
        import openvino_genai as genai

        self.genai, self.path, self.asked = genai, task["path"], openvino_settings(task)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = 512
        self.pipeline = genai.ContinuousBatchingPipeline(self.path, scheduler, "CPU", self.asked)
        self.number = 0

    def facts(self) -> dict[str, Any]:
        return {"version": version("openvino-genai"), "settings": self.asked}

    def write(self, prompts: Rows, count: int) -> Steps:
        from openvino import Tensor

        settings = self.genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        steps, start = [], time.perf_counter()
        handles = []
        for prompt in prompts:
            self.number += 1
            handles.append(self.pipeline.add_request(self.number, Tensor(np.array([prompt], np.int64)), settings))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            heard = time.perf_counter() - start
            tokens = 0
            for handle in handles:
                while handle.can_read():
                    tokens += sum(len(made.generated_ids) for made in handle.read().values())
            steps.append((heard, tokens))
        return [(heard, tokens) for heard, tokens in steps if tokens]

    def score(self, rows: Rows) -> float:
        raise RuntimeError("is scored without pages")


class Stateful:
    """OpenVINO without pages: the same file in a plain loop, its cache kept as the network's state."""

    def __init__(self, task: dict[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        self.asked = openvino_settings(task)
        self.model = core.compile_model(f"{task['path']}/openvino_model.xml", "CPU", self.asked)
        self.inputs = {name for port in self.model.inputs for name in port.get_names()}
        self.request = self.model.create_infer_request()

    def facts(self) -> dict[str, Any]:
        return {"version": version("openvino"), "settings": self.asked}

    def _read(self, ids: np.ndarray, before: int) -> np.ndarray:
        count, length = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((count, before + length), np.int64),
            "position_ids": np.tile(np.arange(before, before + length), (count, 1)),
            "beam_idx": np.arange(count, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in given.items() if name in self.inputs}, share_inputs=True)
        return self.request.get_output_tensor(0).data

    def write(self, prompts: Rows, count: int) -> Steps:
        self.request.reset_state()
        steps, start = [], time.perf_counter()
        ids, before = np.array(prompts, np.int64), 0
        for _ in range(count):
            logits = self._read(ids, before)
            before += ids.shape[1]
            ids = logits[:, -1:].argmax(-1).astype(np.int64)
            steps.append((time.perf_counter() - start, len(prompts)))
        return steps

    def score(self, rows: Rows) -> float:
        nats = 0.0
        for row in rows:
            self.request.reset_state()
            nats += nats_of(self._read(np.array([row], np.int64), 0)[0], row)
        return nats


def openvino_settings(task: dict[str, Any]) -> dict[str, Any]:
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": task["threads"], **task.get("settings", {})}


PROGRAMS: dict[str, type[Any]] = {
    "malmoi": Malmoi,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
    "openvino paged": Paged,
    "openvino": Stateful,
}


def answer(made: list[Contestant], task: dict[str, Any]) -> Any:
    match task["do"]:
        case "open":
            made.append(PROGRAMS[task["program"]](task))
            return made[0].facts()
        case "write":
            steps = made[0].write(task["prompts"], task["count"])
            expected, got = len(task["prompts"]) * task["count"], sum(tokens for _, tokens in steps)
            if got != expected:
                raise RuntimeError(f"wrote {got} tokens instead of {expected}")
            timed = getattr(made[0], "timed", None)
            return {"steps": steps, "inside": timed.inside if timed else None}
        case "score":
            return made[0].score(task["rows"])
        case "memory":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    raise KeyError(task["do"])


def main() -> None:
    heard = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    made: list[Contestant] = []
    for line in sys.stdin:
        try:
            told = {"answer": answer(made, json.loads(line))}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        heard.write(json.dumps(told) + "\n")
        heard.flush()


if __name__ == "__main__":
    main()
