"""A token file is refused when anything about it is wrong, and held-out documents are the same everywhere."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.data.corpus import Document
from malmoi.data.shards import build
from malmoi.data.tokenfile import TokenFile, held_out
from malmoi.tokens import vocabulary


def documents(count, start=0):
    return [
        Document(text=f"말 {number} " * (1 + number % 5), source=f"s{number % 2}") for number in range(start, count)
    ]


@pytest.fixture
def folder(tokenizer, tmp_path):
    turns = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
    return build([*documents(50), Document(messages=turns)], tokenizer, tmp_path / "tokens", shard_documents=20).folder


FILES = ["shard-00000.ids", "shard-00001.documents", "shard-00002.names", "shard-00002.mask", "token_bytes.u16"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_checked(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(damaged)
        message = f"{name}: has {len(damaged)} bytes, but {len(whole)} were written"
        with pytest.raises(MalmoiError, match=re.escape(message)):
            TokenFile.open(folder)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    if name.endswith(".documents"):
        path.write_bytes(whole[:8] + bytes([whole[8] ^ 1]) + whole[9:])
    with pytest.raises(MalmoiError, match=rf"{name}: is not what was written"):
        TokenFile.open(folder).verify()
    path.unlink()
    with pytest.raises(MalmoiError, match=rf"{name}: is missing"):
        TokenFile.open(folder)


def test_the_manifest_is_checked(folder, tmp_path):
    path = folder / "manifest.json"
    whole = json.loads(path.read_text(encoding="utf-8"))

    def without(key):
        return {name: value for name, value in whole.items() if name != key}

    escape = json.loads(json.dumps(whole).replace("shard-00000.ids", "../shard-00000.ids"))
    for content, message in (
        ("{", "is damaged"),
        ("[]", "is not the manifest of a token file"),
        (json.dumps({**whole, "version": 99}), "version 99, but this Malmoi reads version 1"),
        (json.dumps({**whole, "tokens": whole["tokens"] + 1}), "contradicts itself"),
        (json.dumps({**whole, "vocab_size": 5}), "contradicts itself"),
        (json.dumps({**whole, "dtype": "object"}), "is damaged"),
        (json.dumps({**whole, "shards": 3}), "is damaged"),
        (json.dumps(escape), "names a file outside its folder"),
        *((json.dumps(without(key)), "is damaged|is not the manifest|version") for key in whole),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(MalmoiError, match=f"manifest.json.*({message})"):
            TokenFile.open(folder)
    path.unlink()
    with pytest.raises(MalmoiError, match=r"has no manifest\. Was its building interrupted"):
        TokenFile.open(folder)
    with pytest.raises(MalmoiError, match="there is no such folder"):
        TokenFile.open(tmp_path / "elsewhere")


def test_vocabularies_must_fit(folder, tokenizer):
    assert TokenFile.open(folder, tokenizer=tokenizer, vocab_size=len(tokenizer)).num_documents == 51
    with pytest.raises(MalmoiError, match="was written with another tokenizer"):
        TokenFile.open(folder, tokenizer=vocabulary.learn(["other words entirely"] * 50, 280))
    with pytest.raises(MalmoiError, match=r"holds token \d+, but the model's vocab_size is 20"):
        TokenFile.open(folder, vocab_size=20)


def test_a_fingerprint_is_of_what_decides_the_ids(folder, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "again")
    again = type(tokenizer).from_pretrained(tmp_path / "again")
    assert TokenFile.open(folder, tokenizer=again)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.floats(0, 0.5), st.integers(0, 5))
def test_held_out_is_a_function_of_the_hash_alone(hashes, share, seed):
    array = np.array(hashes, np.uint64)
    side = held_out(array, share, seed)
    assert (held_out(array[::-1], share, seed) == side[::-1]).all()
    assert (held_out(array, 0.5, seed) >= side).all()  # a larger share contains the smaller
    assert not held_out(array, 0.0, seed).any()
    assert (array == np.array(hashes, np.uint64)).all()  # the caller's array is left alone


def test_held_out_is_an_even_share():
    for seed in (0, 1):
        side = held_out(np.arange(200_000, dtype=np.uint64), 0.02, seed)
        assert abs(side.mean() - 0.02) < 0.0015
    one, other = (held_out(np.arange(20_000, dtype=np.uint64), 0.5, seed) for seed in (0, 1))
    assert abs((one == other).mean() - 0.5) < 0.02


def test_duplicates_fall_on_one_side_and_the_sides_are_everything(tokenizer, tmp_path):
    token_file = build(documents(200) * 2, tokenizer, tmp_path / "tokens", held_out=0.25, shard_documents=150)
    train, measured = set(token_file.train.documents), set(token_file.held_out.documents)
    assert train | measured == set(range(400)) and not train & measured
    assert all((number in measured) == (number + 200 in measured) for number in range(200))
    assert 20 < len(measured) < 180
    other = build(
        documents(400, start=100), tokenizer, tmp_path / "more", held_out=0.25
    )  # another corpus, shared texts
    for number in range(100, 200):
        assert (number in measured) == (number - 100 in set(other.held_out.documents))


def test_views_choose_sources(tokenizer, tmp_path):
    token_file = build(documents(60), tokenizer, tmp_path / "tokens", held_out=0.3, shard_documents=7)
    one, train = token_file.view(source="s1"), token_file.view("train", "s1")
    assert list(one.documents) == list(range(1, 60, 2))
    assert set(train.documents) == set(token_file.train.documents) & set(one.documents)
    assert one.num_tokens == sum(len(token_file.ids(number)) for number in one.documents) == one.lengths.sum()
    assert one.num_bytes == next(source.bytes for source in token_file.sources if source.name == "s1")
    with pytest.raises(MalmoiError, match="has documents 0 to 59, but not 60"):
        token_file.ids(60)
