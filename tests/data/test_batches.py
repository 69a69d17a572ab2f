"""Batches: every token once an epoch, labels right, the same order for any number of ranks, any step by its number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.data.batches import Batch, Batches, held_out_batches
from malmoi.data.corpus import Document
from malmoi.data.mixture import Mixture, Part
from malmoi.data.shards import build
from malmoi.data.tokenfile import View

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def corpus(tokenizer, tmp_path_factory):
    """A corpus of short and long documents in several shards, a third of them conversations."""
    generator = np.random.default_rng(3)
    documents = []
    for number, words in enumerate(generator.geometric(0.12, 150)):
        text = f"{number} " + " ".join(generator.choice(["the", "cat", "고양이", "lait", "7"], int(words)))
        if number % 3:
            documents.append(Document(text=text, source="tales"))
        else:
            turns = ({"role": "user", "content": text}, {"role": "assistant", "content": f"yes {number}"})
            documents.append(Document(messages=turns, source="talk"))
    return build(documents, tokenizer, tmp_path_factory.mktemp("data") / "tokens", held_out=0.2, shard_documents=37)


def tokens_of(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(ids, labels) of each piece in each row; checks ids, positions and padding on the way."""
    pieces = []
    for ids, labels, positions, documents in zip(
        *(tensor.tolist() for tensor in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)),
        strict=True,
    ):
        assert documents == sorted(documents) and documents[0] == 0
        for number in range(documents[-1] + 1):
            here = [place for place, document in enumerate(documents) if document == number]
            assert [positions[place] for place in here] == list(range(len(here)))
            pieces.append((tuple(ids[place] for place in here), tuple(labels[place] for place in here)))
    return pieces


def expected(view: View, length: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    pieces = []
    for document in view.documents:
        ids, mask = view.token_file.ids(document).tolist(), view.token_file.loss_mask(document)
        labels = [token if learn else -100 for token, learn in zip(ids[1:], mask[1:], strict=True)] + [-100]
        for start in range(0, len(ids), length):
            pieces.append((tuple(ids[start : start + length]), tuple(labels[start : start + length])))
    return sorted(pieces)


def without_padding(pieces, eos):
    return sorted(piece for piece in pieces if set(piece[0]) != {eos} or set(piece[1]) != {-100})


@given(st.integers(3, 90), st.integers(1, 8), st.integers(0, 3), st.integers(5, 25), st.integers(0, 90))
@MANY
def test_every_token_once_an_epoch_with_its_label(corpus, length, size, seed, count, first):
    view = View(corpus, corpus.train.documents[first : first + count], "some documents")
    assume(view.num_tokens >= length)  # less than a row is refused
    batches = Batches(view, length, size, seed)
    rows = batches.rows_per_epoch
    seen = [batches.batch(step) for step in range(-(-2 * rows // size))]
    joined = {name: torch.cat([getattr(batch, name) for batch in seen]) for name in Batch.__slots__[:4]}
    eos = corpus.eos_token_id
    for epoch in (0, 1):
        part = Batch(*(tensor[epoch * rows : (epoch + 1) * rows] for tensor in joined.values()), 0, 0)
        pieces = tokens_of(part)
        # A last piece that is one end-of-text token looks like padding, so those are counted out on both sides.
        assert without_padding(pieces, eos) == without_padding(expected(view, length), eos)
    first, second = (joined["input_ids"][epoch * rows : (epoch + 1) * rows] for epoch in (0, 1))
    assert rows < 6 or not torch.equal(first, second)  # a new order
    for batch in seen:
        assert batch.num_target_tokens == int((batch.labels != -100).sum())
        learned = batch.labels[batch.labels != -100].numpy()
        assert batch.num_bytes == corpus.token_bytes[learned].sum()
        assert {tensor.dtype for tensor in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)} == {
            torch.int64
        }
        assert batch.input_ids.shape == batch.labels.shape == (size, length)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Batch.__slots__[:4]) and (
        one.num_target_tokens,
        one.num_bytes,
    ) == (other.num_target_tokens, other.num_bytes)


@pytest.fixture(params=["view", "mixture"])
def data(request, corpus):
    if request.param == "view":
        return corpus.train
    return Mixture([(corpus.view("train", "tales"), 0.3), (corpus.view("train", "talk"), 0.7)])


def test_any_step_by_its_number(data):
    straight = Batches(data, 32, 6, seed=5)
    far = 3 * straight.steps_per_epoch() + 2
    run = [straight.batch(step) for step in range(far)]
    for step in (far - 1, 0, 7, far // 2):
        assert equal(Batches(data, 32, 6, seed=5).batch(step), run[step])  # a fresh process that starts there
        assert equal(straight.batch(step), run[step])  # backwards, too
    assert not equal(Batches(data, 32, 6, seed=6).batch(0), run[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_world_sizes_see_the_same_batches(data, world_size):
    whole = Batches(data, 24, 8, seed=1)
    ranks = [Batches(data, 24, 8, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(0, 2 * whole.steps_per_epoch(), 3):
        parts = [batches.batch(step) for batches in ranks]
        assert sum(part.num_bytes for part in parts) == whole.batch(step).num_bytes
        for name in Batch.__slots__[:4]:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole.batch(step), name))


def test_epochs_are_counted(data):
    batches = Batches(data, 16, 5)
    total = sum(batches.steps_per_epoch(epoch) for epoch in range(7))
    assert batches.epoch_of(0) == 0 and batches.epoch_of(total - 1) == 6 and batches.epoch_of(total) == 7
    assert total == math.ceil(7 * batches.rows_per_epoch / 5)
    assert [batches.epoch_of(step) for step in range(total)].count(3) == batches.steps_per_epoch(3)


def test_a_mixture_keeps_its_shares_and_starts_small_sources_again(corpus):
    large, small = corpus.view("train", "tales"), corpus.view("train", "talk")
    whole = Batches(Mixture([(large, 0.1), (small, 0.9)]), 32, 4)
    talk = {ids for ids, _ in expected(small, 32)}
    counts = [0, 0]
    for step in range(whole.steps_per_epoch()):
        batch = whole.batch(step)
        for ids, _ in tokens_of(batch):
            counts[ids in talk] += len(ids)
    assert counts[1] / sum(counts) == pytest.approx(0.9, abs=0.05)
    assert counts[1] > 1.3 * small.num_tokens  # it has begun a second time
    epochs = Batches(Mixture([Part(large), Part(small, epochs=2)]), 32, 4)
    ids = torch.cat([epochs.batch(step).input_ids for step in range(-(-epochs.rows_per_epoch // 4))])
    rows = [tuple(row) for row in ids[: epochs.rows_per_epoch].tolist()]
    twice = sum(rows.count(row) == 2 for row in set(rows))
    assert twice == Batches(small, 32, 4).rows_per_epoch  # every row of the small source exactly twice


def test_short_documents_fill_the_rectangle(tokenizer, tmp_path):
    documents = [Document(text="고양이 " * (1 + n % 9)) for n in range(3000)]
    batches = Batches(build(documents, tokenizer, tmp_path / "t"), 128, 8)
    tokens = sum(int((batches.batch(step).document_ids >= 0).sum()) for step in range(3))
    assert tokens == 3 * 8 * 128
    assert batches.fill >= 0.97


def test_held_out_batches_are_fixed_and_whole(corpus):
    view = corpus.held_out
    every = held_out_batches(view, 40, 3)
    pieces = [piece for batch in every for piece in tokens_of(batch)]
    eos = corpus.eos_token_id
    assert without_padding(pieces, eos) == without_padding(expected(view, 40), eos)
    assert all(len(batch.input_ids) == 3 for batch in every[:-1]) and 1 <= len(every[-1].input_ids) <= 3
    again = held_out_batches(corpus.view("held_out"), 40, 3)
    assert all(equal(one, other) for one, other in zip(every, again, strict=True))
    few = held_out_batches(view, 40, 3, max_tokens=100)
    tokens = sum(len(ids) for ids, _ in without_padding([p for batch in few for p in tokens_of(batch)], eos))
    assert 100 - 40 <= tokens <= 100 + view.lengths.max()
    assert len(held_out_batches(view, 40, 3, max_tokens=1)) == 1


def test_held_out_bytes_are_the_bytes_of_the_targets(tokenizer, tmp_path):
    """Of a plain text all bytes but the first token's are predicted, whatever the rows cut."""
    texts = ["한때 작은 마을에 두 아이가 살았습니다. " * n for n in (1, 2, 7)]
    token_file = build([Document(text=text) for text in texts], tokenizer, tmp_path / "t")
    first = sum(len(tokenizer.token_bytes(tokenizer.encode(text)[0])) for text in texts)
    for length in (8, 33, 1000):
        batches = held_out_batches(token_file.view(), length, 2)
        assert sum(batch.num_bytes for batch in batches) == sum(len(text.encode()) for text in texts) - first
        assert sum(batch.num_target_tokens for batch in batches) == token_file.num_tokens - len(texts)


def test_what_is_too_small_is_an_error(tokenizer, tmp_path):
    token_file = build([Document(text="a few words")], tokenizer, tmp_path / "tokens")
    with pytest.raises(MalmoiError, match=r"has \d+ tokens, fewer than one context of 256. Add text, or set a smaller"):
        Batches(token_file.view(), 256, 4)
    with pytest.raises(MalmoiError, match=r"there is no held-out document to measure on\. Raise data\.held_out"):
        held_out_batches(token_file.held_out, 16, 4)
    assert Batches(token_file, 4, 4).batch(3).num_target_tokens > 0
    for wrong in ({"batch_size": 3, "world_size": 2}, {"batch_size": 4, "world_size": 2, "rank": 2}):
        with pytest.raises(MalmoiError, match="cannot be shared evenly by world_size=2"):
            Batches(token_file, 4, **wrong)
    with pytest.raises(MalmoiError, match="no step -1"):
        Batches(token_file, 4, 4).batch(-1)
