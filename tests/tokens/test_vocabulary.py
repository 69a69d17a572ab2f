"""Learning: the size asked for, bounded memory, the same from the same, clear refusals; and what languages cost."""

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi import MalmoiError
from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.tokens.vocabulary import (
    O200K_PATTERN,
    SMALLEST_VOCABULARY,
    SPECIAL_TOKENS,
    fertility,
    guess_language,
    learn,
    learn_english_only,
    report,
    sample,
)


def words(tokenizer: GPT4Tokenizer, text: str) -> list[str]:
    """How the pattern cuts a text before any merge."""
    pieces = tokenizer._tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in pieces]


def stories(count, seed=0):
    draw = random.Random(seed)
    nouns = ["고양이", "할머니", "cat", "woman", "chat", "village", "사전", "마을"]
    for index in range(count):
        yield " ".join(draw.choices(nouns, k=30)) + f" {index}.\n"


def test_the_size_is_exact_and_the_layout_known(texts):
    for size in (SMALLEST_VOCABULARY, 300, 440):
        tokenizer = learn(texts, size)
        assert len(tokenizer) == tokenizer.vocab_size == size
        assert tuple(tokenizer.special_tokens) == SPECIAL_TOKENS
    assert SMALLEST_VOCABULARY == 272
    assert len(set(SPECIAL_TOKENS)) == 16


def test_the_declared_pattern_is_the_gpt_4o_one(folder):
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split, byte_level = description["pre_tokenizer"]["pretokenizers"]
    assert split == {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated", "invert": False}
    assert (byte_level["type"], byte_level["add_prefix_space"], byte_level["use_regex"]) == ("ByteLevel", False, False)
    assert description["normalizer"] is None
    assert description["truncation"] is description["padding"] is None


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Hello world", ["Hello", " world"]),
        ("HelloWorld's", ["Hello", "World's"]),
        ("안녕하세요 세계!", ["안녕하세요", " 세계", "!"]),
        ("1234567", ["123", "456", "7"]),
        ("a  b\n\n c", ["a", " ", " b", "\n\n", " c"]),
        ("https://a.b/", ["https", "://", "a", ".b", "/"]),
        ("l'été", ["l", "'été"]),
        ("<|end|>", ["<|", "end", "|>"]),
    ],
)
def test_words_are_cut_as_gpt_4o_cuts_them(tokenizer, text, cut):
    assert words(tokenizer, text) == cut


def test_the_same_texts_in_any_order_give_the_same_tokenizer(texts):
    shuffled = texts.copy()
    random.Random(1).shuffle(shuffled)
    assert learn(texts, 440)._tokenizer.to_str() == learn(iter(shuffled), 440)._tokenizer.to_str()


def test_too_large_a_vocabulary_says_which_size_would_do(texts):
    with pytest.raises(MalmoiError, match="vocab_size=9999 is more than this text can fill") as caught:
        learn(texts, 9999)
    would_do = int(str(caught.value).split("Set vocab_size to ")[1].split(" ")[0])
    assert len(learn(texts, would_do)) == would_do
    with pytest.raises(MalmoiError):
        learn(texts, would_do + 1)


@pytest.mark.parametrize("nothing", [[], [""], iter(["", ""])])
def test_no_text_is_an_error(nothing):
    with pytest.raises(MalmoiError, match="no text"):
        learn(nothing, 300)


@pytest.mark.parametrize(
    ("texts", "size", "settings", "says"),
    [
        (["abc"], 271, {}, "at least 272"),
        (["abc"], 300, {"sample_bytes": 10}, "sample_bytes=10"),
        (["abc", 3], 300, {}, "Document 1 is int"),
        (["abc", "d\ud800"], 300, {}, "Document 1 holds a lone surrogate.*character 1"),
    ],
)
def test_wrong_arguments_are_named(texts, size, settings, says):
    with pytest.raises(MalmoiError, match=says):
        learn(texts, size, **settings)


# -------------------------------------------------------------------- the sample


def test_the_sample_keeps_to_its_budget_however_much_comes():
    pieces = sample(stories(5000), 20_000)
    size = sum(len(piece.encode()) for piece in pieces)
    assert 19_000 < size <= 20_000
    whole = list(stories(50))
    assert sorted(sample(whole, 10**6)) == sorted(whole)


def test_the_sample_comes_from_everywhere():
    count = 4000
    kept = sorted(int(piece.rsplit(" ", 1)[1][:-2]) for piece in sample(stories(count), 40_000))
    quarters = [sum(1 for k in kept if k * 4 // count == q) / len(kept) for q in range(4)]
    assert all(0.15 < share < 0.35 for share in quarters), quarters


def test_the_sample_does_not_prefer_short_documents():
    """Large documents lose no ground although each fills more of the budget: the sample begins a random order."""
    documents = [f"{index} " + ("길" if index % 2 else "길" * 40) for index in range(6000)]
    kept = sample(documents, 60_000)
    long = sum(len(piece) > 20 for piece in kept) / len(kept)
    assert 0.45 < long < 0.55


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    documents = list(stories(500))
    assert sample(documents, 20_000) == sample(reversed(documents), 20_000)
    assert sample(documents, 20_000, seed=1) != sample(documents, 20_000, seed=2)


def test_one_long_document_is_sampled_in_pieces():
    book = "".join(stories(2000))
    pieces = sample([book], 40_000)
    assert len(pieces) >= 10
    assert all(piece in book for piece in pieces)
    assert sum(len(piece.encode()) for piece in pieces) <= 40_000


@given(st.text(max_size=3000))
def test_cutting_a_long_document_loses_nothing(text):
    from malmoi.tokens.vocabulary import _pieces

    assert "".join(_pieces([text], 256)) == text
    assert all(0 < len(piece) <= 256 for piece in _pieces([text], 256))


def test_learning_from_an_endless_looking_stream_is_fine():
    tokenizer = learn(itertools.islice(stories(10**9), 2000), 290, sample_bytes=8192)
    assert len(tokenizer) == 290


# -------------------------------------------------------------------- what languages cost


def test_fertility_counts_what_it_says(tokenizer, by_language):
    results = fertility(tokenizer, {language: iter(texts) for language, texts in by_language.items()})
    assert list(results) == ["ko", "en", "fr"]
    korean = results["ko"]
    assert korean.characters == sum(map(len, by_language["ko"]))
    assert korean.bytes == sum(len(text.encode()) for text in by_language["ko"])
    assert korean.tokens == sum(len(tokenizer.encode(text)) for text in by_language["ko"])
    assert korean.tokens_per_character == korean.tokens / korean.characters
    assert korean.tokens_per_byte == korean.tokens / korean.bytes
    with pytest.raises(MalmoiError, match="'xx'"):
        fertility(tokenizer, {"xx": [""]})


def test_the_report_shows_what_english_only_costs_korean(tokenizer, by_language):
    result = report(tokenizer, {language: iter(texts) for language, texts in by_language.items()})
    rows = {row["language"]: row for row in result.rows}
    assert result.vocab_size == 440
    assert SMALLEST_VOCABULARY - 15 < result.english_only_vocab_size <= 440
    assert rows["ko"]["english_only_tokens_per_byte"] > 0.85  # nearly a token a byte
    assert rows["ko"]["tokens_per_byte"] < 0.6
    assert rows["ko"]["saved"] > 0.3
    assert rows["en"]["saved"] < rows["ko"]["saved"] - 0.3
    for row in result.rows:
        assert row["saved"] == 1 - row["tokens"] / row["english_only_tokens"]
    assert json.loads(json.dumps(result.as_dict()))["rows"][0]["language"] == "ko"
    with pytest.raises(MalmoiError, match="English"):
        report(tokenizer, {"ko": by_language["ko"]})


def test_the_english_only_vocabulary_cuts_as_gpt_2_does(by_language):
    baseline = learn_english_only(by_language["en"], 320)
    assert words(baseline, "They've 1234 cats!  OK") == ["They", "'ve", " 1234", " cats", "!", " ", " OK"]
    assert baseline.special_tokens == {"<|endoftext|>": 0}
    assert baseline.decode(baseline.encode("고양이 <|endoftext|>")) == "고양이 <|endoftext|>"
    with pytest.raises(MalmoiError, match="English"):
        learn_english_only([], 320)


def test_languages_are_told_apart(by_language):
    for language, texts in by_language.items():
        assert [guess_language(text) for text in texts] == [language] * len(texts)
    for text in ("", "12345", "猫がいる", "xyzzy", "👋🏽"):
        assert guess_language(text) == "other"
