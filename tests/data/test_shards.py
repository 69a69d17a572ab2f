"""Building a token file: exact, the same for any number of workers, whole or not at all."""

import errno
import functools
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from malmoi import GPT4Tokenizer
from malmoi.config import MalmoiError
from malmoi.data import shards
from malmoi.data.corpus import Document
from malmoi.data.shards import build, id_dtype
from malmoi.data.tokenfile import TokenFile

SMALL = {"shard_documents": 40}


def made(start: int, stop: int) -> list[Document]:
    """Texts in three languages and, every ninth, a conversation. (Of a module, so that workers can make them.)"""
    texts = ("The cat number {} drinks.", "고양이 {}마리가 우유를 마신다.", "Le chat numéro {} boit.\n\nFin.")
    documents = []
    for number in range(start, stop):
        text = texts[number % 3].format(number) * (1 + number % 4)
        if number % 9 == 8:
            turns = ({"role": "user", "content": text}, {"role": "assistant", "content": f"{number}!"})
            documents.append(Document(messages=turns, source="talk", id=f"talk {number}", license="MIT"))
        else:
            documents.append(Document(text=text, source="tales", id=f"tale {number}", license="CC0"))
    return documents


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_what_is_built_is_what_was_said(tokenizer, tmp_path):
    documents = made(0, 100)
    token_file = build(iter(documents), tokenizer, tmp_path / "a" / "tokens", **SMALL)
    assert token_file.num_documents == 100 and len(token_file.shards) == 3
    for number, document in enumerate(documents):
        ids = token_file.ids(number)
        assert ids[-1] == tokenizer.eos_token_id and ids.dtype == np.uint16
        assert token_file.name(number) == document.id
        if document.messages is None:
            assert tokenizer.decode(ids[:-1]) == document.text
            assert list(ids[:-1]) == tokenizer.encode(document.text)
            assert token_file.loss_mask(number).all()
            record = token_file.documents[number]
            assert record["bytes"] == len(document.text.encode())
            assert record["hash"] == int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:8], "little")
        else:
            from malmoi.tokens import chat

            rendered, mask = chat.render(tokenizer, document.messages)
            assert list(ids[: len(rendered)]) == rendered
            assert list(token_file.loss_mask(number)[: len(mask)]) == mask and token_file.loss_mask(number)[-1] == 1
        assert token_file.sources[token_file.documents[number]["source"]].name == document.source
    assert token_file.num_tokens == sum(len(token_file.ids(number)) for number in range(100)) == token_file.offsets[-1]
    tales, talk = token_file.sources
    assert (tales.name, tales.license, tales.documents) == ("tales", "CC0", 89)
    assert (talk.name, talk.license, talk.documents) == ("talk", "MIT", 11)
    assert tales.tokens + talk.tokens == token_file.num_tokens and tales.bytes + talk.bytes == token_file.num_bytes
    token_file.verify()


def test_text_can_never_become_a_control_token(tokenizer, tmp_path):
    token_file = build([Document(text="a <|endoftext|> b"), Document(text="<|end|>")], tokenizer, tmp_path / "tokens")
    special = set(tokenizer.special_tokens.values())
    assert not any(special & set(token_file.ids(number)[:-1].tolist()) for number in (0, 1))


@pytest.mark.parametrize(
    "text", ["one two\nthree four\nfive", "아침 먹었어요?\n네, 먹었어요.\n그래요?", "🐈‍⬛ a\n🐈 b\nc"]
)
def test_what_is_given_is_read_but_not_learned(tokenizer, tmp_path, text):
    first, second = text.index("\n") + 1, text.rindex("\n") + 1
    documents = [Document(text=text, given=((0, first), (second, len(text)))), Document(text=text)]
    made = build(documents, tokenizer, tmp_path / "tokens")
    ids, mask = made.ids(0), made.loss_mask(0)
    learned = b"".join(tokenizer.token_bytes(token) for token, bit in zip(ids[:-1], mask[:-1], strict=True) if bit)
    assert learned.decode() == text[first:second]
    assert mask[-1] == 1  # to stop is learned
    assert made.loss_mask(1).all()


def test_what_is_given_is_found_behind_what_a_tokenizer_from_elsewhere_puts_first(tmp_path):
    """Llama 2's kind begins every text with <s> and a space."""
    text = "question? answer"
    pieces = ["<unk>", "<s>", "</s>", "▁", *sorted({*text} - {" "})]
    inner = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    inner.add_special_tokens(pieces[:3])
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = GPT4Tokenizer(inner, {"eos_token": "</s>"})
    made = build([Document(text=text, given=((0, text.index(" ")),))], tokenizer, tmp_path / "tokens")
    ids, mask = made.ids(0), made.loss_mask(0)
    assert ids[0] == 1 and mask[0] == 0
    assert tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if not bit][1:]) == "question?"
    assert b"".join(tokenizer.token_bytes(token) for token in ids[mask == 1]) == b" answer</s>"


def test_the_ruler_measures_text(tokenizer, tmp_path):
    token_file = build(made(0, 8), tokenizer, tmp_path / "tokens")
    for number in range(8):
        assert token_file.token_bytes[token_file.ids(number)].sum() == token_file.documents[number]["bytes"]
    assert all(token_file.token_bytes[list(tokenizer.special_tokens.values())] == 0)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(tokenizer, tmp_path):
    alone = build(iter(made(0, 150)), tokenizer, tmp_path / "alone", **SMALL)
    together = build(iter(made(0, 150)), tokenizer, tmp_path / "together", workers=2, **SMALL)
    assert len(alone.shards) == 4 and "shard-00003.ids" in contents(alone.folder)
    assert contents(alone.folder) == contents(together.folder)


@pytest.mark.parametrize("workers", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_parts_are_shards(tokenizer, tmp_path, workers):
    whole = build(iter(made(0, 150)), tokenizer, tmp_path / "whole", **SMALL)
    parts = [functools.partial(made, start, min(start + 40, 150)) for start in range(0, 150, 40)]
    assert contents(build(parts, tokenizer, tmp_path / "parts", workers=workers).folder) == contents(whole.folder)


def test_shards_are_cut_by_size_too(tokenizer, tmp_path):
    token_file = build(made(0, 30), tokenizer, tmp_path / "tokens", shard_characters=300)
    assert len(token_file.shards) > 4
    assert all(len(token_file.ids(number)) for number in range(30))


def test_ids_are_as_wide_as_the_vocabulary_needs(tokenizer, tmp_path):
    assert id_dtype(65_536) == np.dtype("<u2") and id_dtype(65_537) == np.dtype("<u4")

    class Wide:
        """The same tokenizer, its ids moved beyond 16 bits."""

        def __len__(self):
            return 70_000 + len(tokenizer)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def encode_batch(self, texts):
            return [[70_000 + token for token in ids] for ids in tokenizer.encode_batch(texts)]

        def token_bytes(self, token):
            return b"" if token < 70_000 else tokenizer.token_bytes(token - 70_000)

    token_file = build([Document(text="wide words")], Wide(), tmp_path / "tokens")
    assert token_file.ids(0).dtype == np.uint32
    assert tokenizer.decode(token_file.ids(0)[:-1].astype(np.int64) - 70_000) == "wide words"


def test_progress_is_told(tokenizer, tmp_path):
    told = []
    token_file = build(made(0, 100), tokenizer, tmp_path / "t", progress=lambda *numbers: told.append(numbers), **SMALL)
    assert told == sorted(told) and len(told) >= 3
    assert told[-1] == (100, token_file.num_tokens, token_file.num_bytes)


def test_what_cannot_be_built(tokenizer, tmp_path):
    with pytest.raises(MalmoiError, match="no document"):
        build([], tokenizer, tmp_path / "tokens")
    with pytest.raises(MalmoiError, match=r"held_out=0\.7 is not between"):
        build(made(0, 3), tokenizer, tmp_path / "tokens", held_out=0.7)
    with pytest.raises(MalmoiError, match="Document x: character 1 is half of a character"):
        build([Document(text="a\ud83d", id="x")], tokenizer, tmp_path / "tokens")
    with pytest.raises(MalmoiError, match=r"Document y: messages\[0\].*'usr'"):
        build([Document(messages=({"role": "usr", "content": "a"},), id="y")], tokenizer, tmp_path / "tokens")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MalmoiError, match="cannot be written"):
        build(made(0, 3), tokenizer, tmp_path / "file" / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_not_overwritten_unless_asked(tokenizer, tmp_path):
    folder = tmp_path / "tokens"
    build(made(0, 3), tokenizer, folder)
    with pytest.raises(MalmoiError, match="is already there"):
        build(made(0, 5), tokenizer, folder)
    assert build(made(0, 5), tokenizer, folder, overwrite=True).num_documents == 5
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_text("x")
    with pytest.raises(MalmoiError, match="is already there"):
        build(made(0, 5), tokenizer, photos, overwrite=True)  # never what is not a token file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "tokens"]


def bad_stream(error: BaseException):
    yield from made(0, 100)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MalmoiError("a.txt: line 3: broken")])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failure_half_way_leaves_nothing(tokenizer, tmp_path, error, workers):
    with pytest.raises(type(error)):
        build(bad_stream(error), tokenizer, tmp_path / "tokens", workers=workers, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full_at", range(10))
def test_a_full_disk_leaves_nothing(tokenizer, tmp_path, monkeypatch, full_at):
    """Ten files are written: whichever of them the disk has no room for, the old folder stays."""
    folder = tmp_path / "tokens"
    build(made(0, 5), tokenizer, folder)
    before = contents(folder)
    count = itertools.count()
    sync = os.fsync

    def full(descriptor):
        if next(count) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(MalmoiError, match=r"cannot be written: No space left on device"):
        build(made(0, 80), tokenizer, folder, overwrite=True, **SMALL)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_opens(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    program = (
        "import itertools, sys\n"
        "from malmoi.data.corpus import Document\n"
        "from malmoi.data.shards import build\n"
        "from malmoi.tokens.tokenizer import GPT4Tokenizer\n"
        "tokenizer = GPT4Tokenizer.from_pretrained(sys.argv[1])\n"
        "documents = (Document(text=f'document {n}') for n in itertools.count())\n"
        "build(documents, tokenizer, sys.argv[2], shard_documents=50)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "tokenizer"), str(tmp_path / "tokens")])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".tokens.building-*/shard-00003.ids")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    (left,) = tmp_path.glob(".tokens.building-*")
    for folder in (tmp_path / "tokens", left):
        with pytest.raises(MalmoiError, match="Was its building interrupted"):
            TokenFile.open(folder)
    assert build(made(0, 5), tokenizer, tmp_path / "tokens").num_documents == 5
