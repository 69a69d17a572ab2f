"""A mixture keeps its shares, in every stretch, and each source its own epochs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import DataConfig, MalmoiError, SourceConfig
from malmoi.data.corpus import Document
from malmoi.data.mixture import Mixture, Part, Schedule
from malmoi.data.shards import build


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 5), st.randoms())
@settings(max_examples=100)
def test_a_schedule_gives_each_part_its_rows_in_every_epoch_and_evenly(counts, seed, random):
    schedule = Schedule(counts, seed)
    total = sum(counts)
    parts, numbers = schedule.locate(np.arange(3 * total))
    for part, count in enumerate(counts):
        assert list(numbers[parts == part]) == list(range(3 * count))  # each row once, in order
        seen = np.cumsum(parts[:total] == part)
        assert (abs(seen - np.arange(1, total + 1) * count / total) <= len(counts)).all()
    some = np.array(random.sample(range(3 * total), min(10, total)))
    assert (schedule.locate(some)[0] == parts[some]).all() and (schedule.locate(some)[1] == numbers[some]).all()


@pytest.fixture
def views(tokenizer, tmp_path):
    documents = [Document(text="a word or two " * 3, source="large", id=str(n)) for n in range(90)]
    documents += [Document(text="un mot " * 2, source="small", id=str(n)) for n in range(10)]
    token_file = build(documents, tokenizer, tmp_path / "tokens")
    return token_file.view(source="large"), token_file.view(source="small")


def test_weights_are_shares_of_the_tokens(views):
    large, small = views
    rows = [500, 20]
    per_row = [large.num_tokens / 500, small.num_tokens / 20]
    for parts, share in (
        ([(large, 3), (small, 1)], 0.25),
        ([Part(large), Part(small, weight=0.4)], 0.4),
        ([Part(large, epochs=2), Part(small, weight=0.1)], 0.1),
    ):
        counts = Mixture(parts).rows_per_epoch(rows)
        tokens = [count * each for count, each in zip(counts, per_row, strict=True)]
        assert tokens[1] / sum(tokens) == pytest.approx(share, rel=0.03)
    assert Mixture([(large, 3), (small, 1)]).rows_per_epoch(rows) == Mixture(
        [(large, 0.3), (small, 0.1)]
    ).rows_per_epoch(rows)


def test_epochs_and_natural_size(views):
    large, small = views
    assert Mixture([Part(large), Part(small)]).rows_per_epoch([500, 20]) == [500, 20]
    assert Mixture([Part(large, epochs=0.5), Part(small, epochs=3)]).rows_per_epoch([500, 20]) == [250, 60]
    counts = Mixture([Part(large, epochs=2), Part(small, weight=0.2)]).rows_per_epoch([500, 20])
    assert counts[0] == 1000


def test_what_cannot_be_mixed(views, tokenizer, tmp_path):
    large, small = views
    for parts, message in (
        ([], "at least one source"),
        ([Part(large, weight=0.5, epochs=2)], "both a weight and epochs"),
        ([Part(large), Part(small, weight=1.0)], "weights add up to 1, which leaves nothing"),
        ([(large, 0)], "weight=0 is not a positive number"),
        ([(large, 1), (large.token_file.view("held_out"), 1)], "held_out: holds no document"),
    ):
        with pytest.raises(MalmoiError, match=message):
            Mixture(parts)
    with pytest.raises(MalmoiError, match=r"no source 'smal'. Did you mean 'small'\? Sources: large, small"):
        large.token_file.view(source="smal")


def test_a_recipe_describes_a_mixture(views):
    token_file = views[0].token_file
    sources = (
        SourceConfig(path="l.txt", name="large", weight=0.9),
        SourceConfig(path="s.txt", name="small", weight=0.1),
    )
    mixture = Mixture.from_config(token_file, DataConfig(sources=sources))
    assert [(len(part.view), part.weight) for part in mixture.parts] == [(90, 0.9), (10, 0.1)]
    with pytest.raises(MalmoiError, match="Two sources are called 'large'"):
        Mixture.from_config(token_file, DataConfig(sources=(sources[0], sources[0])))
