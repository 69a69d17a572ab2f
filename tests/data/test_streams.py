"""Files are found in one order, unpacked, and refused with the place of what is wrong."""

import gzip
import io
import lzma
import re

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.data import streams
from malmoi.data.streams import find_files, open_bytes, read_blocks, read_lines, suffixes

PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


def text_of(data: bytes) -> str:
    return "".join(read_blocks(io.BytesIO(data), "file.txt"))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK", 7)


def test_suffixes():
    assert suffixes("a/b.jsonl.xz") == (".jsonl", ".xz")
    assert suffixes("A.TXT") == (".txt", "")
    assert suffixes("v1.2.csv.gz") == (".csv", ".gz")
    assert suffixes("images.tar.xz") == ("", ".xz")
    assert suffixes("README") == ("", "")


def test_folders_are_sorted_and_without_what_is_about_the_data(tmp_path):
    data = ("b/2.txt", "b/10.txt", "a.jsonl", "c.tsv.xz")
    for name in (*data, "NOTICE.txt", "README.txt", "LICENSE-MIT.txt", ".hid.txt", ".git/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in map(tmp_path.__truediv__, find_files(tmp_path))]
    assert [name.replace("\\", "/") for name in found] == ["a.jsonl", "c.tsv.xz", "b/10.txt", "b/2.txt"]
    assert find_files(tmp_path / "NOTICE.txt")  # asked for by name, it is read


def test_globs_count_each_file_once(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("deep/1.txt", "deep/er/2.txt", "deep/er/3.md"):
        (tmp_path / name).write_text("x")
    assert len(find_files(tmp_path / "**")) == 2
    assert len(find_files(tmp_path / "de*/*.txt")) == 1
    with pytest.raises(MalmoiError, match=re.escape("*.csv: no file matches")):
        find_files(tmp_path / "*.csv")
    with pytest.raises(MalmoiError, match=r"3\.md.*Known: \.txt, \.jsonl"):
        find_files(tmp_path / "deep/er/*.md")


def test_paths_that_do_not_work_say_why(tmp_path):
    (tmp_path / "corpus.txt").write_text("x")
    (tmp_path / "corpus.docx").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MalmoiError, match=r"no such file or folder. Did you mean 'corpus.txt'"):
        find_files(tmp_path / "corpos.txt")
    with pytest.raises(MalmoiError, match=r"\(\.docx\)\. Known: \.txt, \.jsonl, \.csv, \.tsv, \.parquet, .* \.zst"):
        find_files(tmp_path / "corpus.docx")
    with pytest.raises(MalmoiError, match="holds no file that can be read"):
        find_files(tmp_path / "empty")


@pytest.mark.parametrize("packing", PACK)
def test_archives(tmp_path, packing):
    text = "".join(f"줄 {number} naïve 🐈\n" for number in range(5000)).encode()
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(PACK[packing](text[:20000]) + PACK[packing](text[20000:]))  # several frames are one file
    with open_bytes(str(path)) as stream:
        assert stream.read() == text
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:40] + bytes(20) + whole[60:], b"not an archive at all"):
        path.write_bytes(broken)
        message = rf"a\.txt{re.escape(packing)}: is not a whole {packing[1:]} archive"
        with pytest.raises(MalmoiError, match=message), open_bytes(str(path)) as stream:
            while stream.read(1000):
                pass


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1), st.integers(1, 9))
def test_text_passes_unchanged_whatever_the_blocks(text, block):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(block)

    data = text.encode()
    if data.startswith(b"\xef\xbb\xbf"):
        text = text[1:]  # a byte order mark belongs to the file
    assert "".join(read_blocks(Slow(data), "f")) == text
    lines = [line for _, line in read_lines(Slow(data), "f")]
    assert "\n".join(lines) == text.removesuffix("\n")


@pytest.mark.usefixtures("small_blocks")
def test_byte_order_mark_and_windows_line_ends_go_and_nothing_else():
    assert text_of(b"\xef\xbb\xbfone\r\ntwo\rthree\r\n\r\n") == "one\ntwo\rthree\n\n"
    assert text_of("가각가 é é\u2028ﬁ".encode()) == "가각가 é é\u2028ﬁ"  # no normalisation
    assert text_of(b"123456\r\n") == "123456\n"  # the pair straddles two blocks
    assert [line for _, line in read_lines(io.BytesIO("a\u2028b\nc".encode()), "f")] == ["a\u2028b", "c"]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file.txt: is empty"),
        (b"good\nbad \xff here", r"line 2, byte 9: not UTF-8 \(0xff"),
        (b"\xef\xbb\xbfgood\nmore\nbad \xff here", r"line 3, byte 17: not UTF-8"),
        (b"cut off \xea\xb0", r"line 1, byte 8: not UTF-8"),
        (b"one\ntwo\n\x89PNG\0\0", r"byte 12 \(line 3\) is NUL"),
        ("안녕".encode("utf-16"), "is UTF-16"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(data, message):
    with pytest.raises(MalmoiError, match=message):
        text_of(data)


def test_a_likely_encoding_is_named():
    with pytest.raises(MalmoiError, match=r"line 2, byte 3: .*CP949 \('안녕하세요'\): iconv -f cp949"):
        text_of(b"hi\n" + "안녕하세요".encode("cp949"))
    with pytest.raises(MalmoiError, match=r"byte 2: .*CP1252 \('L'été à Paris'\)"):
        text_of("L'été à Paris".encode("cp1252"))
