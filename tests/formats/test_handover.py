"""An export stands only when it gives back the model: every layout and type, and what happens when it does not."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from exported_models import LAYOUTS, SENTENCES, build, byte_level

from malmoi.config import MalmoiError
from malmoi.formats import gguf, gguf_tokenizer, handover
from malmoi.formats.handover import to_gguf, to_hf
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_exact_in_f32(layout: str, tmp_path: Path):
    made = to_gguf(build(layout), byte_level(), tmp_path / "model.gguf", "f32")
    assert made.path.stat().st_size == made.bytes
    assert (made.difference, made.divergence, made.loss) == (0, 0, made.rounded_loss)
    assert set(made.numbers) == {"f32"}
    assert list(tmp_path.iterdir()) == [made.path]


@pytest.mark.parametrize("kind", gguf.TYPES[1:])
def test_rounding_costs_what_it_says(kind: str, tmp_path: Path):
    model = build("qwen3")
    made = to_gguf(model, byte_level(), tmp_path / "model.gguf", kind)
    assert made.difference <= handover.TOLERANCE
    assert made.divergence > 0
    assert made.rounded_loss != made.loss
    assert made.bytes < to_gguf(model, byte_level(), tmp_path / "whole.gguf", "f32").bytes


@pytest.mark.slow
def test_fewer_bits_cost_more(tmp_path: Path):
    model = build("qwen3")
    cost = {kind: to_gguf(model, byte_level(), tmp_path / "m.gguf", kind).divergence for kind in gguf.TYPES}
    assert cost["f32"] < cost["f16"] < cost["bf16"] < cost["q8_0"] < cost["q4_0"]


def test_what_is_not_as_asked_is_told(tmp_path: Path):
    made = to_gguf(build("qwen3", intermediate_size=40), byte_level(), tmp_path / "m.gguf", "q4_0")
    told = " ".join(made.notes)
    assert "2 tensors stay f16" in told
    assert "8 bits" in told
    assert "ÉCOLE" in told
    yarn = LAYOUTS["yarn"]["rope_parameters"] | {"truncate": False}
    assert any(
        "ramp" in note
        for note in to_gguf(build("qwen3", rope_parameters=yarn), byte_level(), tmp_path / "y.gguf", "f32").notes
    )


def break_rows(writer, model, kind, finish=gguf.finish):
    with torch.no_grad():
        wrong = build("llama")
        wrong.model.layers[0].self_attn.q_proj.weight[0] += 1e-3
    finish(writer, wrong, kind)


def break_words(writer, vocabulary, write=gguf_tokenizer.write):
    tokens = list(vocabulary.tokens)
    tokens[-9], tokens[-10] = tokens[-10], tokens[-9]
    write(
        writer,
        gguf_tokenizer.Vocabulary(
            vocabulary.kind, vocabulary.pre, tokens, vocabulary.types, merges=vocabulary.merges, ids=vocabulary.ids
        ),
    )


def break_merges(writer, vocabulary, write=gguf_tokenizer.write):
    write(
        writer,
        gguf_tokenizer.Vocabulary(
            vocabulary.kind,
            vocabulary.pre,
            vocabulary.tokens,
            vocabulary.types,
            merges=vocabulary.merges[::-1],
            ids=vocabulary.ids,
        ),
    )


@pytest.mark.parametrize(
    ("where", "fault", "words"),
    [
        ("malmoi.formats.gguf.finish", break_rows, "does not give back"),
        ("malmoi.formats.gguf_tokenizer.write", break_words, "vocabulary"),
        ("malmoi.formats.gguf_tokenizer.write", break_merges, "Read back"),
    ],
)
def test_a_file_that_differs_does_not_stay(where: str, fault, words: str, tmp_path: Path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF of yesterday")
    monkeypatch.setattr(where, fault)
    with pytest.raises(MalmoiError, match=words):
        to_gguf(build("llama"), byte_level(), tmp_path / "model.gguf", "f32")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"GGUF of yesterday"]


def test_a_full_disk_is_seen_before_and_during(tmp_path: Path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MalmoiError, match=r"needs about .* GB"):
        to_gguf(build("qwen3"), byte_level(), tmp_path / "model.gguf")
    monkeypatch.undo()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("malmoi.formats.gguf.finish", full)
    with pytest.raises(MalmoiError, match=os.strerror(errno.ENOSPC)):
        to_gguf(build("qwen3"), byte_level(), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_nothing_else_is_overwritten(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "letter.txt").write_text("dear")
    with pytest.raises(MalmoiError, match="no GGUF file"):
        to_gguf(build("qwen3"), byte_level(), tmp_path / "letter.txt")
    for taken in ("letter.txt", "held"):
        with pytest.raises(MalmoiError, match="exists already"):
            to_hf(build("qwen3"), byte_level(), tmp_path / taken)
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["qwen3", "gpt2"])
def test_a_folder_opens_in_transformers_and_here(layout: str, tmp_path: Path):
    pytest.importorskip("transformers")
    model = build(layout, vocab_size=byte_level().vocab_size)
    made = to_hf(model, byte_level(), tmp_path / "for_others", "bf16")
    assert any("transformers opens it" in note for note in made.notes)
    again = GPT4LMHeadModel.from_pretrained(made.path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight.bfloat16())
    ids = GPT4Tokenizer.from_pretrained(made.path)
    assert all(ids.encode(text) == byte_level().encode(text) for text in SENTENCES)
    assert "for_others" in (made.path / "README.md").read_text()


def test_a_layout_of_our_own_says_so(tmp_path: Path):
    made = to_hf(build("qwen3", norm="layer_norm"), byte_level(), tmp_path / "own")
    assert any("Malmoi's own" in note for note in made.notes)


def test_a_folder_that_differs_does_not_stay(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("malmoi.formats.huggingface.load", lambda folder, dtype: build("llama").float())
    with pytest.raises(MalmoiError):
        to_hf(build("qwen3"), byte_level(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
