"""The whole server through the official `openai` client and raw sockets, and its own OpenAPI document."""

import json
import re
import socket
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest

from malmoi.serve import limits
from serve.conftest import ANSWER, IDS, Running, question, rambles, service_of, settled, slowly, speaks

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"day": {"enum": ["mon", "tue"]}},
            "required": ["day"],
            "additionalProperties": False,
        },
    },
}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def ai(running):
    return openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def wild(rambling):
    return openai.OpenAI(base_url=f"{rambling.address}/v1", api_key="none", max_retries=0, timeout=20)


def test_openai_chat(ai):
    made = ai.chat.completions.create(model="made-up", messages=MESSAGES, seed=3)
    assert made.choices[0].message.content == ANSWER
    assert made.usage.completion_tokens == len(IDS) + 1 and made.seed == 3


def test_openai_stream(ai):
    chunks = list(
        ai.chat.completions.create(
            model="made-up", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage.completion_tokens == len(IDS) + 1


def test_openai_n_and_logprobs(wild):
    made = wild.chat.completions.create(
        model="made-up", messages=MESSAGES, n=3, logprobs=True, top_logprobs=2, max_tokens=5
    )
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    for choice in made.choices:
        assert len(choice.logprobs.content) == 5
        assert choice.logprobs.content[0].bytes and len(choice.logprobs.content[0].top_logprobs) == 2


def test_openai_tools_and_json_schema(wild):
    made = wild.chat.completions.create(
        model="made-up", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=300
    )
    call = made.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments)["day"] in ("mon", "tue")
    form = {"name": "yes", "schema": {"enum": ["yes", "no"]}}
    made = wild.chat.completions.create(
        model="made-up",
        messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": form},
        max_tokens=20,
    )
    assert json.loads(made.choices[0].message.content) in ("yes", "no")


def test_openai_completions_responses_models(ai):
    assert ai.completions.create(model="made-up", prompt="hi", max_tokens=3).usage.completion_tokens == 3
    assert ai.responses.create(model="made-up", input="hi").output_text == ANSWER
    kinds = [event.type for event in ai.responses.create(model="made-up", input="hi", stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") > 3
    assert [model.id for model in ai.models.list()] == ["made-up"]


def test_openai_errors_are_the_clients_own(ai):
    with pytest.raises(openai.BadRequestError) as refused:
        ai.chat.completions.create(model="made-up", messages=MESSAGES, extra_body={"best_of": 3})
    assert refused.value.body["param"] == "best_of"
    with pytest.raises(openai.NotFoundError):
        ai.chat.completions.create(model="gpt-4", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="text only"):
        ai.images.generate(prompt="a cat")
    with pytest.raises(openai.BadRequestError):
        ai.embeddings.create(model="made-up", input="hi")


def test_openai_keys():
    server = Running(service_of(), keys=["right-key"])
    try:
        for key, error in (("wrong-key", openai.AuthenticationError), ("right-key", None)):
            ai = openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0)
            if error is None:
                assert ai.models.list().data
            else:
                with pytest.raises(error):
                    ai.models.list()
    finally:
        server.close()


def test_openai_timeout_frees_the_place(rambling):
    ai = openai.OpenAI(base_url=f"{rambling.address}/v1", api_key="none", max_retries=0, timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        ai.chat.completions.create(model="made-up", messages=MESSAGES, max_tokens=900)
    assert settled(rambling.service)


@pytest.mark.parametrize("page", ["docs/serve.md", "docs/serve.ko.md", "README.md", "README.ko.md"])
def test_the_curl_lines_of_the_pages(running, page):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^\s*(curl .*127\.0\.0\.1:8000.*)$", text, flags=re.MULTILINE)
    assert lines
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", running.address).replace(
            "http://localhost:8000", running.address
        )
        made = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20)
        assert made.returncode == 0 and made.stdout and '"error"' not in made.stdout


def test_a_client_that_leaves_frees_its_slot_within_a_step_or_two(rambling):
    body = json.dumps(question(stream=True, max_tokens=900)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{rambling.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    before = rambling.service.metrics.tokens
    with socket.create_connection(("127.0.0.1", rambling.port)) as connection:
        connection.sendall(head + body)
        assert b"200" in connection.recv(4096)
    assert settled(rambling.service)
    assert rambling.service.metrics.tokens - before < 400  # of 900
    assert rambling.service.metrics.cancelled > 0


def test_sixty_that_leave_and_then_one_answer(rambling):
    """vLLM's own test of cancelling, at our scale: all leave early, the next one is answered at once."""
    with httpx.Client(base_url=rambling.address, timeout=0.05) as impatient:
        for _ in range(60):
            with pytest.raises(httpx.TimeoutException):
                impatient.post("/v1/chat/completions", json=question(max_tokens=900))
    assert settled(rambling.service)
    began = time.monotonic()
    assert httpx.post(f"{rambling.address}/v1/chat/completions", json=question(max_tokens=1)).status_code == 200
    assert time.monotonic() - began < 5


def test_shutting_down_finishes_streams():
    server = Running(service_of(slowly(speaks, 0.05)))
    text = ""
    with httpx.stream(
        "POST", f"{server.address}/v1/chat/completions", json=question(stream=True), timeout=20
    ) as answer:
        for line in answer.iter_lines():
            if not text:
                server.server.should_exit = True  # what SIGTERM does
            text += line + "\n"
    server.close()
    assert text.rstrip().endswith("[DONE]") and '"finish_reason":"stop"' in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/health")


def test_no_prompt_is_logged(running, caplog, capfd):
    with caplog.at_level("DEBUG", logger="malmoi"):
        secret = {"messages": [{"role": "user", "content": "a secret 비밀"}]}
        assert httpx.post(f"{running.address}/v1/chat/completions", json=secret).status_code == 200
        assert httpx.post(f"{running.address}/v1/chat/completions", json={**secret, "best_of": 2}).status_code == 400
    assert "secret" not in "".join(record.getMessage() for record in caplog.records if "malmoi" in record.name)
    assert "secret" not in "".join(capfd.readouterr())


def test_a_fault_is_a_500_that_is_counted_and_logged_on_a_line_of_its_own(caplog, capfd):
    """CR and LF of a client cannot forge a line of the log, and the client is told nothing of the inside."""
    service = service_of()
    server = Running(service)

    def breaks(text):
        raise RuntimeError(f"cannot read {text}")

    service.tokenizer = type("Broken", (), {"encode": staticmethod(breaks)})()
    try:
        answer = httpx.post(
            f"{server.address}/tokenize", json={"text": "x\r\n2026-01-01 INFO \x1b[31mforged" + "y" * 999}
        )
        assert answer.status_code == 500 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "cannot read" not in answer.text and "Traceback" not in answer.text
        assert 'http_responses_total{code="500"} 1' in httpx.get(f"{server.address}/metrics").text
    finally:
        server.close()
    logged = caplog.text + "".join(capfd.readouterr())
    assert "cannot read" in logged and "breaks" in logged  # what it was, and where
    assert not [line for line in logged.splitlines() if line.startswith("2026-01-01")]
    assert "\x1b" not in logged and "y" * 300 not in logged


def test_a_client_that_never_reads_is_let_go(monkeypatch):
    """It keeps its connection open and its ears shut: its answer is ended once a piece has not left for a while."""
    monkeypatch.setattr(limits, "SEND_SECONDS", 0.3)
    server = Running(service_of(rambles, max_position=8192, num_blocks=4096))
    body = json.dumps(question(stream=True, max_tokens=8000, explain=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    try:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(head + body)
            until = time.monotonic() + 30
            while not server.service.metrics.tokens and time.monotonic() < until:
                time.sleep(0.01)
            assert settled(server.service, 30)
            assert server.service.metrics.cancelled == 1 and server.service.metrics.tokens < 8000
    finally:
        server.close()


@pytest.mark.slow
def test_the_openapi_document_holds_what_schemathesis_tries(client):
    """Many odd requests to every route: never a 5xx, and every error in the one shape."""
    import schemathesis

    document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    for operation in document.get_all_operations():
        _try(operation.ok().as_strategy(), client)


def _try(strategy, client):
    from hypothesis import HealthCheck, Phase, given, settings

    @given(case=strategy)
    @settings(
        max_examples=6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
        derandomize=True,
    )
    def run(case):
        body = None if type(case.body).__name__ == "NotSet" else case.body
        answer = client.request(case.method, case.formatted_path, json=body)
        assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    run()
