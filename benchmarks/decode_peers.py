"""What decode.py compares: programs installed each into an environment of its own, and the models in their formats.

Weights are made once, as a folder that transformers reads, and handed on from there: GGUF files by `malmoi export`,
the native engine's folders by `malmoi quantise`, CTranslate2's and OpenVINO's by their own converters.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent

# Versions are named, so that the same programs are measured again. torch comes first and by itself: what follows then
# keeps the build for CPUs. optimum-intel has wishes of its own about torch, so it gets an environment apart.
TORCH = ("torch==2.13.0",)
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "transformers": (TORCH, ("transformers==5.23.0", "ctranslate2==4.8.5")),  # with it: CTranslate2's converter
    "ctranslate2": (("ctranslate2==4.8.5",),),
    "openvino": (("openvino-genai==2026.4.1.0",),),
    "openvino-export": (TORCH, ("optimum-intel[openvino]==2.2.0",)),
    # Compiled on this machine for its own instructions; the wheels of llama.cpp stop at AVX2.
    "llama.cpp": (("numpy",), ("--no-binary", "llama-cpp-python", "llama-cpp-python==0.3.36")),
}


class UnavailableError(Exception):
    """A peer or a format that cannot be had here; its row says why."""


def _last_line(text: str) -> str:
    """What a failed command said last that a person would want to read."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice"))]
    told = [line for line in lines if re.search(r"error|not ", line, re.IGNORECASE)] or lines or ["it said nothing"]
    return told[-1][:200]


def run(command: Sequence[str | Path], log: Path, **more: str) -> None:
    """A command whose output goes to a log; raises `UnavailableError` with its last word."""
    with log.open("w", encoding="utf-8") as out:
        made = subprocess.run(
            [str(part) for part in command], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **more}
        )
    if made.returncode:
        raise UnavailableError(_last_line(log.read_text(encoding="utf-8", errors="replace")))


class Peers:
    """The environments, in one folder; each is installed when it is first asked for, and only once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.failed = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def python(self, name: str) -> Path:
        """The interpreter of an environment."""
        if name in self.failed:
            raise UnavailableError(self.failed[name])
        place, log = self.folder / name, self.folder / f"{name}.log"
        ready, interpreter = place / "installed.txt", place / "bin" / "python"
        wanted = "\n".join(" ".join(step) for step in ENVIRONMENTS[name]) + "\n"
        if not ready.is_file() or ready.read_text(encoding="utf-8") != wanted:
            print(f"installing {name} ...", flush=True)
            try:
                run([sys.executable, "-m", "venv", place], log)
                for step in ENVIRONMENTS[name]:
                    run(
                        [interpreter, "-m", "pip", "install", "--no-compile", "--quiet", *step],
                        log,
                        CMAKE_ARGS="-DGGML_NATIVE=ON",
                        CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count() or 1),
                    )
            except UnavailableError as error:
                self.failed[name] = f"cannot be installed: {error}"
                raise UnavailableError(self.failed[name]) from None
            ready.write_text(wanted, encoding="utf-8")
        return interpreter


class Models:
    """One model's weights in every format, in one folder; each format is made when it is first asked for.

    `method` is ours of rounding: random weights need no care.
    """

    def __init__(self, folder: Path, peers: Peers, make: Callable[[Path], None], method: str = "calibrated") -> None:
        self.folder, self.peers, self._make, self.method, self.failed = folder, peers, make, method, {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def source(self) -> Path:
        """The folder that transformers reads, float32."""
        place = self.folder / "hf"
        if not (place / "config.json").is_file():
            self._make(place)
        return place

    def path(self, form: str) -> Path:
        """A format by its name: "hf", "malmoi int8", "gguf q8_0", "ct2", "openvino int8" ..."""
        if form in self.failed:
            raise UnavailableError(self.failed[form])
        program, _, kind = form.partition(" ")
        if program == "hf":
            return self.source
        place = self.folder / (f"{kind}.gguf" if program == "gguf" else form.replace(" ", "-").replace("/", "-"))
        if place.exists():
            return place
        print(f"making {place} ...", flush=True)
        new = place.with_name(f"new-{place.name}")
        shutil.rmtree(new, ignore_errors=True)
        try:
            run(self._command(program, kind, new), self.folder / f"{place.name}.log", HF_HUB_OFFLINE="1")
        except UnavailableError as error:
            self.failed[form] = f"cannot be converted: {error}"
            raise UnavailableError(self.failed[form]) from None
        if program == "ct2":
            _name_tokens(new)
        new.rename(place)
        return place

    def bytes_read(self, form: str) -> int:
        """The weights' bytes in a peer's file, all of which are read for a token; without a table of positions."""
        place = self.path(form)
        match form.partition(" ")[0]:
            case "gguf":
                from gguf import GGUFReader

                held = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(place).tensors}
                untied = "output.weight" in held
                looked_up = {"position_embd.weight", *(["token_embd.weight"] if untied else [])}
                return sum(size for name, size in held.items() if name not in looked_up)
            case "ct2":
                return (place / "model.bin").stat().st_size
            case _:
                return (place / "openvino_model.bin").stat().st_size

    def _command(self, program: str, kind: str, place: Path) -> list[str | Path]:
        malmoi = [sys.executable, "-m", "malmoi"]
        match program:
            case "malmoi":
                to, _, head = kind.partition("/")
                rounding = ["--method", self.method, *(["--head", head] * bool(head))]
                return [*malmoi, "quantise", self.source, "--to", to, "--out", place, *rounding]
            case "gguf":
                return [*malmoi, "export", self.source, "--to", "gguf", "--type", kind, "--out", place]
            case "ct2":
                converter = self.peers.python("transformers").with_name("ct2-transformers-converter")
                return [converter, "--model", self.source, "--output_dir", place, "--quantization", kind]
            case "openvino":
                optimum = self.peers.python("openvino-export").with_name("optimum-cli")
                task = ["--task", "text-generation-with-past", "--weight-format", kind]
                return [optimum, "export", "openvino", "--model", self.source, *task, place]
        raise KeyError(program)


def _name_tokens(folder: Path) -> None:
    """CTranslate2 wants a name for every role of a token, also where the tokenizer has none."""
    file = folder / "config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    named = next(value for value in (*said.values(), "<|endoftext|>") if isinstance(value, str) and "|" in value)
    said = {key: named if value is None and key.endswith("_token") else value for key, value in said.items()}
    file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


# --- making weights ---------------------------------------------------------------------------------------------------


def made_up_tokenizer(size: int, ends: int) -> object:
    """A vocabulary of any size: the bytes, then pairs of them. `ends` is the id of the end of text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from malmoi.tokens.tokenizer import END_OF_TEXT, GPT4Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in letters for b in letters][: size - 1 - len(letters)]
    words = [*letters, *(a + b for a, b in pairs)]
    words.insert(ends, END_OF_TEXT)
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    return GPT4Tokenizer(tokenizer, settings)


def random_weights(name: str) -> Callable[[Path], None]:
    """A maker of the preset `name` with random weights: speed does not depend on what they say."""

    def make(place: Path) -> None:
        import torch

        from malmoi.model.gpt import GPT4LMHeadModel
        from malmoi.presets.dial import size
        from malmoi.presets.openai import gpt2

        torch.manual_seed(0)
        config = gpt2() if name == "gpt2" else size(name)
        model = GPT4LMHeadModel(config).eval()
        ends = config.eos_token_id
        _save(model, made_up_tokenizer(config.vocab_size, ends[0] if isinstance(ends, tuple) else ends or 0), place)

    return make


def trained(data: Path | None, given: Path | None, minutes: float) -> Callable[[Path], None]:
    """A maker of a small GPT-2 that learned from children's books for some minutes, or a copy of a `given` folder."""

    def make(place: Path) -> None:
        from malmoi.model.gpt import GPT4LMHeadModel
        from malmoi.tokens.tokenizer import GPT4Tokenizer

        if given is not None:
            _save(GPT4LMHeadModel.from_pretrained(given), GPT4Tokenizer.from_pretrained(given), place)
            return
        if data is None:
            raise UnavailableError("needs --data or --quality-model")
        import yaml

        books = data / "english" / "gutenberg_children_books"
        recipe = {
            "data": {
                "sources": [{"path": str(books / "train.jsonl.xz")}],
                "validation": [{"path": str(books / "valid.jsonl.xz")}],
            },
            "size": "nano",
            "vocab_size": 4096,
            "model": QUALITY,
            "train": {"max_minutes": minutes, "sequence_length": 256, "per_device_train_batch_size": 8},
        }
        file, out = place.with_name("recipe.yaml"), place.with_name("run")
        file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        run([sys.executable, "-m", "malmoi", "train", file, "--out", out], place.with_name("train.log"))
        _save(GPT4LMHeadModel.from_pretrained(out / "model"), GPT4Tokenizer.from_pretrained(out / "model"), place)

    return make


# GPT-2's layout, which every peer opens: learned positions, LayerNorm, biases, a plain feed-forward layer.
QUALITY = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1024,
    "max_position_embeddings": 256,
    "positions": "learned",
    "norm": "layer_norm",
    "norm_eps": 1e-5,
    "qk_norm": False,
    "feed_forward": "plain",
    "hidden_act": "gelu_pytorch_tanh",
    "attention_bias": True,
    "mlp_bias": True,
}


def _save(model: object, tokenizer: object, place: Path) -> None:
    model.save_pretrained(place)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save_pretrained(place)  # pyright: ignore[reportAttributeAccessIssue]
