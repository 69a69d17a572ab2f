"""The history of `malmoi chat`: in the platform's place, the person's alone, off when told so, never of a pipe."""

import os
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from malmoi.cli import history

readline = pytest.importorskip("readline", reason="no readline on this platform")


def test_its_place(monkeypatch):
    monkeypatch.delenv(history.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", "/home/anna")
    for state in ("", "relative"):  # the specification: a path that is not absolute is ignored
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert history.path() == Path("/home/anna/.local/state/malmoi/chat_history")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history.path() == Path("/state/malmoi/chat_history")
    monkeypatch.setenv(history.VARIABLE, "~/mine")
    assert history.path() == Path("/home/anna/mine")
    monkeypatch.setenv(history.VARIABLE, "")
    assert history.path() is None


def lines():
    return [readline.get_history_item(place + 1) for place in range(readline.get_current_history_length())]


def test_a_conversation_finds_the_lines_of_the_ones_before(tmp_path: Path):
    file = tmp_path / "malmoi" / "chat_history"
    with history.kept(file):
        assert lines() == []
        readline.add_history("안녕하세요?")
    file.chmod(0o644)
    with history.kept(file):
        assert lines() == ["안녕하세요?"]
        readline.add_history("/temperature 0.2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with history.kept(file):
        assert lines() == ["안녕하세요?", "/temperature 0.2"]


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(history, "LINES", 3)
    with history.kept(tmp_path / "h"):
        for number in range(9):
            readline.add_history(str(number))
    with history.kept(tmp_path / "h"):
        assert lines() == ["6", "7", "8"]


def test_a_disk_that_refuses_costs_no_conversation(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("in the way")
    with history.kept(tmp_path / "file" / "chat_history"):
        pass
    assert "cannot be kept" in capsys.readouterr().err


def in_a_terminal(arguments, environment, *typed):
    """Run a command on a terminal of its own; each text is typed at a prompt. Returns what the terminal showed."""
    pty = pytest.importorskip("pty", reason="no terminals on this platform")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    ) as made:
        os.close(theirs)
        said, waiting, until = b"", list(typed), time.monotonic() + 120
        while time.monotonic() < until:
            ready, _, _ = select.select([ours], [], [], 0.1)
            try:
                said += os.read(ours, 4096) if ready else b""
            except OSError:  # the other end is closed
                break
            if waiting and said.count(b"> ") > len(typed) - len(waiting):
                os.write(ours, waiting.pop(0).encode())
        made.kill()
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_in_a_terminal_the_arrow_keys_bring_it_back(finished_run: Path, tmp_path: Path, kept: bool):
    file = tmp_path / "chat_history"
    environment = {**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1", history.VARIABLE: str(file) if kept else ""}
    command = [sys.executable, "-m", "malmoi", "chat", str(finished_run), "-m", "2", "--backend", "torch"]
    file.write_text("/temperature 0.25\n")
    shown = in_a_terminal(command, environment, "\x1b[A\n", "/exit\n")
    assert ("(temperature 0.25)" in shown) == kept
    assert ("/exit" in file.read_text()) == kept


def test_a_pipe_keeps_none(malmoi, finished_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "chat_history"))
    assert malmoi("chat", finished_run, "-m", 2, stdin="/temperature 0.2\n").code == 0
    assert not (tmp_path / "chat_history").exists()
