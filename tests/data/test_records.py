"""Tables, JSON lines and templates: every record with its line, every mistake with its place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.data.corpus import read_paths
from malmoi.data.records import compile_template


def texts(path, *arguments):
    return [document.text for document in read_paths([path], *arguments)]


def file(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_header_is_there_when_a_column_is_named(tmp_path):
    path = file(tmp_path, "pairs.tsv", "en\tfr\nGo.\tVa !\nHi.\tSalut !\n")
    assert texts(path, None, "English: {en}\nFrench: {fr}") == [
        "English: Go.\nFrench: Va !",
        "English: Hi.\nFrench: Salut !",
    ]
    assert texts(path, "fr") == ["Va !", "Salut !"]
    assert texts(path, None, "{1}/{0}") == ["fr/en", "Va !/Go.", "Salut !/Hi."]  # numbers alone: no header
    assert texts(path, None, "{en}/{1}") == ["Go./Va !", "Hi./Salut !"]
    assert texts(file(tmp_path, "t.csv", "id,text\n1,가\n2,나\n")) == ["가", "나"]  # `text`, unasked
    assert texts(file(tmp_path, "years.csv", "a,2020\nx,y\n"), "2020") == ["y"]


def test_tabs_are_never_quoted_and_commas_may_be(tmp_path):
    assert texts(file(tmp_path, "a.tsv", '"He said\tI said"\nIt"s\t"\n'), None, "{0}|{1}") == [
        '"He said|I said"',
        'It"s|"',
    ]
    csv = 'en,fr\n"one, two","a ""b""\nc"\nx,y\n'
    assert texts(file(tmp_path, "a.csv", csv), None, "{en}|{fr}") == ['one, two|a "b"\nc', "x|y"]
    assert texts(file(tmp_path, "b.csv", "en;fr\n1,5;deux\n"), None, "{en}|{fr}") == ["1,5|deux"]
    named = [document.id for document in read_paths([tmp_path / "a.csv"], None, "{en}")]
    assert named == ["a.csv:2", "a.csv:4"]  # the line where the record begins


@pytest.mark.parametrize(
    ("name", "content", "field", "template", "message"),
    [
        ("a.tsv", "en\tfr\nx\ty\n", None, "{en} {fra}", "a.tsv: line 1: there is no column 'fra'. Did you mean 'fr'?"),
        ("a.tsv", "x\ty\n", None, "{0} {2}", "there is no column '2'"),
        ("a.tsv", "x\ty\nx\n", None, "{0}", "a.tsv: line 2: 1 columns where the first row has 2. Only .csv files"),
        ("a.csv", "x,y\n", None, None, "which columns make a document? Give a template over them, such as '{x}'"),
        ("a.csv", 'x,y\n1,2\n"a"b,c\n', "x", None, "a.csv: line 3: not valid CSV"),
        ("a.csv", 'x,y\n1,"2\n3', "x", None, "not valid CSV (unexpected end of data)"),
        ("a.csv", "x,x\n1,2\n", "x", None, "several columns 'x'"),
        ("a.csv", "x,y\n", "x", None, "a.csv: holds no text"),
        ("a.csv", "x,y\n1,2\n", None, "no braces", "names no column"),
        ("a.jsonl", '{"text": "a"}\n{"text": b}\n', None, None, "a.jsonl: line 2, column 10: not valid JSON"),
        ("a.jsonl", '[\n{"text": "a"}]', None, None, "Is the whole file one JSON value?"),
        ("a.jsonl", '"text"\n', None, None, "a.jsonl: line 1: a record must be a JSON object, not str"),
        ("a.jsonl", '{"n": ' + "9" * 9999 + "}", None, None, "line 1: cannot be read as JSON"),
        ("a.jsonl", "[" * 100_000, None, None, "line 1: JSON nested too deeply"),
        ("a.jsonl", '{"text": "a"}\n\n{"txt": "b"}\n', "text", None, "line 3: there is no field 'text'. Did you mean"),
        ("a.jsonl", '{"title": "a", "body": "b"}\n', None, None, "neither 'text' nor 'messages'"),
        ("a.jsonl", '{"text": 3}\n', None, None, "field 'text' holds int"),
        ("a.jsonl", '{"text": "\\ud83d"}\n', None, None, "line 1: the escape \\ud83d is half of a character"),
        ("a.jsonl", '{"q": "a"}\n', None, "{q} {a}", "line 1: the template names 'a', which is not there"),
        ("a.jsonl", '{"q": {"a": 1}}\n', None, "{q}", "line 1: 'q' holds a dict"),
        ("a.jsonl", "\n \n", None, None, "a.jsonl: holds no text"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, name, content, field, template, message):
    with pytest.raises(MalmoiError, match=re.escape(message)):
        texts(file(tmp_path, name, content), field, template)


def test_json_lines(tmp_path):
    path = file(
        tmp_path, "a.jsonl", '{"text": "하나", "id": 7}\r\n\n{"text": "  "}\n{"text": "둘\\n", "q": "Q", "n": 1.5}'
    )
    assert texts(path) == ["하나", "둘\n"]  # blank lines and empty texts give nothing
    assert [document.id for document in read_paths([path])] == ["7", "a.jsonl:4"]
    assert texts(file(tmp_path, "b.jsonl", '{"q": "Q", "n": 1.5}\n{"q": null, "n": ""}\n'), None, "{q}={n}") == [
        "Q=1.5"
    ]


def test_parquet(tmp_path):
    import gzip

    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    turns = [[{"role": "user", "content": "hi"}], None, []]
    table = {"text": ["하나", None, "셋"], "en": ["one", "two", None], "n": [1, 2, 3], "turns": turns}
    parquet.write_table(pyarrow.table(table), path, row_group_size=2)
    assert texts(path) == ["하나", "셋"]
    assert texts(path, None, "{en}: {n}") == ["one: 1", "two: 2", ": 3"]
    assert [document.messages for document in read_paths([path], "turns")] == [({"role": "user", "content": "hi"},)]
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert texts(tmp_path / "b.parquet.gz", "en") == ["one", "two"]
    with pytest.raises(MalmoiError, match=r"no column 'fr'.*Columns: text, en, n, turns"):
        texts(path, "fr")
    with pytest.raises(MalmoiError, match=r"a\.parquet: row 1: field 'n' holds int"):
        texts(path, "n")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MalmoiError, match=r"a\.parquet: cannot be read as Parquet"):
        texts(path)


@pytest.mark.parametrize("module", ["pyarrow", "zstandard"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module):
    import sys

    from malmoi.data import streams

    streams._zstandard.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    path = file(tmp_path, "a.parquet" if module == "pyarrow" else "a.txt.zst", "x")
    with pytest.raises(MalmoiError, match=r"needs the extra 'data': pip install 'malmoi\[data\]'"):
        texts(path)


def test_a_template_is_data():
    fill = compile_template("{{{a.__class__}}} {0!r:>10}")
    assert fill({"a.__class__": "<{a}>", "0!r:>10": 3}, "here") == "{<{a}>} 3"  # whole values, put in once
    with pytest.raises(MalmoiError, match=r"'a\.__class__', which is not there"):
        fill({"a": 1}, "here")


@given(st.dictionaries(st.from_regex(r"\w+", fullmatch=True), st.text(min_size=1), min_size=1, max_size=4), st.text())
def test_a_template_puts_values_in_unchanged(record, between):
    escaped = between.replace("{", "{{").replace("}", "}}")
    template = escaped.join("{" + name + "}" for name in record)
    assert compile_template(template)(record, "here") == between.join(record.values())
