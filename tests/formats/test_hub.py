"""From a name to a folder; the network is never touched here."""

import sys

import pytest

from malmoi.config import MalmoiError
from malmoi.formats import hub


def test_a_folder_is_itself(tmp_path):
    assert hub.find(tmp_path) == hub.find(str(tmp_path)) == tmp_path


def test_a_folder_wins_over_a_forbidden_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt-4").mkdir()
    assert hub.find("gpt-4").name == "gpt-4"


@pytest.mark.parametrize(
    "name", ["openai/gpt-4", "gpt-4", "gpt4", "openai/gpt-4o-mini", "openai/gpt-4.1", "openai/gpt-3.5-turbo", "gpt3"]
)
def test_weights_that_were_never_published(name):
    with pytest.raises(MalmoiError, match=r"never published.*runs/quickstart/model.*openai-community/gpt2"):
        hub.find(name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "a/b/c", "~nobody/x", "what? this", "..\\x"])
def test_no_such_folder(name):
    with pytest.raises(MalmoiError, match=r"there is no such folder"):
        hub.find(name)


def test_a_file_is_no_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(MalmoiError, match="is a file, but a model is a folder"):
        hub.find(file)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MalmoiError, match=r'pip install "malmoi\[hub\]"'):
        hub.find("someone/some-model")


def test_a_hub_name_is_downloaded_as_data_only(monkeypatch, tmp_path):
    library = pytest.importorskip("huggingface_hub")
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(library, "snapshot_download", snapshot_download)
    assert hub.find("openai-community/gpt2") == tmp_path
    assert asked["name"] == "openai-community/gpt2"
    assert not [pattern for pattern in asked["patterns"] if pattern.endswith((".bin", ".py", ".pt", "*"))]


def test_what_the_hub_says_is_passed_on_in_one_line(monkeypatch):
    library = pytest.importorskip("huggingface_hub")

    def snapshot_download(name, allow_patterns):
        raise OSError("404 Client Error.\nA long explanation")

    monkeypatch.setattr(library, "snapshot_download", snapshot_download)
    with pytest.raises(MalmoiError, match="did not give it either: 404 Client Error") as error:
        hub.find("someone/some-model")
    assert "\n" not in str(error.value)


def test_offline_is_respected(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MalmoiError, match="the Hugging Face hub did not give it"):
        hub.find("someone/some-model-that-is-nowhere")
