"""Constraints on a model with no idea of form: what it writes is right in form all the same, or it is an error."""

import json
import re

import pytest
from speakers import build

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.constraint import Constraint
from malmoi.generate.engine import Engine, Request, generate, stream

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(len(tokenizer), max_position_embeddings=256)


def texts(model, tokenizer, constraint, count=6, **asked):
    asked = {"max_new_tokens": 200, "temperature": 1.5, "seed": 0, "num_return_sequences": count, **asked}
    return generate(model, [5], tokenizer=tokenizer, constraint=constraint, **asked)


def test_json_fits_its_schema(model, tokenizer):
    made = texts(model, tokenizer, Constraint.json_schema(SCHEMA))
    assert set(made.finish_reasons) <= {"stop", "eos"}
    for text in made.texts:
        record = json.loads(text)
        assert set(record) == {"name", "age"}
        assert len(record["name"]) <= 4
        assert 0 <= record["age"] <= 99
    assert len(set(made.texts)) > 1
    assert texts(model, tokenizer, Constraint.json_schema(json.dumps(SCHEMA))).texts == made.texts


@pytest.mark.parametrize("eos", [0, (), (0, 2)], ids=str)
def test_a_regular_expression_is_matched_as_a_whole(model, tokenizer, eos):
    pattern = r"(가|나|[a-c]){2,5}[0-9]{3}"
    made = texts(model, tokenizer, Constraint.regex(pattern), eos_token_id=eos)
    assert set(made.finish_reasons) == {"stop"}  # nothing can follow, so no end-of-text token is waited for
    assert all(re.fullmatch(pattern, text) for text in made.texts)


def test_where_more_could_follow_the_model_says_when_to_end(model, tokenizer):
    made = texts(model, tokenizer, Constraint.regex("a[ab]*"), logit_bias={0: 12.0})
    assert set(made.finish_reasons) == {"eos"}
    assert all(re.fullmatch("a[ab]*", text) for text in made.texts)
    held = texts(model, tokenizer, Constraint.regex("a[ab]*"), logit_bias={0: 12.0}, min_new_tokens=5)
    assert all(len(tokens) > 5 for tokens in held.new_tokens)


@pytest.mark.parametrize("asked", [{}, {"num_return_sequences": 1, "temperature": 0}], ids=str)
def test_one_of_a_few_answers(model, tokenizer, asked):
    answers = ["예", "아니요", 'yes "quoted"\n']
    made = texts(model, tokenizer, Constraint.choice(answers), **asked)
    assert set(made.texts) <= set(answers)


def test_beams_obey_too(model, tokenizer):
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 30}
    made = generate(model, [5], tokenizer=tokenizer, constraint=Constraint.choice(["abc", "abd", "xyz"]), **asked)
    assert sorted(made.texts) == ["abc", "abd", "xyz"]


def test_a_grammar_and_a_stream(model, tokenizer):
    grammar = Constraint.lark('start: "(" start ")" | "x"')
    pieces = list(stream(model, tokenizer, [5], constraint=grammar, temperature=1.0, seed=4, max_new_tokens=100))
    text = "".join(piece.text for piece in pieces)
    if pieces[-1].finish_reason == "stop":
        assert text == "(" * text.count("(") + "x" + ")" * text.count("(")
    assert re.fullmatch(r"\(*x?\)*", text)


def test_no_control_token_is_ever_written(model, tokenizer):
    control = set(tokenizer.special_tokens.values())
    made = texts(model, tokenizer, Constraint.regex(r"(.|\n){20,}"), max_new_tokens=40, eos_token_id=())
    assert not control & {token for tokens in made.new_tokens for token in tokens}


def test_the_trace_says_what_a_constraint_took(model, tokenizer):
    made = texts(model, tokenizer, Constraint.choice(["abc"]), trace=True)
    first = made.traces[0][0]
    assert "constraint" in first.removed
    assert 0 < first.removed["constraint"] <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.json_schema("{not json"),
        lambda: Constraint.json_schema({"type": "nonsense"}),
        lambda: Constraint.regex("(unclosed"),
        lambda: Constraint.lark("start: missing_rule"),
        lambda: Constraint.choice([]),
        lambda: Constraint.choice("text"),
        lambda: Constraint.choice([""]),
    ],
)
def test_what_is_not_understood_is_refused(make):
    with pytest.raises(MalmoiError):
        make()


def test_it_fails_closed(model, tokenizer):
    with pytest.raises(MalmoiError, match="needs the tokenizer"):
        generate(model, [5], constraint=Constraint.regex("a"))
    prompt = tokenizer.encode("a") + tokenizer.encode("b")
    with pytest.raises(MalmoiError, match="forbidden"):  # both answers are ruled out: neither rule gives way
        generate(model, prompt, tokenizer=tokenizer, constraint=Constraint.choice(["a", "b"]), no_repeat_ngram_size=1)


def test_one_broken_constraint_hurts_nobody_else(model, tokenizer):
    engine = Engine(model, tokenizer)
    config = GenerationConfig(max_new_tokens=6, eos_token_id=())
    alone = [token.id for token in engine.stream(Request([5], config))]
    requests = [Request([5], config), Request([5], config, constraint=Constraint.regex("[a-z]{6}"))]
    found = {0: [], 1: []}
    for token in engine.stream(requests):
        found[token.request].append(token)
        if token.request == 1 and len(found[1]) == 2:
            (live,) = (live for live in engine._live.values() if live.request is requests[1])
            (writer,) = live.jobs.values()
            writer.matcher.state.consume_token(tokenizer.encode("\n")[0])  # as if it had got lost
    assert [token.id for token in found[0]] == alone
    assert found[1][-1].finish_reason == "error"
    assert "constraint cannot go on" in str(found[1][-1].error)
    assert engine.scheduler.pool.available == engine.scheduler.pool.num_blocks
