"""A folder changes all at once, or not at all."""

import errno

import pytest

from malmoi.config import MalmoiError
from malmoi.formats.atomic import carry, recover, replaced


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("old", encoding="utf-8")
    return folder


def content(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def alone(folder):
    return [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_new_folder_and_its_parents(tmp_path):
    with replaced(tmp_path / "a" / "b") as new:
        (new / "x").write_text("1", encoding="utf-8")
        assert not (tmp_path / "a" / "b").exists()
    assert content(tmp_path / "a" / "b") == {"x": "1"}
    assert alone(tmp_path / "a" / "b")


def test_the_old_content_is_replaced(folder):
    with replaced(folder) as new:
        (new / "new.txt").write_text("new", encoding="utf-8")
        assert content(folder) == {"old.txt": "old"}
    assert content(folder) == {"new.txt": "new"}
    assert alone(folder)


@pytest.mark.parametrize("mistake", [KeyboardInterrupt, ValueError, MemoryError])
def test_whatever_goes_wrong_the_old_content_stays(folder, mistake):
    with pytest.raises(mistake), replaced(folder) as new:
        (new / "half").write_text("ha", encoding="utf-8")
        raise mistake
    assert content(folder) == {"old.txt": "old"}
    assert alone(folder)


def test_a_full_disk_is_told_in_words(folder):
    message = r"No space left on device.*What was there before is unchanged"
    with pytest.raises(MalmoiError, match=message), replaced(folder):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert content(folder) == {"old.txt": "old"}
    assert alone(folder)


def test_a_second_rename_that_fails_brings_the_old_content_back(folder, monkeypatch):
    real = type(folder).rename

    def rename(self, target):
        if self.name.endswith(".saving"):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(type(folder), "rename", rename)
    with pytest.raises(MalmoiError, match="Input/output error"), replaced(folder) as new:
        (new / "x").write_text("1", encoding="utf-8")
    assert content(folder) == {"old.txt": "old"}
    assert alone(folder)


def test_a_process_killed_between_the_renames_loses_nothing(folder):
    folder.rename(folder.parent / ".model.old")
    recover(folder)
    assert content(folder) == {"old.txt": "old"}
    assert alone(folder)


def test_what_a_killed_process_left_is_swept_away(folder):
    left = folder.parent / ".model.saving"
    left.mkdir()
    (left / "half").write_text("ha", encoding="utf-8")
    with replaced(folder) as new:
        assert content(new) == {}
        (new / "x").write_text("1", encoding="utf-8")
    assert content(folder) == {"x": "1"}
    assert alone(folder)


def test_carry_takes_over_what_is_not_there_yet(folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.txt").write_text("deep", encoding="utf-8")
    (folder / "not.txt").write_text("not", encoding="utf-8")
    (folder / "both.txt").write_text("theirs", encoding="utf-8")
    target = tmp_path / "target"
    target.mkdir()
    (target / "both.txt").write_text("ours", encoding="utf-8")
    carry(folder, target, but_not={"not.txt"})
    assert (target / "sub" / "deep.txt").read_text(encoding="utf-8") == "deep"
    assert sorted(path.name for path in target.iterdir()) == ["both.txt", "old.txt", "sub"]
    assert (target / "both.txt").read_text(encoding="utf-8") == "ours"
