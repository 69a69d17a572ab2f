"""Both READMEs do what they say: their Python runs, their shell lines exist, and the two tell the same things."""

import re
import shlex
from pathlib import Path

import pytest

from cli.conftest import corpus, finished_run, malmoi  # noqa: F401 - fixtures
from malmoi.cli.verbs import VERBS, load

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.ko.md")
QUICKSTART = "runs/quickstart"


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def malmoi_lines(name: str) -> list[list[str]]:
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if re.match(r"(\.venv/bin/)?malmoi ", line)]


LINES = [(name, line) for name in READMES for line in malmoi_lines(name)]


@pytest.mark.parametrize("name", READMES)
def test_the_python_runs_as_written(name: str, finished_run: Path, capsys):  # noqa: F811
    code = "\n".join(blocks(name, "python"))
    assert QUICKSTART in code
    exec(compile(code.replace(QUICKSTART, finished_run.as_posix()), name, "exec"), {})
    said = capsys.readouterr().out
    for number in range(1, 6):
        assert f"Generated output {number}: Translate this text to French: " in said
    assert said.count("한때") == 2


def test_the_public_code_stands_word_for_word():
    expected = """\
inputs = tokenizer.encode("Translate this text to French: ", return_tensors='pt')
outputs = model.generate(inputs, max_length=60, num_return_sequences=5, temperature=0.7)
for i, output in enumerate(outputs):
    print(f"Generated output {i+1}: {tokenizer.decode(output, skip_special_tokens=True)}")
"""
    for name in READMES:
        assert expected in blocks(name, "python")[0]


@pytest.mark.parametrize(
    ("name", "line"), LINES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_shell_line_names_verbs_and_options_that_exist(name: str, line: list[str]):
    command, rest = load(line[0]), line[1:]
    if getattr(command, "commands", None):
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in rest:
        assert not word.startswith("-") or word in known, f"{name}: {word} is no option of {line}"


# What needs no files of the reader's own and no training is run for real.
RUNNABLE = [
    line for line in malmoi_lines("README.md") if line[0] not in ("train", "quickstart") and "books/" not in line
]
RUNNABLE = [line for line in RUNNABLE if line[0] not in ("runs", "serve")]  # what serves has tests of its own
RUNNABLE = [line for line in RUNNABLE if not any(word.startswith(("runs/books", "runs/mnist")) for word in line)]


@pytest.mark.parametrize("line", RUNNABLE, ids=" ".join)
def test_a_shell_line_works(line: list[str], finished_run: Path, malmoi, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace(QUICKSTART, str(finished_run)) for word in line]
    limits = {"eval": ["-n", "1"], "generate": ["-m", "8"], "chat": ["-m", "4"]}
    outcome = malmoi(*arguments, *limits.get(line[0], []), stdin="안녕\n")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()


def test_both_readmes_have_the_same_commands_and_table():
    english, korean = (malmoi_lines(name) for name in READMES)
    assert english == korean
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(r"^\| `malmoi ([\w-]+)` \|", text, flags=re.MULTILINE) == list(VERBS)


@pytest.mark.parametrize("name", READMES)
def test_links_and_recipes_lead_somewhere(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"recipes/\w+\.yaml", text)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), f"{name}: {target} is not there"


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in READMES:
        for target in re.findall(r"^make (\w+)", "\n".join(blocks(name, "sh")), flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
