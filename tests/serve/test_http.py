"""The connection: slow requests, and an end that lets streams finish."""

import socket
import time

import pytest

from malmoi.config import MalmoiError
from malmoi.serve import http, limits
from serve.conftest import Running, service_of


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    server = Running(service_of())
    yield server
    server.close()


def closed(connection):
    connection.settimeout(5)
    said = b""
    while part := connection.recv(4096):
        said += part
    return said


@pytest.mark.parametrize(
    "begun", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"POST /tokenize HTTP/1.1\r\n"]
)
def test_headers_that_never_end_close_the_connection(impatient, begun):
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        connection.sendall(begun)
        began = time.monotonic()
        assert closed(connection) == b""
        assert time.monotonic() - began < 4


def test_a_second_request_that_never_ends_closes_it_too(impatient):
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        said = b""
        while b"alive" not in said:
            said += connection.recv(4096)
        connection.sendall(b"GET /hea")
        assert closed(connection) == b""


def test_a_body_that_never_ends_is_a_408(impatient):
    head = b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port)) as connection:
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"text": ')
        assert b" 408 " in closed(connection)


@pytest.mark.parametrize(
    "odd",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nxxx",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
    ],
)
def test_what_is_no_http_is_refused_and_the_server_goes_on(running, odd):
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.settimeout(5)
        connection.sendall(odd)
        try:
            said = connection.recv(4096)
        except ConnectionError:
            said = b""
        assert said[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 431")
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert b"alive" in closed(connection)


def test_connections_are_counted(monkeypatch):
    """Who holds connections open finds an end of them; the others are told to come back."""
    monkeypatch.setattr(limits, "CONNECTIONS", 3)
    server = Running(service_of())
    try:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as late:
            late.sendall(request)
            assert b" 503 " in closed(late)
        for each in held:
            each.close()
        until, said = time.monotonic() + 5, b""
        while b"alive" not in said and time.monotonic() < until:
            with socket.create_connection(("127.0.0.1", server.port)) as later:
                later.sendall(request)
                said = closed(later)
        assert b"alive" in said
    finally:
        server.close()


def test_a_port_that_is_taken_is_said(running):
    with pytest.raises(MalmoiError, match="--port"):
        http.run(None, "127.0.0.1", running.port, "x")
