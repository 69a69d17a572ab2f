"""The door, and each row of the list of what other servers fell to: the attack is refused, or there is no such door."""

import json

import pytest
from fastapi.testclient import TestClient

from malmoi.serve import limits
from malmoi.serve.app import create_app
from malmoi.serve.errors import ApiError
from malmoi.serve.guard import Keys, require_plain_json
from serve.conftest import HERE, question, service_of

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def locked():
    service = service_of()
    with TestClient(create_app(service, keys=["k-1", "k-2"]), base_url=HERE, raise_server_exceptions=False) as client:
        client.service = service
        yield client


# ---------------------------------------------------------------- keys


def test_every_route_but_health_and_the_page_wants_a_key(locked):
    """vLLM's `--api-key` left /tokenize, /invocations and others open."""
    routes = {(route, method) for route, of in locked.app.openapi()["paths"].items() for method in of}
    assert len(routes) > 10
    for route, method in sorted(routes):
        answer = locked.request(method.upper(), route, json={} if method == "post" else None)
        assert answer.status_code == (200 if route == "/health" else 401), (method, route)
    assert locked.get("/openapi.json").status_code == 401
    assert locked.get("/metrics", headers={"Authorization": "Bearer k-2"}).status_code == 200


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic k-1", "k-1", "Bearer k-1x", "Bearer \xff"])
def test_a_wrong_key_is_a_401(locked, header):
    answer = locked.get("/v1/models", headers={"Authorization": header.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_keys_are_compared_whole_by_their_digests(monkeypatch):
    """CVE-2025-59425: a comparison that stops early tells the key by its time. All keys are always compared."""
    compared = []
    from malmoi.serve import guard

    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    keys = Keys(["one", "two", "three"])
    assert keys.owner("one") is not None and keys.owner("none") is None
    assert compared == [(32, 32)] * 6


def test_prompts_of_different_keys_and_users_share_no_cache(locked):
    """PromptPeek: the time to the first token told what somebody else had asked."""
    seen = []
    prepare = locked.service.engine.prepare
    locked.service.engine.prepare = lambda request: seen.append(request.salt) or prepare(request)
    try:
        for key, user in (("k-1", None), ("k-2", None), ("k-1", "anna"), ("k-1", None)):
            body = question(user=user) if user else question()
            assert locked.post(CHAT, json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    finally:
        locked.service.engine.prepare = prepare
    assert seen[0] == seen[3] and len(set(seen)) == 3
    assert not any("k-1" in salt or "k-2" in salt for salt in seen)


# ---------------------------------------------------------------- other sites


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil"])
def test_a_foreign_host_is_refused(client, host):
    """DNS rebinding: a page's own name made to point at this machine."""
    assert client.get("/v1/models", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_our_own_hosts_are_known(client, host):
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost"])
def test_a_request_of_another_sites_page_is_refused(client, origin):
    answer = client.post(CHAT, json=question(), headers={"Origin": origin})
    assert answer.status_code == 403


def test_our_own_page_may_ask_and_nobody_is_allowed_by_cors(client):
    answer = client.post(CHAT, json=question(), headers={"Origin": HERE})
    assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("access-control")]
    asked = client.options(CHAT, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert asked.status_code in (403, 405)


def test_a_form_of_another_site_is_no_json(client):
    """What a browser sends without asking first: text/plain and forms."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post(CHAT, content=json.dumps(question()), headers={"Content-Type": kind})
        assert answer.status_code == 415


# ---------------------------------------------------------------- sizes


def test_a_large_body_is_refused_by_its_declaration_and_by_its_bytes(client):
    big = json.dumps(question(stop="x" * limits.BODY_BYTES))
    assert client.post(CHAT, content=big, headers={"Content-Type": "application/json"}).status_code == 413

    def parts():
        for _ in range(20):
            yield b" " * 100_000

    assert client.post(CHAT, content=parts(), headers={"Content-Type": "application/json"}).status_code == 413


def test_large_headers_are_refused(client):
    """CVE-2025-48956."""
    assert client.get("/health", headers={"X-Long": "x" * limits.HEADER_BYTES}).status_code == 431


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"{",
        b"",
        b"\xff",
        b"NaN",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": ' + b"9" * 10_000 + b"}",
        b'{"temperature": 1e999, "messages": []}',
        rb'{"messages": [{"role": "user", "content": "\ud800"}]}',
        b'"text"',
        b"[]",
        b"null",
    ],
)
def test_no_json_at_all_is_a_400(client, body):
    answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_brackets_inside_texts_are_no_depth():
    require_plain_json(json.dumps({"text": "[" * 1000 + '\\"' + "{" * 1000}).encode())
    require_plain_json(b"[" + b"[]," * 1000 + b"1]")
    with pytest.raises(ApiError):
        require_plain_json(b"[" * 33 + b"]" * 33)


# ---------------------------------------------------------------- the list of what others fell to


@pytest.mark.parametrize("field", ["best_of", "use_beam_search", "ignore_eos", "min_tokens", "num_beams"])
def test_counts_that_explode_are_no_fields(client, field):
    """vLLM's `best_of`; CVE-2026-34756's `n` is bounded by the schema (test_chat)."""
    assert client.post(CHAT, json=question(**{field: 1_000_000})).json()["error"]["param"] == field


def test_answers_times_length_is_weighed_before_it_is_queued(client):
    answer = client.post(CHAT, json=question(n=8, max_tokens=10**9))
    assert answer.status_code == 400 and "does not fit" in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", [-1, -(2**63), 2**80, 1e308, 0.5, None.__class__.__name__])
@pytest.mark.parametrize("field", ["max_tokens", "n", "top_k", "seed"])
def test_numbers_out_of_range_are_refused(client, field, value):
    """CVE-2026-21869: a negative count in llama.cpp's server wrote outside its buffer."""
    assert client.post(CHAT, json=question(**{field: value})).status_code == 400


@pytest.mark.parametrize("field", ["prompt_embeds", "inputs_embeds", "audio", "kv_transfer_params"])
def test_tensors_are_no_fields(client, field):
    """CVE-2025-62164: vLLM unpickled tensors of clients."""
    for route, body in ((CHAT, question()), ("/v1/completions", {"prompt": "hi"})):
        assert client.post(route, json={**body, field: "gASVAAAA"}).status_code == 400


@pytest.mark.parametrize(
    "field", ["chat_template", "chat_template_kwargs", "mm_processor_kwargs", "add_generation_prompt"]
)
def test_templates_are_no_fields(client, field):
    """CVE-2024-34359, CVE-2026-5760, CVE-2025-61620: templates of clients were run."""
    assert client.post(CHAT, json=question(**{field: "{{ 1 }}"})).json()["error"]["param"] == field


def test_braces_in_a_message_are_text(client):
    body = {"messages": [{"role": "user", "content": "{{ cycler.__init__.__globals__ }} {% for x in range(9**9) %}"}]}
    assert client.post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize("field", ["guided_regex", "guided_grammar", "structured_outputs", "regex", "grammar"])
def test_patterns_and_grammars_are_no_fields(client, field):
    """CVE-2025-48944."""
    assert client.post(CHAT, json=question(**{field: "(a+)+$"})).json()["error"]["param"] == field


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "https://example.com/a.png", "file:///etc/passwd", "data:text/html,x", "//x"],
)
def test_no_address_is_ever_fetched(client, monkeypatch, url):
    """CVE-2025-6242, CVE-2026-24779: servers that fetched what a client named."""
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("a name was looked up"))
    content = [{"type": "image_url", "image_url": {"url": url}}]
    assert client.post(CHAT, json={"messages": [{"role": "user", "content": content}]}).status_code == 400


@pytest.mark.parametrize("path", ["/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/sha256:../x", "/page/../../x"])
def test_no_path_leads_out(client, path):
    """CVE-2024-37032, CVE-2026-7020."""
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/pause", "/update_weights", "/load", "/shutdown", "/slots", "/props", "/lora", "/docs", "/redoc"],
)
def test_there_are_no_side_doors(client, path):
    assert client.get(path).status_code == client.post(path, json={}).status_code == 404


def test_there_is_one_door_and_nothing_is_unpickled():
    """llama.cpp's RPC, and every server that unpickled what came in: no other socket listens, nothing reads pickles."""
    import ast
    from pathlib import Path

    import malmoi.serve

    banned = {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "xmlrpc",
        "grpc",
        "socketserver",
        "urllib",
        "requests",
    }
    for path in Path(malmoi.serve.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned & {name.split(".")[0] for name in names}, path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("recv", "loads") and _is(node, "pipe")), path


def _is(node, name):
    return getattr(node.value, "id", getattr(node.value, "attr", "")).endswith(name)


def test_two_hosts_are_none(running):
    import socket

    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096)[:12] == b"HTTP/1.1 400"


@pytest.mark.parametrize(
    "path", ["/page/../v1/models", "/page/..%2fv1/models", "//v1/models", "/health/../v1/models", "/HEALTH"]
)
def test_no_spelling_of_a_path_goes_around_the_key(path):
    import socket

    from serve.conftest import Running

    server = Running(service_of(), keys=["k"])
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            said = connection.recv(65536)
        assert said[:12] in (b"HTTP/1.1 401", b"HTTP/1.1 404") and b"made-up" not in said
    finally:
        server.close()


def test_errors_tell_no_paths_and_no_traces(client):
    for body in (question(n=0), {"messages": "x"}, question(response_format={"type": "x"})):
        text = client.post(CHAT, json=body).text
        assert "Traceback" not in text and "/malmoi/" not in text and "site-packages" not in text
