"""Copies are found exactly; a model that learned by heart is told from one that did not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train.loop import train
from malmoi.train.memorization import Memorization, continuations, longest_copies, measure, passages, seen


def by_hand(sample, tokens):
    text = " ".join(map(str, tokens)) + " "
    pieces = (
        length
        for length in range(len(sample), 0, -1)
        for start in range(len(sample) - length + 1)
        if f" {' '.join(map(str, sample[start : start + length]))} " in f" {text}"
    )
    return next(pieces, 0)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=1, max_size=5),
)
def test_the_longest_copy_is_the_one_found_by_hand(tokens, samples):
    found = longest_copies(np.array(samples), np.array(tokens))
    assert found.tolist() == [by_hand(sample, tokens) for sample in samples]


def test_passages_lie_in_one_document_and_are_learned():
    batches = [PatternBatches(length=48).batch(index) for index in range(6)]
    for batch in batches:
        batch.labels[batch.labels == -100] = 1  # all learned, but for the last document of each second row
        batch.labels[1::2, 30:] = -100
    found = passages(batches, 500, 8, seed=3)
    assert len(found) > 20 and np.array_equal(found, passages(batches, 500, 8, seed=3))
    possible = {
        tuple(batch.input_ids[row, start : start + 8].tolist())
        for batch in batches
        for row in range(4)
        for start in range(48 - 15)
        if len(set(batch.document_ids[row, start : start + 16].tolist())) == 1
        and (batch.labels[row, start + 7 : start + 15] != -100).all()
    }
    assert {tuple(row) for row in found.tolist()} == possible
    assert len(passages(batches, 500, 32, seed=3)) == 0


def test_seen_are_batches_of_the_first_epoch_only():
    batches = PatternBatches(per_epoch=10)
    assert len(seen(batches, 3)) == 3 and len(seen(batches, 25)) == 10
    assert torch.equal(seen(batches, 3)[2].input_ids, batches.batch(2).input_ids)


class NoiseBatches(PatternBatches):
    """Tokens without any pattern: they can be learned by heart only."""

    def batch(self, step):
        made = super().batch(step)
        draw = torch.Generator().manual_seed(1000 * self.seed + step % (self.distinct or 10**9))
        ids = torch.randint(1, 32, (self.rows, self.length + 1), generator=draw)
        made.input_ids.copy_(ids[:, :-1]), made.labels.copy_(ids[:, 1:])
        made.document_ids.zero_(), made.position_ids.copy_(torch.arange(self.length).expand(self.rows, -1))
        return made


@pytest.fixture(scope="module")
def by_heart():
    model = tiny_model(hidden_size=64, num_attention_heads=4, max_position_embeddings=32)
    config = TrainConfig(
        sequence_length=32,
        per_device_train_batch_size=4,
        max_steps=250,
        learning_rate=0.02,
        num_threads=1,
        dtype="float32",
        eval_steps=125,
        load_best_model_at_end=False,
        logging_steps=125,
    )
    batches = NoiseBatches(length=32, distinct=1, per_epoch=1)
    held_out = [NoiseBatches(length=32, seed=5).batch(0)]
    return model, batches, held_out, list(train(model, batches, config, held_out=held_out))


def test_learning_by_heart_is_measured_and_said(by_heart):
    model, batches, held_out, steps = by_heart
    found = measure(model, seen(batches, 250), held_out, 20)
    assert found.length == 16 and found.samples == 4  # one place a row is long enough
    assert found.training > 0.7 and found.held_out < 0.5 and found.longest == 16 and found.recites
    assert "It recites its training texts" in steps[-1].message and "Memorisation: given 16 tokens" in steps[-1].message
    assert steps[-1].memorized == found.training
    assert steps[-1].gap > 1


def test_an_untrained_model_does_not_recite():
    model = tiny_model(max_position_embeddings=32).train()
    batches = NoiseBatches(length=32)
    found = measure(model, seen(batches, 10), [NoiseBatches(length=32, seed=5).batch(0)], 20)
    assert found.training == found.held_out == 0 and not found.recites and found.longest < 8
    assert model.training
    assert "does not recite" in found.text() and "외워 쓰지 않습니다" in found.text("ko")


def test_nothing_long_enough_is_nothing_measured():
    assert measure(tiny_model(), [PatternBatches(length=12).batch(0)], [], 5) is None


def test_continuations_are_greedy():
    model = tiny_model()
    prompts = np.array([[1, 2, 3], [4, 5, 6]])
    ids = torch.from_numpy(prompts)
    with torch.no_grad():
        for _ in range(4):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert np.array_equal(continuations(model.eval(), prompts, 4), ids[:, 3:].numpy())


def test_words_name_the_figures():
    words = Memorization(32, 32, 0.5, 0.03125, 32).text()
    assert "32 training passages" in words and "50%" in words and "held-out passages: 3%" in words
    assert "held-out" not in Memorization(32, 32, 0.5, None, 32).text().split(". ")[0]
