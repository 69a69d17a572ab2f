"""The cache: memory grows, rows are chosen, positions are forgotten, and the model never notices."""

import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.model.cache import Cache
from small_models import build

close = {"atol": 2e-5, "rtol": 1e-4}


def test_memory_doubles_and_keeps_what_it_holds():
    cache = Cache(capacity=2)
    written = torch.randn(1, 2, 11, 4)
    for t in range(11):
        keys, values = cache.write(0, written[:, :, t : t + 1], -written[:, :, t : t + 1])
        cache.advance(1, None)
    assert torch.equal(keys, written)
    assert torch.equal(values, -written)
    assert cache._keys[0].shape[2] == 16


def test_rows_can_be_repeated_and_dropped(model, ids, left_padding):
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        whole = model(ids[rows], attention_mask=left_padding[rows]).logits
        cache = Cache()
        model(ids[:, :18], attention_mask=left_padding[:, :18], cache=cache)
        cache.select(rows)
        torch.testing.assert_close(model(ids[rows][:, 18:], cache=cache).logits, whole[:, 18:], **close)


def test_padding_of_all_rows_can_be_dropped(ids, left_padding):
    model = build("modern")
    with torch.no_grad():
        expected = model(ids, attention_mask=left_padding).logits[1:, 18:]
        cache = Cache()
        model(ids[:, :18], attention_mask=left_padding[:, :18], cache=cache)
        cache.select(torch.tensor([1, 2]))
        with pytest.raises(MalmoiError, match="not all padding"):
            cache.drop(8)
        cache.drop(7)
        assert cache.length == 11
        torch.testing.assert_close(model(ids[1:, 18:], cache=cache).logits, expected, **close)


def test_cropping_takes_back_what_was_read(model, ids):
    with torch.no_grad():
        cache = Cache()
        model(ids, cache=cache)
        cache.crop(9)
        torch.testing.assert_close(model(ids[:, 9:], cache=cache).logits, model(ids).logits[:, 9:], **close)
    with pytest.raises(MalmoiError, match="cannot be cropped to 21"):
        cache.crop(21)


def test_another_number_of_rows_is_refused(ids):
    model, cache = build("modern"), Cache()
    model(ids, cache=cache)
    with pytest.raises(MalmoiError, match="holds 3 rows, but 2 were given"):
        model(ids[:2, :1], cache=cache)
