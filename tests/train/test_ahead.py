"""Batches made ahead are the ones that would have been made then, and a run that reads them is the same run."""

import threading

import pytest
import torch
from test_loop import PatternBatches, begin, same_ends, settings

from malmoi.train import loop
from malmoi.train.ahead import Ahead


class Counting:
    def __init__(self, fails_at=None):
        self.asked, self.threads, self.fails_at = [], set(), fails_at
        self.batches = PatternBatches(seed=0)

    def batch(self, number):
        self.asked.append(number)
        self.threads.add(threading.current_thread().name)
        if number == self.fails_at:
            raise OSError(f"batch {number} cannot be read")
        return self.batches.batch(number)


def same(batch, other):
    names = ("input_ids", "labels", "position_ids", "document_ids")
    return all(torch.equal(getattr(batch, name), getattr(other, name)) for name in names)


def test_each_batch_is_made_once_by_another_thread():
    counting = Counting()
    ahead = Ahead(counting)
    for step in range(3):
        for number, batch in zip(range(2 * step, 2 * step + 2), ahead.take(range(2 * step, 2 * step + 2)), strict=True):
            wanted = PatternBatches(seed=0).batch(number)
            assert same(batch, wanted) and batch.num_target_tokens == wanted.num_target_tokens
    ahead.close()
    assert counting.asked[:6] == [0, 1, 2, 3, 4, 5] and len(counting.asked) <= 8
    assert threading.main_thread().name not in counting.threads


def test_a_jump_is_served_and_what_was_made_in_vain_is_forgotten():
    ahead = Ahead(Counting())
    ahead.take(range(2))
    assert same(ahead.take(range(10, 11))[0], PatternBatches(seed=0).batch(10))
    assert list(ahead.made) == [11]
    ahead.close()


def test_an_error_comes_when_its_batch_is_asked_for_and_not_before():
    ahead = Ahead(Counting(fails_at=1))
    ahead.take(range(1))
    with pytest.raises(OSError, match="batch 1"):
        ahead.take(range(1, 2))
    ahead.close()


def test_a_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    _, here = begin(tmp_path / "here", settings())
    assert list(here)
    whole = loop._Run.__post_init__

    def with_a_thread(run):
        whole(run)
        run.ahead = Ahead(run.batches)

    monkeypatch.setattr(loop._Run, "__post_init__", with_a_thread)
    _, early = begin(tmp_path / "early", settings())
    assert list(early)
    same_ends(tmp_path / "here", tmp_path / "early")
