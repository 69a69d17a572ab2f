"""Every way in which a tokenizer's files can be wrong is one clear sentence."""

import os
import re
import shutil
import sys

import pytest

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.tokens import folder as files


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "name", ["openai/gpt-4", "gpt-4", "openai/gpt-4o-mini", "openai/gpt-3.5-turbo", "gpt-5", "GPT-4"]
)
def test_gpt4_was_never_published(name):
    with pytest.raises(MalmoiError, match="never published") as caught:
        GPT4Tokenizer.from_pretrained(name)
    assert "malmoi quickstart" in str(caught.value)
    assert "openai-community/gpt2" in str(caught.value)


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "openai-community/gpt2", "gpt2", "openai-gpt"])
def test_published_models_are_asked_for(name, monkeypatch, folder):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(repo, allow_patterns):
        asked.append((repo, "tokenizer.json" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert GPT4Tokenizer.from_pretrained(name).eos_token_id == 0
    assert asked == [(name, True)]


def test_a_folder_wins_over_a_name(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "openai" / "gpt-4")
    monkeypatch.chdir(tmp_path)
    assert len(GPT4Tokenizer.from_pretrained("openai/gpt-4")) == 440


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MalmoiError, match=re.escape('pip install "malmoi[hub]"')):
        GPT4Tokenizer.from_pretrained("someone/something")


def test_a_hub_that_does_not_answer(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise OSError("the net is down\nwith a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(MalmoiError, match=r"someone/something.*the net is down") as caught:
        GPT4Tokenizer.from_pretrained("someone/something")
    assert "long story" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "../x/y/z", "a/b/c", ""])
def test_no_such_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MalmoiError, match="no such"):
        GPT4Tokenizer.from_pretrained(name)


def test_a_file_is_not_a_folder_but_its_tokenizer_json_will_do(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(MalmoiError, match="is a file"):
        GPT4Tokenizer.from_pretrained(tmp_path / "model.safetensors")
    assert len(GPT4Tokenizer.from_pretrained(folder / "tokenizer.json")) == 440


def test_missing_tokenizer_json(copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(MalmoiError, match=r"tokenizer\.json: there is no such file"):
        GPT4Tokenizer.from_pretrained(copied)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}x', b"3"])
def test_damaged_json(copied, name, damage):
    (copied / name).write_bytes(damage)
    with pytest.raises(MalmoiError, match=re.escape(name)):
        GPT4Tokenizer.from_pretrained(copied)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(copied, share):
    path = copied / "tokenizer.json"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MalmoiError, match=r"tokenizer\.json: is not valid JSON \(line \d+"):
        GPT4Tokenizer.from_pretrained(copied)


def test_a_template_that_is_not_text(copied):
    (copied / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(MalmoiError, match=r"chat_template\.jinja: is not UTF-8"):
        GPT4Tokenizer.from_pretrained(copied)


def test_json_nested_beyond_reason(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(MalmoiError, match="not valid JSON"):
        files.read_json(tmp_path / "deep.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tokenizer, copied, monkeypatch):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MalmoiError, match=r"cannot be written: No space left on device"):
        tokenizer.save_pretrained(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_folder_that_cannot_be_made(tokenizer, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MalmoiError, match="cannot be made"):
        tokenizer.save_pretrained(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_saved_files_can_be_read_by_others(folder):
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
