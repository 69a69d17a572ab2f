"""The vocabulary in a GGUF file: the way of cutting is found by its pattern, and the ids stay what they were."""

import json
from dataclasses import replace

import pytest
from exported_models import SENTENCES, build, byte_level, cut_by, sentencepiece
from tokenizers import Tokenizer

from malmoi.config import MalmoiError
from malmoi.formats import gguf, gguf_tokenizer, handover
from malmoi.formats.gguf_tokenizer import CONTROL, CUTS, NORMAL, UNUSED, describe, read, rebuild
from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.tokens.vocabulary import GPT2_PATTERN, O200K_PATTERN

TEXTS = [*SENTENCES, *handover.SAMPLES, *handover.CASES, "ÉCOLE CŒUR 12345 don't DON'T\n\n\t x", "", " ", "ÉCOLE"]


def changed(tokenizer: GPT4Tokenizer, change) -> GPT4Tokenizer:
    """The same tokenizer with its `tokenizer.json` edited."""
    said = json.loads(tokenizer._tokenizer.to_str())
    change(said)
    return GPT4Tokenizer(Tokenizer.from_str(json.dumps(said)), tokenizer._settings, tokenizer.chat_template)


def through_a_file(tokenizer: GPT4Tokenizer, tmp_path, layout: str = "qwen3") -> gguf_tokenizer.Vocabulary:
    model = build(layout, vocab_size=tokenizer.vocab_size + 3, eos_token_id=0, pad_token_id=None)
    writer = gguf.begin(tmp_path / "v.gguf", model, "f32", "tiny")
    gguf_tokenizer.write(writer, describe(tokenizer, model.config.vocab_size))
    gguf.finish(writer, model, "f32")
    writer.close()
    return read(gguf.values(gguf.open_file(tmp_path / "v.gguf")))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_a_way_of_cutting_is_known_by_its_pattern(cut, tmp_path):
    tokenizer = cut_by(cut.patterns, cut.whole_words, TEXTS * 3)
    read_back = through_a_file(tokenizer, tmp_path)
    assert read_back.pre == cut.name
    rebuilt = rebuild(read_back)
    assert all(rebuilt.encode(text).ids == tokenizer.encode(text) for text in TEXTS)


def test_our_own_patterns_have_names():
    patterns = {pattern: cut_by((pattern,), False, TEXTS * 3) for pattern in (O200K_PATTERN, GPT2_PATTERN)}
    assert {p: describe(t, t.vocab_size).pre for p, t in patterns.items()} == {
        O200K_PATTERN: "gpt-4o",
        GPT2_PATTERN: "gpt-2",
    }
    gpt2 = changed(patterns[GPT2_PATTERN], lambda said: said.update(pre_tokenizer=GPT2_BYTE_LEVEL))
    assert describe(gpt2, 2000).pre == "gpt-2"


GPT2_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def test_what_llama_cpp_cannot_say_about_capitals_is_told_and_modelled():
    tokenizer = cut_by((O200K_PATTERN,), False, ["ÉCOLE L'ÉCOLE"] * 9, 300)
    vocabulary = describe(tokenizer, tokenizer.vocab_size)
    assert any("ÉCOLE" in note for note in vocabulary.notes)
    whole, applied = rebuild(vocabulary), rebuild(vocabulary, as_applied=True)
    assert whole.encode("ÉCOLE").ids == tokenizer.encode("ÉCOLE")
    assert applied.encode("ÉCOLE").ids != tokenizer.encode("ÉCOLE")
    assert applied.encode("école 한국어").ids == tokenizer.encode("école 한국어")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\S+|\s+"), r"\S+"),
        (lambda said: said["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "Split"),
        (lambda said: said.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (lambda said: said.update(pre_tokenizer=None), "nothing"),
        (lambda said: said.update(pre_tokenizer={**GPT2_BYTE_LEVEL, "add_prefix_space": True}), "ByteLevel"),
        (lambda said: said.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda said: said["added_tokens"].append(word(said, "<x>", lstrip=True)), "swallows"),
    ],
)
def test_what_llama_cpp_would_do_otherwise_is_refused(change, words: str):
    tokenizer = changed(byte_level(), change)
    with pytest.raises(MalmoiError, match=r"llama\.cpp|GGUF") as error:
        describe(tokenizer, tokenizer.vocab_size)
    assert words in str(error.value)


def word(said: dict, content: str, **flags: bool) -> dict:
    index = max(token["id"] for token in said["added_tokens"])
    index = max(index, *said["model"]["vocab"].values()) + 1
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    return {"id": index, "content": content, **plain, **flags}


def test_words_of_their_own_holes_and_control_tokens(tmp_path):
    tokenizer = changed(byte_level(), lambda said: said["added_tokens"].append(word(said, "<think>")))
    vocabulary = describe(tokenizer, tokenizer.vocab_size + 3)
    index = tokenizer.convert_tokens_to_ids("<think>")
    assert vocabulary.types[index] == gguf_tokenizer.USER_DEFINED
    assert vocabulary.types[tokenizer.special_tokens["<|end|>"]] == CONTROL
    assert vocabulary.types[-3:] == [UNUSED] * 3
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)
    rebuilt = rebuild(vocabulary)
    for text in ("a <think> b", "<|end|> is only text", "<|endoftext|>"):
        assert rebuilt.encode(text).ids == tokenizer.encode(text)


def test_a_name_that_a_hole_would_take_stays_the_tokens():
    tokenizer = changed(
        byte_level(), lambda said: said["added_tokens"].append(word(said, f"[PAD{len(byte_level()) + 1}]"))
    )
    tokens = describe(tokenizer, len(byte_level()) + 3).tokens
    assert len(set(tokens)) == len(tokens)


def test_ends_and_beginnings(tmp_path):
    vocabulary = describe(byte_level(), 800, also_ends=(0, 4))
    assert vocabulary.ids == {"bos": 0, "eos": 0, "pad": 1, "eot": 4}  # without bos, llama.cpp would take id 11
    assert not vocabulary.add_bos
    read_back = through_a_file(byte_level(), tmp_path)
    assert read_back.ids == {"bos": 0, "eos": 0, "pad": 1}
    assert read_back.chat_template == byte_level().chat_template


def test_nfc_is_told():
    tokenizer = byte_level()
    normal = changed(tokenizer, lambda said: said.update(normalizer={"type": "NFC"}))
    assert any("NFC" in note for note in describe(normal, 800).notes)


def test_looking_words_up_is_only_refused_where_it_matters():
    patterns = CUTS[0].patterns
    harmless = cut_by(patterns, True, TEXTS * 3)
    assert describe(harmless, 2000).pre == CUTS[0].name

    def hide(said: dict) -> None:  # a token whose last merge is gone
        first, second = said["model"]["merges"].pop()
        assert first + second in said["model"]["vocab"]

    with pytest.raises(MalmoiError, match="merging does not reach"):
        describe(changed(harmless, hide), 2000)


# ---------------------------------------------------------------- SentencePiece's kind


@pytest.fixture(scope="module")
def pieces() -> GPT4Tokenizer:
    return sentencepiece([*SENTENCES, *handover.SAMPLES] * 3)


def test_sentencepieces_merges_become_scores(pieces: GPT4Tokenizer, tmp_path):
    read_back = through_a_file(pieces, tmp_path, "llama")
    assert (read_back.kind, read_back.add_bos, read_back.add_space) == ("llama", True, True)
    assert read_back.types.count(gguf_tokenizer.BYTE) == 256
    assert read_back.types[0] == gguf_tokenizer.UNKNOWN
    assert NORMAL in read_back.types
    rebuilt = rebuild(read_back)
    for text in (*SENTENCES, *handover.SAMPLES, *handover.CASES, "ᄒ𐍈 \t\n"):
        assert rebuilt.encode(text).ids == pieces.encode(text, add_special_tokens=False)


def test_a_metaspace_says_the_same(pieces: GPT4Tokenizer):
    def modern(said: dict) -> None:
        said["normalizer"] = None
        said["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}

    assert not describe(changed(pieces, modern), 1100).add_space
    with pytest.raises(MalmoiError, match="spaces"):
        describe(changed(pieces, lambda said: said.update(pre_tokenizer={"type": "Whitespace"})), 1100)


def test_merges_that_scores_cannot_express_are_refused(pieces: GPT4Tokenizer):
    with pytest.raises(MalmoiError, match="scores can express"):
        describe(changed(pieces, lambda said: said["model"]["merges"].pop()), 1100)

    def apart(said: dict) -> None:
        merges = said["model"]["merges"]
        products = ["".join(merge) for merge in merges]
        twice = next(i for i in range(len(merges) - 1) if products[i] == products[i + 1])
        merges.append(merges.pop(twice))

    with pytest.raises(MalmoiError, match="scores can express"):
        describe(changed(pieces, apart), 1100)


def test_an_unknown_kind_or_name_is_refused():
    with pytest.raises(MalmoiError, match="'t5'"):
        read({"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(MalmoiError, match="'falcon'"):
        rebuild(replace(describe(byte_level(), 800), pre="falcon"))
