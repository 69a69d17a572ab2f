"""One writer: a token for a row of logits, and the reason to end."""

import numpy as np
import pytest

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.request import Text
from malmoi.generate.writer import Writer


def test_it_chooses_by_its_own_settings_and_ends_for_its_own_reasons(tokenizer):
    config = GenerationConfig(min_new_tokens=1, repetition_penalty=2.0, do_sample=False)
    writer = Writer([1, 2], config, eos_ids=(0,), limit=3)
    logits = np.array([9.0, 8.0, 5.0, 4.5])
    assert writer.choose(logits) == (3, None)  # not the end yet; 1 and 2 stand in the prompt already
    assert writer.push(3) is None
    assert writer.choose(logits)[0] == 0
    assert writer.push(0) == "eos"
    assert writer.tokens == [1, 2, 3, 0]
    assert [Writer([1], config, eos_ids=(), limit=1).push(3)] == ["length"]
    stopped = Writer([1], config, eos_ids=(), limit=9, text=Text(tokenizer, ("b",)))
    assert [stopped.push(token) for token in tokenizer.encode("a b")][-1] == "stop"
    assert "b" not in stopped.shown(ended=True)


def test_broken_logits_are_an_error():
    writer = Writer([1], GenerationConfig(do_sample=True, top_k=1, seed=0), eos_ids=(), limit=3)
    with pytest.raises(MalmoiError, match="broken"):
        writer.choose(np.array([0.0, np.nan, 1.0]))
