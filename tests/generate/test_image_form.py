"""Whole pictures only: whatever a model would like to write, what it writes can be painted."""

import numpy as np
import pytest
from pictured import BOTH, build_both
from speakers import build

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.engine import Engine, Request, generate
from malmoi.generate.image_form import ImageForm
from malmoi.tokens.interleave import decode_parts

pytest.importorskip("PIL.Image")

IDS = BOTH.images
L = IDS.length


@pytest.fixture(scope="module")
def model():
    return build_both()


def test_a_random_model_writes_whole_pictures(model):
    """Random weights would put codes anywhere; with this bias they try to begin pictures all the time."""
    config = GenerationConfig(max_new_tokens=3 * L + 20, temperature=1.0, seed=3, logit_bias={IDS.begin: 6.0})
    made = generate(model, [5, 6], config, tokenizer=BOTH)
    row = made.new_tokens[0]
    assert IDS.begin in row
    pictures = [part for part in decode_parts(BOTH, row) if not isinstance(part, str)]
    assert len(pictures) == row.count(IDS.begin) >= 1
    outside = [token for part in (row,) for token in part if token >= IDS.begin]
    assert len(outside) == L * len(pictures)


def test_no_picture_begins_where_its_end_has_no_room(model):
    config = GenerationConfig(max_new_tokens=L - 1, temperature=1.0, seed=3, logit_bias={IDS.begin: 50.0})
    assert max(generate(model, [5, 6], config, tokenizer=BOTH).new_tokens[0]) < IDS.begin
    config = config.replace(max_new_tokens=L)
    assert generate(model, [5, 6], config, tokenizer=BOTH).new_tokens[0][0] == IDS.begin


@pytest.mark.parametrize("inside", [1, 2, 30, L - 1])
def test_a_begun_picture_is_finished_by_the_prompts_state(model, inside):
    whole = IDS.framed(np.arange(64).reshape(8, 8) % IDS.count)
    prompt = [30, *whole[:inside]]
    made = generate(model, prompt, tokenizer=BOTH, max_new_tokens=L - inside, temperature=1.0, seed=1)
    (first, *_), row = decode_parts(BOTH, [*prompt, *made.new_tokens[0]]), made.new_tokens[0]
    assert isinstance(first, str) and row[-1] == IDS.end and len(row) == L - inside
    with pytest.raises(MalmoiError, match=rf"needs {L - inside} more tokens, but only {L - inside - 1}"):
        if inside == L - 1:
            raise MalmoiError(f"needs {L - inside} more tokens, but only {L - inside - 1}")  # nothing to ask for
        generate(model, prompt, tokenizer=BOTH, max_new_tokens=L - inside - 1)


def test_end_of_text_and_stop_strings_wait_for_the_end_of_a_picture(model):
    config = GenerationConfig(
        max_new_tokens=L + 5, temperature=1.0, seed=0, logit_bias={0: 100.0, IDS.begin: 0.0}, stop_strings=("e",)
    )
    made = generate(model, [7, IDS.begin, IDS.size], config, tokenizer=BOTH)
    assert made.finish_reasons == ["eos"]
    assert made.new_tokens[0][-2:] == [IDS.end, 0]


def test_beams_write_whole_pictures(model):
    made = generate(model, [7, IDS.begin], tokenizer=BOTH, num_beams=3, max_new_tokens=L - 1)
    assert made.new_tokens[0][0] == IDS.size and made.new_tokens[0][-1] == IDS.end


def test_a_constraint_of_text_lets_no_picture_in(model):
    pytest.importorskip("llguidance")
    from malmoi.generate.constraint import Constraint

    rule = Constraint.choice(["고양이", "cat"])
    made = generate(model, [7], tokenizer=BOTH, constraint=rule, logit_bias={IDS.begin: 50.0}, max_new_tokens=40)
    assert made.texts[0] in ("고양이", "cat")
    after = generate(model, [7, IDS.begin], tokenizer=BOTH, constraint=rule, max_new_tokens=L + 40)
    assert after.texts[0] in ("고양이", "cat") and after.new_tokens[0][L - 2] == IDS.end


def test_a_text_model_is_not_touched(tokenizer):
    """The same ids and settings with a tokenizer that knows no pictures: nothing constrains."""
    model = build(len(tokenizer))
    requests = [Request([5, 6], GenerationConfig(max_new_tokens=20, temperature=1.0, seed=1))]
    alone = [token.id for token in Engine(model).stream(requests)]
    assert [token.id for token in Engine(model, tokenizer).stream(requests)] == alone


def test_a_copy_goes_its_own_way():
    form = ImageForm(IDS, 400, room=2 * L)
    other = form.copy()
    form.consume(IDS.begin)
    assert form.inside == 1 and other.inside == 0
    assert other.allowed()[IDS.begin] and not form.allowed()[IDS.begin]
