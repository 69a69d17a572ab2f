"""What a document is, for each kind of source, and on the real data sets."""

import io
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError, SourceConfig
from malmoi.data import corpus
from malmoi.data.corpus import read, read_paths, source_name, split_text


@given(
    st.lists(st.sampled_from(["word", "말 ", " ", ". ", "\n", "\n\n", "\n\n\n\n", "x" * 30]), max_size=80),
    st.integers(1, 12),
    st.integers(5, 40),
)
@settings(max_examples=300)
def test_cutting_text_loses_only_blank_lines_and_keeps_the_sizes(pieces, block, target):
    text = "".join(pieces)
    blocks = [text[at : at + block] for at in range(0, len(text), block)]
    documents = list(split_text(blocks, target))
    assert documents == list(split_text([text], target))  # the blocks do not matter
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(0 < len(document) <= 2 * target for document in documents)
    assert not any(document.isspace() or document.strip("\n") != document for document in documents)


def test_text_is_cut_where_a_reader_pauses():
    paragraph = "One sentence here. And another!\nA line.\n\n"
    documents = list(split_text([paragraph * 50], 200))
    assert all(document.endswith("A line.") and len(document) >= 150 for document in documents[:-1])
    lines = list(split_text(["A line of some words\n" * 100], 200))
    assert all(len(line) % 21 == 20 for line in lines)
    sentences = list(split_text(["Some words here. " * 100], 200))
    assert all(sentence.endswith("here. ") for sentence in sentences[:-1])
    assert list(split_text(["가" * 900], 200)) == ["가" * 400, "가" * 400, "가" * 100]
    assert list(split_text(["short\n\ntext\n"], 200)) == ["short\n\ntext"]


def test_a_large_file_is_never_held_whole(monkeypatch):
    made = itertools.count()

    def endless():
        while True:
            next(made)
            yield "Paragraph of a novel that does not end.\n\n" * 100

    first = list(itertools.islice(split_text(endless()), 3))
    assert len(first) == 3 and next(made) < 8


@pytest.mark.parametrize(
    ("turns", "roles"),
    [
        ('["Hi", "Hello", "Bye"]', ["user", "assistant", "user"]),
        ('[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]', ["system", "user"]),
        ('[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]', ["user", "assistant"]),
        (
            '[{"speaker": "agent_2", "text": "a"}, {"speaker": "agent_1", "text": "b"}, '
            '{"speaker": "agent_2", "text": "c"}]',
            ["user", "assistant", "user"],
        ),
    ],
)
def test_conversations_in_the_usual_spellings(tmp_path, turns, roles):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"messages": {turns}, "other": 1}}\n{{"messages": []}}\n')
    (document,) = read_paths([path])
    assert [message["role"] for message in document.messages] == roles
    assert all(
        isinstance(message["content"], str) and set(message) == {"role", "content"} for message in document.messages
    )
    assert document.text == ""


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("[3]", "line 1: turn 1 holds int"),
        ('[{"role": "user"}]', r"line 1: turn 1 needs 'role' and 'content' \(texts\). It has: role"),
        ('[{"from": "a", "text": "x"}, {"from": "b", "text": "x"}, {"from": "c", "text": "x"}]', "third speaker, 'c'"),
    ],
)
def test_conversations_that_are_none(tmp_path, turns, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"messages": {turns}}}\n')
    with pytest.raises(MalmoiError, match=message):
        list(read_paths([path]))


@pytest.mark.parametrize(
    ("data", "field", "template", "expected"),
    [
        ("plain text\nof two lines\n", None, None, ["plain text\nof two lines"]),
        ('{"text": "a"}\n{"text": "b"}\n', None, None, ["a", "b"]),
        ('{"q": "a"}\n', "q", None, ["a"]),
        ("a\tb\nc\td\n", None, "{0}-{1}", ["a-b", "c-d"]),
        ("a,b\nc,d\n", None, "{b}", ["d"]),
    ],
)
def test_standard_input(monkeypatch, data, field, template, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert [document.text for document in read_paths(["-"], field, template)] == expected


def test_a_source_gives_its_name_licence_and_no_more_than_asked(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "가나", "license": "CC0"}\n' * 9)
    path = str(tmp_path / "a.jsonl")
    documents = list(read(SourceConfig(path=path), max_documents=4))
    assert [document.license for document in documents] == ["CC0"] * 4
    assert {document.source for document in documents} == {f"{tmp_path.name}/a"}
    documents = list(read(SourceConfig(path=(path, path), name="n", license="MIT"), max_bytes=13))
    assert [(document.source, document.license) for document in documents] == [("n", "MIT")] * 3  # 6 bytes each
    assert len(list(read(SourceConfig(path=(path, path))))) == 18
    assert source_name(SourceConfig(path="-")) == "stdin"
    assert source_name(SourceConfig(path="village")) == "village"
    assert source_name(SourceConfig(path="data/books/*.jsonl.xz")) == "books/*"
    assert source_name(SourceConfig(path=("x/one.txt", "x/two.txt"))) == "x/one+1"


def test_the_village_is_a_source():
    few = list(read(SourceConfig(path="village:20"), seed=3))
    assert len(few) == 20 and {document.source for document in few} == {"village"}
    assert few == list(read(SourceConfig(path="village"), seed=3, max_documents=20))
    assert few != list(read(SourceConfig(path="village"), seed=4, max_documents=20))
    with pytest.raises(MalmoiError, match="village:200000"):
        list(read(SourceConfig(path="village:many")))


REAL = {
    "english/gutenberg_children_books/train.jsonl.xz": (4_922, {}),
    "korean/nsmc_reviews/valid.tsv.xz": (7_032, {}),
    "korean/question_pair/train.csv.xz": (6_888, {"template": "{question1}\n{question2}"}),
    "korean/klue_dev/nli_dev.jsonl.xz": (3_000, {"template": "{premise} {hypothesis}"}),
    "translation/tatoeba_en_fr/valid.tsv.xz": (3_438, {"template": "English: {0}\nFrench: {1}"}),
    "translation/flores200_en_fr_ko/dev.tsv.xz": (997, {"template": "{en}\n{fr}\n{ko}"}),
    "instruct/sgd_dialogues/valid.jsonl.xz": (500, {"field": "turns"}),
    "instruct/topical_chat/valid.jsonl.xz": (270, {"field": "turns"}),
    "instruct/chatterbot_corpus/all.jsonl.xz": (2_568, {"field": "turns"}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_are_read_whole(shared_data, name):
    count, how = REAL[name]
    documents = list(read(SourceConfig(path=str(shared_data / name), **how)))
    assert len(documents) == count
    assert all(document.text or document.messages for document in documents)


def test_a_book_as_plain_text_becomes_pages_not_lines(shared_data):
    sizes = [
        len(document.text)
        for document in read(SourceConfig(path=str(shared_data / "english/tinyshakespeare/train.txt.xz")))
    ]
    assert min(sizes[:-1]) >= corpus.TARGET_CHARACTERS - 2 and max(sizes) <= 2 * corpus.TARGET_CHARACTERS
    assert sum(sizes) > 0.99 * 1_003_000
