"""What a person points at, and the ways in which a model folder can be broken."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from malmoi.cli.folders import Speaker, model_folder, open_model, open_speaker
from malmoi.config import MalmoiError
from malmoi.generate.engine import generate
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.native.core import NativeModel
from malmoi.native.library import unavailable


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the model folder that a test may break."""
    return Path(shutil.copytree(finished_run / "model", tmp_path / "model"))


def test_a_run_means_its_model(finished_run: Path):
    assert model_folder(finished_run) == finished_run / "model"
    assert model_folder(str(finished_run / "model")) == finished_run / "model"
    model, tokenizer = open_model(finished_run)
    assert model.config.vocab_size == len(tokenizer)
    assert not model.training


def test_a_name_that_is_no_folder_is_passed_on():
    assert model_folder("someone/some-model") == "someone/some-model"


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("data: {}", encoding="utf-8")
    (tmp_path / "tokens").mkdir()
    with pytest.raises(MalmoiError, match="--resume"):
        model_folder(tmp_path)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lie_about_the_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def misshape(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "intermediate_size": 64}), encoding="utf-8")


def other_tokenizer(folder: Path) -> None:
    from malmoi.tokens.vocabulary import learn

    learn(["other words, other merges, other words " * 50], 285).save_pretrained(folder)


def larger_tokenizer(folder: Path) -> None:
    from malmoi.tokens.vocabulary import learn

    learn([f"word{number} again word{number} " for number in range(2000)] * 2, 600).save_pretrained(folder)


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def garbage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "model.safetensors"),
        (remove_weights, "model.safetensors"),
        (lie_about_the_header, "model.safetensors"),
        (misshape, "mlp"),
        (other_tokenizer, "tokenizer"),
        (larger_tokenizer, "tokenizer"),
        (remove_config, "config.json"),
        (garbage_config, "config.json"),
    ],
)
def test_a_broken_model_folder_is_one_clear_error(malmoi, folder: Path, damage, word: str):
    damage(folder)
    malmoi("generate", folder, "The cat").is_one_clear_error(word, str(folder))


def test_weights_that_were_never_published(malmoi):
    malmoi("generate", "openai/gpt-4", "Hello").is_one_clear_error("never published", "quickstart")


# ------------------------------------------------------------------ speakers

needs_the_engine = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@pytest.fixture
def rounded(malmoi, finished_run: Path, tmp_path: Path) -> Path:
    """The run's model, quantised."""
    assert malmoi("quantise", finished_run, "--method", "nearest", "--out", tmp_path / "int8").code == 0
    return tmp_path / "int8"


def said_by(speaker: Speaker, prompt: str = "The cat") -> str:
    made = generate(
        speaker.backend,
        speaker.tokenizer.encode(prompt),
        tokenizer=speaker.tokenizer,
        max_new_tokens=12,
        temperature=0,
    )
    assert made.texts is not None
    return made.texts[0]


@needs_the_engine
def test_a_trained_model_speaks_natively_as_it_does_in_torch(finished_run: Path):
    native, torch = open_speaker(finished_run, threads=1), open_speaker(finished_run, "torch")
    assert isinstance(native.backend, NativeModel)
    assert native.engine.startswith("native, float32")
    assert torch.engine == "torch, float32, cpu"
    assert native.note is torch.note is None
    assert native.generation_config == torch.generation_config
    assert native.generation_config.temperature == 0.7
    assert said_by(native) == said_by(torch)


@needs_the_engine
def test_a_quantised_folder_speaks_with_its_own_settings(rounded: Path, finished_run: Path):
    speaker, plain = open_speaker(rounded, num_blocks=9, threads=1), open_speaker(finished_run, "torch")
    assert speaker.engine.startswith("native, int8")
    assert speaker.backend.num_blocks == 9
    assert speaker.generation_config == plain.generation_config
    assert speaker.tokenizer.encode("The cat") == plain.tokenizer.encode("The cat")
    assert len(said_by(speaker)) > 0


@needs_the_engine
def test_a_quantised_folder_is_heard_without_torch(rounded: Path):
    code = """
import sys
from malmoi.cli import main
code = main(["generate", sys.argv[1], "The cat", "-m", "5", "-t", "0", "--trace"])
code += main(["chat", sys.argv[1], "-m", "5"])
print(code, [name for name in ("torch", "transformers") if name in sys.modules])
"""
    line = [sys.executable, "-c", code, str(rounded)]
    outcome = subprocess.run(line, capture_output=True, text=True, encoding="utf-8", input="Hi\n", check=True)
    assert outcome.stdout.startswith("The cat")
    assert outcome.stdout.endswith("0 []\n")
    assert outcome.stderr == ""


@needs_the_engine
def test_a_quantised_folder_is_for_the_native_engine_only(malmoi, rounded: Path):
    malmoi("generate", rounded, "x", "--backend", "torch").is_one_clear_error("quantised", "--backend")
    malmoi("export", rounded, "--to", "gguf").is_one_clear_error("malmoi quantise", str(rounded))


@needs_the_engine
def test_a_quantised_folder_is_measured_as_the_model_it_was_made_from(
    malmoi, rounded: Path, finished_run: Path, tmp_path
):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat, and the dog lay under it.\n" * 20, encoding="utf-8")
    found = [
        json.loads(malmoi("eval", folder, "--text", text, "--json").out)["texts"][0]
        for folder in (rounded, finished_run)
    ]
    assert found[0]["tokens"] == found[1]["tokens"]
    assert 0 < abs(found[0]["bits_per_byte"] - found[1]["bits_per_byte"]) < 0.01 * found[1]["bits_per_byte"]
    answers = json.loads(malmoi("eval", rounded, "-n", 1, "--json").out)
    assert answers["total"]["n"] > 0


@needs_the_engine
@pytest.mark.parametrize("damage", [truncate, remove_weights, lie_about_the_header, other_tokenizer, larger_tokenizer])
def test_a_broken_quantised_folder_is_one_clear_error(malmoi, rounded: Path, damage):
    damage(rounded)
    malmoi("generate", rounded, "The cat").is_one_clear_error(str(rounded))


def test_a_model_that_the_native_engine_does_not_know_speaks_in_torch(malmoi, finished_run: Path, tmp_path: Path):
    model, tokenizer = open_model(finished_run)
    GPT4LMHeadModel(model.config.replace(ngram_sizes=(2,), ngram_vocab_size=64)).save_pretrained(tmp_path / "n")
    tokenizer.save_pretrained(tmp_path / "n")
    outcome = malmoi("generate", tmp_path / "n", "The cat", "-m", 3, "-t", 0)
    assert outcome.code == 0, outcome.err
    assert "torch, float32, cpu" in outcome.err
    assert "ngram_sizes" in outcome.err
    malmoi("generate", tmp_path / "n", "x", "--backend", "native").is_one_clear_error("ngram_sizes", "native")
    assert malmoi("generate", tmp_path / "n", "The cat", "-m", 3, "--backend", "torch").err == ""


def test_without_a_gpu_one_line_says_so(malmoi, finished_run: Path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    malmoi("generate", finished_run, "x", "--backend", "cuda").is_one_clear_error("no GPU", "malmoi doctor")


def test_without_the_engine_torch_speaks_and_one_line_says_so(malmoi, finished_run: Path, monkeypatch):
    monkeypatch.setattr("malmoi.native.library.unavailable", lambda: "The native engine is not built here.")
    outcome = malmoi("generate", finished_run, "The cat", "-m", 3, "-t", 0)
    assert outcome.code == 0
    assert outcome.err == "(torch, float32, cpu: The native engine is not built here.)\n"
