"""A model folder's JSON, read without torch; how each file can be wrong is tested in test_huggingface.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.formats import folder as folders
from malmoi.formats import huggingface
from small_models import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    huggingface.save(build("modern"), tmp_path / "model")
    return tmp_path / "model"


def test_what_a_folder_says_is_read_without_torch(folder: Path):
    code = f"""
import sys
from pathlib import Path
from malmoi.config import GenerationConfig
from malmoi.formats import folder
place = Path({str(folder)!r})
print(folder.read_config(place).vocab_size, folder.read_generation(place, GenerationConfig()))
print("torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("61 ")
    assert said.endswith("False\n")


def test_generation_settings_there_and_back(folder: Path):
    wished = GenerationConfig(temperature=0.5, top_k=7)
    folders.write_json(folder / folders.GENERATION, folders.to_generation(wished) | {"transformers_version": "5"})
    assert folders.read_generation(folder, GenerationConfig()) == wished


def test_a_vocabulary_is_known_by_its_content_and_not_by_its_order():
    assert folders.mark({"a": 0, "b": 1}) == folders.mark({"b": 1, "a": 0}) != folders.mark({"a": 1, "b": 0})


def test_a_file_that_is_no_object(folder: Path):
    (folder / folders.CONFIG).write_text("[1]", encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"config\.json: must hold a JSON object, but holds a list"):
        folders.read_config(folder)
