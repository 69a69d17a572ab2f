"""Archives are read without unpacking; damaged, huge and lying ones are refused."""

import io
import tarfile
import zipfile

import pytest

from malmoi.config import MalmoiError
from malmoi.data import archives
from malmoi.data.archives import members


def packed(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:xz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz"])
def test_members_are_handed_on_by_name(tmp_path, name):
    files = {"b/two.png": b"2", "../one.png": b"1", "notes.txt": b"no"}
    assert list(members(packed(tmp_path / name, files))) == [("b/two.png", b"2"), ("../one.png", b"1")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # nothing was written


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz"])
def test_a_bomb_is_refused(tmp_path, name):
    bomb = packed(tmp_path / name, {"big.png": bytes(archives.MAX_MEMBER + 1)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(MalmoiError, match=r"'big\.png' has 4,194,305 bytes"):
        list(members(bomb))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz"])
@pytest.mark.parametrize("keep", [0, 30, 120])
def test_what_is_cut_short_or_no_archive_is_said(tmp_path, name, keep):
    path = packed(tmp_path / name, {f"{i}.png": bytes(range(256)) * 4 for i in range(20)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MalmoiError, match="is damaged or no archive"):
        list(members(path))


def test_a_missing_archive_is_said(tmp_path):
    with pytest.raises(MalmoiError, match="there is no such file"):
        list(members(tmp_path / "none.zip"))


def test_many_members_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(MalmoiError, match="more than 3 files"):
        list(members(packed(tmp_path / "a.zip", {f"{i}.png": b"" for i in range(4)})))
