"""The list of verbs, laziness, unknown words, exit codes: what every verb shares."""

import errno
import os
import subprocess
import sys

import pytest

from malmoi import __version__
from malmoi.cli.verbs import VERBS, load, reflowed


def test_help_lists_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom malmoi.cli import main\nmain(['--help'])\n"
        "heavy = {'torch', 'pydantic', 'transformers', 'numpy', 'tokenizers', 'yaml'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "LOADED []" in result.stdout
    listing = result.stdout[result.stdout.index("Commands:") :]
    for verb, (_, summary) in VERBS.items():
        assert verb in listing
        assert summary in listing, "a summary is cut off in the list: make it shorter"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_teaches_in_its_help(malmoi, verb: str):
    outcome = malmoi(verb, "--help")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert f"malmoi {verb}" in outcome.out
    command = load(verb)
    commands = list(getattr(command, "commands", {}).values()) or [command]
    for one in commands:
        assert "Examples" in one.help, f"{one.name} shows no example"
        for parameter in one.params:
            assert getattr(parameter, "help", None), f"{verb} {one.name}: {parameter.name} is not explained"


def test_help_paragraphs_flow_and_examples_keep_their_lines():
    text = "First.\n\nOne two\nthree.\n\n[bold]Examples[/bold]\n\n\b\nmalmoi a\nmalmoi b"
    assert reflowed(text) == "First.\n\nOne two three.\n\n[bold]Examples[/bold]\n\nmalmoi a\nmalmoi b"


def test_version(malmoi):
    assert malmoi("--version").out.strip() == f"malmoi {__version__}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["tokenizer", "lern"], "Did you mean 'learn'?"),
        (["generate", "x", "y", "--temprature", "1"], "Did you mean '--temperature'?"),
        (["eval", "x", "--txt", "a"], "Did you mean '--text'?"),
        (["generate", "x"], "Missing argument"),
        (["generate", "x", "y", "--top-k", "many"], "--top-k"),
    ],
)
def test_a_mistake_in_the_command_line_exits_2_and_names_the_nearest_word(malmoi, line: list[str], expected: str):
    outcome = malmoi(*line)
    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err
    assert "--help" in outcome.err
    assert "Traceback" not in outcome.err


def test_without_a_verb_the_help_is_shown(malmoi):
    outcome = malmoi()
    assert outcome.code in (0, 2)  # typer's choice, which changed
    assert "quickstart" in outcome.out + outcome.err


def test_ctrl_c_exits_130_without_a_trace(malmoi, monkeypatch):
    from malmoi.cli import params

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(params, "describe", interrupted)
    outcome = malmoi("params", "nano")
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


def test_a_full_disk_is_said_in_one_line(malmoi, monkeypatch):
    from malmoi.cli import params

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/model.safetensors")

    monkeypatch.setattr(params, "describe", full)
    malmoi("params", "nano").is_one_clear_error("/somewhere/model.safetensors", os.strerror(errno.ENOSPC))


def test_a_bug_is_called_a_bug_and_debug_shows_where(malmoi, monkeypatch):
    from malmoi.cli import params

    def broken(*_):
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(params, "describe", broken)
    outcome = malmoi("params", "nano")
    assert outcome.code == 70
    assert "mistake of its own" in outcome.err
    assert "MALMOI_DEBUG" in outcome.err
    monkeypatch.setenv("MALMOI_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        malmoi("params", "nano")


def test_a_reader_that_leaves_is_not_complained_about():
    """`malmoi params nano | head -1`, with a reader that reads nothing at all."""
    code = "import sys; from malmoi.cli import main; sys.exit(main(['explain']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert errors == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_offers_verbs_and_options(shell: str):
    environment = {"_MALMOI_COMPLETE": f"complete_{shell}", "COMP_WORDS": "malmoi tr", "COMP_CWORD": "1"}
    environment |= {"_TYPER_COMPLETE_ARGS": "malmoi tr", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; from malmoi.cli import main; sys.exit(main([]))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
    )
    assert "train" in result.stdout
    assert "quickstart" not in result.stdout


def test_output_survives_an_encoding_without_hangul():
    code = "import sys; from malmoi.cli import main; sys.exit(main(['explain', 'temperature', '--lang', 'ko']))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert result.returncode == 0, result.stderr
    assert "무엇" in result.stdout.decode("utf-8")


def test_no_color_is_respected(malmoi, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    outcome = malmoi("explain", "temperature")
    assert outcome.code == 0
    assert "\x1b[36m" not in outcome.out
