"""Forms: what a schema may be, and a compiler that may take its time, die or fill its memory without harm."""

import asyncio
import json
import time

import pytest

from malmoi.serve import forms, limits
from malmoi.serve.errors import ApiError
from malmoi.serve.forms import Forms, call_schema, called, text_or_call, tools_message
from serve.conftest import TOKENIZER, question

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def made():
    made = Forms(TOKENIZER, len(TOKENIZER))
    yield made
    made.close()


def compiled(made, kind, source):
    return asyncio.run(made.constraint(kind, source, "response_format"))


def accepts(constraint, text):
    matcher = constraint.matcher(TOKENIZER, len(TOKENIZER), ())
    for token in TOKENIZER.encode(text):
        if not matcher.allowed()[token]:
            return False
        matcher.consume(token)
    return bool(matcher.state.is_accepting())


def test_a_schema_becomes_a_constraint_and_is_remembered(made):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert compiled(made, "json", schema) is compiled(made, "json", dict(schema))
    assert accepts(compiled(made, "json", schema), '{"a":1}')
    assert not accepts(compiled(made, "json", schema), '{"a":"x"}')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"$ref": "http://169.254.169.254/schema"},
        {"$ref": "file:///etc/passwd"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": 7},
    ],
)
def test_a_schema_that_is_not_understood_is_refused(made, schema):
    """vLLM #17248, #17313: an invalid pattern or schema ended the server. Nothing that a schema names is fetched."""
    with pytest.raises(ApiError) as refused:
        compiled(made, "json", schema)
    assert refused.value.status == 400


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        deep(12),
        {"enum": [[index] for index in range(limits.SCHEMA_NODES)]},
        {"type": "string", "maxLength": 10**9},
        {"enum": ["x" * limits.SCHEMA_BYTES]},
    ],
)
def test_a_schema_that_is_too_large_is_refused_before_it_is_compiled(made, schema, monkeypatch):
    monkeypatch.setattr(made, "_known", lambda *_: pytest.fail("it was compiled"))
    with pytest.raises(ApiError) as refused:
        compiled(made, "json", schema)
    assert refused.value.code == "schema_limit"


def test_a_compiler_that_takes_too_long_is_killed_and_the_next_schema_is_compiled(made, monkeypatch):
    compiled(made, "json", {"type": "object"})
    first = made._process.pid
    monkeypatch.setattr(limits, "GRAMMAR_SECONDS", 0.0)
    began = time.monotonic()
    with pytest.raises(ApiError, match="seconds to compile"):
        compiled(made, "json", {"type": "object", "title": "slow"})
    assert time.monotonic() - began < 5
    monkeypatch.undo()
    assert compiled(made, "json", {"type": "object", "title": "quick"})
    assert made._process.pid != first


def test_a_compiler_that_dies_refuses_its_schema_only(made):
    compiled(made, "json", {"type": "object"})
    made._process.kill()
    made._process.join()
    assert compiled(made, "json", {"type": "object", "title": "after"})


def test_patterns_that_explode_elsewhere_take_linear_time(made):
    began = time.monotonic()
    constraint = compiled(made, "json", {"type": "string", "pattern": "^(a+)+$"})
    assert not accepts(constraint, '"' + "a" * 40 + '!"')
    assert time.monotonic() - began < 5


def test_a_refused_schema_over_http_names_its_field(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}
    answer = client.post(CHAT, json=question(response_format=form))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


TOOLS = [{"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}, {"name": "stop"}]


def test_a_call_is_one_of_the_tools_or_the_one_that_is_named(made):
    any_tool = compiled(made, "json", call_schema(TOOLS))
    assert accepts(any_tool, '{"name":"add","arguments":{"x":1}}')
    assert accepts(any_tool, '{"name":"stop","arguments":{}}')
    assert not accepts(any_tool, '{"name":"other","arguments":{}}')
    assert not accepts(compiled(made, "json", call_schema(TOOLS, "stop")), '{"name":"add","arguments":{}}')


def test_a_text_does_not_begin_with_a_brace(made):
    either = compiled(made, "lark", text_or_call(call_schema(TOOLS)))
    assert accepts(either, "hello {world}\nand more") and accepts(either, "")
    assert accepts(either, '{"name":"stop","arguments":{}}')
    assert not accepts(either, "{hello")


def test_calls_are_read_and_halves_are_not():
    assert called('{"name": "add", "arguments": {"x": "값"}}') == ("add", '{"x": "값"}')
    for half in ('{"name": "add", "argum', "text", "[]", '{"name": "add"}', "3"):
        assert called(half) is None


def test_the_model_is_told_its_tools():
    told = tools_message(TOOLS)
    assert told["role"] == "system" and all(json.dumps(tool) in told["content"] for tool in TOOLS)


def test_the_compiling_process_answers_each_form():
    class Pipe:
        def __init__(self):
            self.asked = [json.dumps(["json", '{"type": "object"}']), json.dumps(["json", '{"type": "no"}'])]
            self.told = []

        def recv_bytes(self):
            if not self.asked:
                raise EOFError
            return self.asked.pop(0).encode()

        def send_bytes(self, data):
            self.told.append(data)

    import resource

    pipe, before = Pipe(), forms._MEMORY
    try:
        forms._MEMORY = resource.getrlimit(resource.RLIMIT_AS)[1]  # this process keeps its memory
        forms.compile_for(pipe, TOKENIZER, len(TOKENIZER))
    finally:
        forms._MEMORY = before
    assert pipe.told[0] == b"ready" and "grammar" in json.loads(pipe.told[1]) and "error" in json.loads(pipe.told[2])
