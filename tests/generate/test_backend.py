"""The made-up backend keeps a true past, and the engine above a backend answers many at once."""

import numpy as np
import pytest
from speakers import made_up, one_at_a_time

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request, generate


def int32(*numbers):
    return np.array(numbers, dtype=np.int32)


def test_the_past_is_what_lies_in_the_blocks():
    seen = []
    backend = FunctionBackend(lambda past: seen.append(past) or np.zeros(3), 3, block_size=2, num_blocks=6)
    tables = np.array([[4, 1], [2, 0]], dtype=np.int32)
    backend.step(int32(7, 8, 9, 5), int32(0, 1, 2, 0), int32(0, 0, 0, 1), tables, int32(1, 2, 3))
    assert seen == [(7, 8), (7, 8, 9), (5,)]
    backend.copy_block(4, 3)
    backend.step(int32(6), int32(2), int32(0), np.array([[3, 5]], dtype=np.int32), int32(0))
    assert seen[-1] == (7, 8, 6)


def test_one_bad_row_ends_one_request_only():
    def function(past):
        return np.full(5, np.nan) if past[0] == 3 and len(past) > 3 else made_up(5)(past)

    config = GenerationConfig(max_new_tokens=6, eos_token_id=())
    engine = Engine(FunctionBackend(function, 5))
    found = {0: [], 1: [], 2: []}
    for token in engine.stream(Request([first], config) for first in (1, 3, 2)):
        found[token.request].append(token)
    assert [token.finish_reason for token in found[1]] == [None, None, None, "error"]
    assert "NaN" in str(found[1][-1].error)
    for request, first in ((0, 1), (2, 2)):
        assert [token.id for token in found[request]] == one_at_a_time(function, [first], config)
    assert engine.scheduler.pool.available == engine.scheduler.pool.num_blocks
    with pytest.raises(MalmoiError, match="NaN"):
        generate(FunctionBackend(function, 5), [3], config)


def test_a_backend_that_breaks_leaves_a_usable_engine():
    broken = [True]

    def function(past):
        if len(past) == 3 and broken[0]:
            raise RuntimeError("out of memory")
        return made_up(5)(past)

    engine = Engine(FunctionBackend(function, 5))
    config = GenerationConfig(max_new_tokens=4, eos_token_id=())
    with pytest.raises(RuntimeError, match="out of memory"):
        list(engine.stream(Request([1], config)))
    assert not engine.busy
    broken[0] = False
    assert [t.id for t in engine.stream(Request([1], config))] == one_at_a_time(function, [1], config)


def test_streams_of_one_engine_are_read_in_turns_and_closing_one_cancels_it():
    backend = FunctionBackend(made_up(9), 9)
    engine = Engine(backend)
    config = GenerationConfig(max_new_tokens=10, eos_token_id=())
    streams = [engine.stream(Request([first], config)) for first in (1, 2, 3)]
    found = [[next(each).id for _ in range(3)] for each in streams]
    streams[2].close()
    assert len(engine._live) == 2
    for ids, each in zip(found[:2], streams[:2], strict=True):
        ids += [token.id for token in each]
    assert found[:2] == [one_at_a_time(made_up(9), [first], config) for first in (1, 2)]
    assert not engine.busy
    assert engine.scheduler.pool.available == engine.scheduler.pool.num_blocks


def test_mistakes_are_told_before_anything_is_queued():
    engine = Engine(FunctionBackend(made_up(9), 9))
    with pytest.raises(MalmoiError, match="is not a token"):
        engine.stream([Request([1]), Request([99])])
    with pytest.raises(MalmoiError, match="one prompt, but 2"):
        engine.submit(Request([[1], [2]]))
    with pytest.raises(MalmoiError, match="logit_bias names the token 9"):
        engine.submit(Request([1], GenerationConfig(logit_bias={9: 1.0})))
    assert not engine.busy
    engine.cancel(12345)  # nobody's
