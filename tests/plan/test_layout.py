"""Layouts: what must divide what, each error naming both numbers."""

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.layout import Layout, Training, check, divisors
from malmoi.plan.work import work_of

WORK = work_of(presets.gpt3("175b"), "gpt3-175b")
TRAINING = Training(64, 2048)


def test_a_layout_that_divides():
    check(Layout(data=2, tensor=8, pipeline=4, interleave=6, micro_batch=2), WORK, TRAINING, 64)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(tensor=7), "tensor = 7 does not divide attention heads = 96"),
        (Layout(data=3), "data x micro-batch = 3 does not divide the batch's rows = 64"),
        (Layout(pipeline=97), "pipeline x interleave = 97 is more than the model's 96 layers"),
        (Layout(interleave=2), "needs a pipeline"),
        (Layout(pipeline=4, interleave=5), "pipeline x interleave = 20 does not divide layers = 96"),
        (Layout(data=32, pipeline=3, interleave=2), "micro-batches of an update = 2"),
        (Layout(context=3), "context = 3 does not divide the sequence length = 2048"),
        (Layout(data=2, expert=2), "has no experts"),
    ],
)
def test_errors_name_the_numbers(layout: Layout, words: str):
    with pytest.raises(MalmoiError, match=words):
        check(layout, WORK, TRAINING)


def test_experts_are_dealt_out_over_the_data_axis():
    sparse = work_of(presets.gpt_oss("20b"), "gpt-oss-20b")
    check(Layout(data=8, expert=8), sparse, TRAINING)
    with pytest.raises(MalmoiError, match="expert = 16 does not divide data x context x tensor = 8"):
        check(Layout(data=8, expert=16), sparse, TRAINING)


def test_the_number_of_devices():
    with pytest.raises(MalmoiError, match="= 4 devices, but there are 8"):
        check(Layout(data=4), WORK, TRAINING, 8)


def test_divisors():
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
