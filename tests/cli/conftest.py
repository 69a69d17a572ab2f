"""A tiny trained run that all command line tests share, and a way to call the command line."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from malmoi.cli import main
from malmoi.cli.pipeline import run
from malmoi.config import Recipe

SENTENCES = [
    f"The {colour} {animal} sees {number} birds near the house. {korean} 집 옆에서 새 {number} 마리를 봅니다."
    for number in range(1, 13)
    for colour in ("red", "small", "old", "young")
    for animal, korean in (("cat", "고양이가"), ("dog", "개가"), ("horse", "말이"))
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small two-language corpus in one file, many documents."""
    path = tmp_path_factory.mktemp("corpus") / "animals.jsonl"
    path.write_text("".join(f'{{"text": "{sentence}"}}\n' for sentence in SENTENCES), encoding="utf-8")
    return path


def tiny_recipe(corpus: Path, **changes: object) -> Recipe:
    """A model of two layers that trains in a second."""
    values: dict = {
        "data": {"sources": [{"path": str(corpus), "license": "CC0"}], "held_out": 0.2},
        "size": "nano",
        "vocab_size": 320,
        "model": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128},
        "train": {
            "max_steps": 6,
            "sequence_length": 48,
            "per_device_train_batch_size": 4,
            "eval_steps": 3,
            "save_steps": 3,
            "logging_steps": 1,
        },
        "generation": {"temperature": 0.7},
    }
    return Recipe(**{**values, **changes})


@pytest.fixture(scope="session")
def finished_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Tests read it and never write into it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run(tiny_recipe(corpus), folder)
    return folder


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve discs of a colour with their names, as JSON lines beside the pictures."""
    image = pytest.importorskip("PIL.Image")
    draw = pytest.importorskip("PIL.ImageDraw")
    folder = tmp_path_factory.mktemp("drawings")
    lines = []
    for number, colour in enumerate(("red", "green", "blue", "orange") * 3):
        picture = image.new("RGB", (40, 32), "white")
        draw.Draw(picture).ellipse((4 + number, 4, 20 + number, 24), fill=colour)
        picture.save(folder / f"{number}.png")
        lines.append(f'{{"file": "{number}.png", "name": "a {colour} disc"}}\n')
    (folder / "labels.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def pictured_recipe(drawings: Path) -> Recipe:
    """The tiny model over pictures and their names, both ways."""
    labels = {"path": str(drawings / "labels.jsonl"), "image": "file"}
    ways = [{**labels, "name": "draw", "template": "{name}{image}"}]
    ways.append({**labels, "name": "describe", "template": "{image}English: {name}"})
    recipe = tiny_recipe(drawings, data={"sources": ways, "held_out": 0.2}, vocab_size=280)
    images = {"image_size": 32, "levels": [4, 3], "hidden_channels": 8, "num_blocks": 0, "max_steps": 4}
    return recipe.replace(images=images, train={**recipe.train, "sequence_length": 96})


@pytest.fixture(scope="session")
def pictured_run(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that knows pictures. Tests read it and never write into it."""
    folder = tmp_path_factory.mktemp("runs") / "pictured"
    run(pictured_recipe(drawings), folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def is_one_clear_error(self, *words: str) -> None:
        """Exit 1, nothing on stdout, a short text on stderr that names what is wrong; no stack trace."""
        assert self.code == 1, self
        assert self.out == ""
        assert "Traceback" not in self.err
        assert "mistake of its own" not in self.err
        for word in words:
            assert word in self.err, self.err


@pytest.fixture
def malmoi(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    """Run a command line in this process, as a pipe would."""
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    for name in ("LC_ALL", "LC_MESSAGES", "MALMOI_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object, stdin: bytes | str = b"") -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
