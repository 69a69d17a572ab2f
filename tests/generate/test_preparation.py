"""A request becomes jobs: one for a shared prompt, one a sample where each has two rows; mistakes come first."""

import pytest
from pictured import BOTH

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.guidance import Guided
from malmoi.generate.preparation import prepare
from malmoi.generate.request import Request

IDS = BOTH.images
BACKEND = FunctionBackend(lambda past: [0.0] * len(BOTH), len(BOTH), max_position=200)


def prepared(prompt, tokenizer=BOTH, **settings):
    checked = []
    config = GenerationConfig(**{"max_new_tokens": 80, "temperature": 1.0, "seed": 0, **settings})
    live = prepare(
        Request(prompt, config), 4, BACKEND, GenerationConfig(), tokenizer, lambda *each: checked.append(each)
    )
    return live, checked


def test_samples_share_one_job_until_the_prompt_is_read():
    live, checked = prepared([5, 6], num_return_sequences=3)
    ((job, writer),) = live.jobs.items()
    assert (job.order, job.followers, len(live.followers), writer.number) == ((4, 0), 2, 2, 0)
    assert checked == [(81, 1)]


def test_a_guided_picture_has_two_rows_a_sample():
    live, checked = prepared([5, 6, IDS.begin, IDS.size], num_return_sequences=2, guidance_scale=2.0)
    assert [job.order for job in live.jobs] == [(4, 0), (4, 1)] and not live.followers
    for job, writer in live.jobs.items():
        assert isinstance(writer, Guided)
        assert [branch.tokens for branch in job.branches] == [[5, 6, IDS.begin, IDS.size], [IDS.begin, IDS.size]]
        assert job.branches[0].tokens is writer.tokens and job.branches[1].tokens is writer.without
    assert checked == [(83, 2)]


def test_mistakes_are_told_before_anything_is_queued():
    with pytest.raises(MalmoiError, match="one prompt, but 2"):
        prepared([[5], [6]])
    with pytest.raises(MalmoiError, match="stop_strings speaks of text"):
        prepared([5], tokenizer=None, stop_strings=("a",))
