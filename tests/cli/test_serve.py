"""`malmoi serve`: a folder becomes a server; beyond this machine only with a key; SIGTERM ends it well."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from malmoi import GPT4LMHeadModel, ModelConfig
from malmoi.cli import main
from malmoi.cli.serve import hash_of, service_of
from malmoi.formats import huggingface
from malmoi.tokens.vocabulary import learn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "tiny"
    tokenizer = learn(["hello world 안녕 세상"] * 20, vocab_size=280)
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
    )
    huggingface.save(GPT4LMHeadModel(config), place, tokenizer=tokenizer)
    return place


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_leaving_this_machine_needs_a_key(capsys, monkeypatch, host):
    monkeypatch.delenv("MALMOI_API_KEY", raising=False)
    assert main(["serve", "nowhere", "--host", host]) != 0
    assert "key" in capsys.readouterr().err


def test_a_folder_becomes_a_service(folder):
    service = service_of(str(folder), "auto", None, 1, 64)
    assert service.name == "tiny" and service.context == 128 and len(service.model_hash) == 64
    model, tokenizer = service.torch_model()
    assert len(tokenizer) == len(service.tokenizer) and service.torch_model()[0] is model


def test_a_quantised_folder_is_served_and_says_why_nobody_can_look_inside(folder, tmp_path):
    from fastapi.testclient import TestClient

    from malmoi.native.library import unavailable
    from malmoi.serve.app import create_app

    if unavailable() is not None:
        pytest.skip(f"no native engine here: {unavailable()}")
    assert main(["quantise", str(folder), "--method", "nearest", "--out", str(tmp_path / "tiny8")]) == 0
    service = service_of(str(tmp_path / "tiny8"), "auto", None, 1, 64)
    asked = {"messages": [{"role": "user", "content": "hello"}]}
    with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
        assert client.post("/v1/chat/completions", json={**asked, "max_tokens": 3}).status_code == 200
        assert client.post("/inside/next", json=asked).status_code == 200
        for path, body in (("/inside/token", asked), ("/v1/embeddings", {"input": "hello"})):
            answer = client.post(path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "not_available")
            for word in ("torch", "tiny8", "malmoi quantise", "the folder that it was made from"):
                assert word in error["message"]
            assert str(tmp_path) not in answer.text


def test_an_ipv6_address_is_a_host_in_brackets(folder, monkeypatch):
    from malmoi.serve import http

    seen = []
    monkeypatch.setattr(http, "run", lambda app, *_: seen.append(app.user_middleware[0].kwargs["hosts"]))
    for host in ("::1", "localhost"):
        assert main(["serve", str(folder), "--host", host, "--allowed-host", "my.machine"]) == 0
    assert seen == [["my.machine", "[::1]"], ["my.machine", "localhost"]]


def test_the_hash_follows_the_weights(folder, tmp_path):
    first = hash_of(folder)
    assert first == hash_of(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert hash_of(tmp_path) == first
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert hash_of(tmp_path) != first


def test_it_answers_and_ends_on_sigterm(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "malmoi", "serve", str(folder), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        address = ""
        while not address:
            line = process.stderr.readline()
            assert line, "the server ended"
            address = next((word for word in line.split() if word.startswith("http://")), "")
        body = json.dumps({"prompt": "hello", "max_tokens": 3}).encode()
        asked = urllib.request.Request(
            f"{address}/v1/completions", data=body, headers={"Content-Type": "application/json"}
        )
        until = time.monotonic() + 30
        while True:
            try:
                answer = json.load(urllib.request.urlopen(asked, timeout=20))
                break
            except ConnectionError:
                assert time.monotonic() < until
        assert answer["usage"]["completion_tokens"] <= 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
