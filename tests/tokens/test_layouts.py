"""The layouts in which published models carry `tokenizer.json`, one by one, beside transformers on the same folder.

The vocabularies are small ones learned here; everything else (normalizer, words, decoder, what is added to a text, the
class that the settings name) is as in the published files.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from malmoi import GPT4Tokenizer
from malmoi.tokens.vocabulary import O200K_PATTERN

transformers = pytest.importorskip("transformers")

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # Llama 3's with {1,3}, Qwen's without


def byte_level(texts, pattern, specials, normalizer=None, whole_words=False, ordinary=()):
    """GPT-2's descendants: words by an expression, byte-level BPE, control tokens behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    tokenizer.model.ignore_merges = whole_words
    return tokenizer


def sentencepiece(texts, metaspace=False, dummy=True, specials=()):
    """Llama 2's kind: U+2581 for spaces, unknown characters as <0x..> bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if dummy else replace
    first = ["<unk>", "<s>", "</s>", *specials]
    tokens = [*first, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=tokens, show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator(texts, trainer)
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] in first]
    tokenizer = Tokenizer.from_str(json.dumps(said))
    strip = [decoders.Strip(" ", 1, 0)] if dummy else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def gpt2(texts):
    return byte_level(texts, None, ["<|endoftext|>"]), {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}


def gpt1(texts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    how = {"special_tokens": ["<unk>"], "end_of_word_suffix": "</w>", "limit_alphabet": 60, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, **how))
    return tokenizer, {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": "<unk>"}


def llama2(texts):
    return sentencepiece(texts), {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def mistral(texts):
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "legacy": False}
    return sentencepiece(texts, metaspace=True, specials=["[INST]", "[/INST]"]), {
        "tokenizer_class": "LlamaTokenizer",
        "clean_up_tokenization_spaces": False,
        **roles,
    }


def gemma(texts):
    tokenizer = sentencepiece(texts, dummy=False)
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁▁", normalized=False)])
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def llama3(texts):
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer = byte_level(texts, WORDS % "{1,3}", specials, whole_words=True)
    begin = [("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))]
    template = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=begin)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True, **roles}


def qwen(texts):
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(texts, WORDS % "", specials, normalizers.NFC(), ordinary=["<think>", "</think>"])
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "add_bos_token": False}
    return tokenizer, {"tokenizer_class": "Qwen2Tokenizer", **roles}


def gpt_oss(texts):
    specials = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|end|>"]
    tokenizer = byte_level(texts, O200K_PATTERN, specials, whole_words=True)
    roles = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **roles}


def deepseek(texts):
    specials = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    tokenizer = byte_level(texts, WORDS % "{1,3}", specials)
    roles = {"bos_token": specials[0], "eos_token": specials[1], "pad_token": specials[1]}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **roles}


KINDS = (gpt1, gpt2, llama2, mistral, gemma, llama3, qwen, gpt_oss, deepseek)
NOT_EXACT = {"gpt1", "qwen", "gemma", "mistral", "llama2"}  # what comes back is not always letter for letter


@pytest.fixture(scope="module")
def opened(texts, tmp_path_factory):
    """Each kind once: ours, and transformers' on the same folder."""
    pairs = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind.__name__)
        tokenizer, said = kind(texts)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
        pairs[kind.__name__] = (
            GPT4Tokenizer.from_pretrained(folder),
            transformers.AutoTokenizer.from_pretrained(folder),
        )
    return pairs


every = pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])


def plain(ours, text):
    return not any(token in text for token in ours.special_tokens)


def streamed(tokenizer, ids, **how):
    stream = tokenizer.stream(**how)
    shown = [stream.push(index) for index in ids]
    return "".join(shown) + stream.finish()


@every
def test_ids_and_text_are_those_of_transformers(opened, kind, texts, hard):
    ours, theirs = opened[kind]
    for text in [text for text in [*texts, *hard] if plain(ours, text)]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (False, True):
            shown = ours.decode(ids, skip_special_tokens=skip)
            assert shown == theirs.decode(ids, skip_special_tokens=skip)
            assert streamed(ours, ids, skip_special_tokens=skip) == shown
        if kind not in NOT_EXACT:
            assert ours.decode(ids, skip_special_tokens=True) == text


@every
def test_the_declaration_of_human_rights_in_every_language(opened, kind, declarations):
    ours, theirs = opened[kind]
    declarations = [text[:400] for text in declarations]
    rows = ours.encode_batch(declarations)
    assert rows == theirs(declarations)["input_ids"]
    assert [ours.decode(row) for row in rows[::5]] == theirs.batch_decode(rows[::5])


@every
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_ids_stream_to_whole_characters_and_decode_as_there(opened, kind, data):
    ours, theirs = opened[kind]
    row = data.draw(st.lists(st.integers(0, len(ours) - 1), max_size=12))
    text = ours.decode(row)
    assert text.startswith(streamed(ours, row))
    if "ByteLevel" in str(theirs.backend_tokenizer.decoder) or "\ufffd" not in text:
        assert text == theirs.decode(row)


@every
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_no_text_reaches_a_control_token(opened, kind, data):
    ours, _ = opened[kind]
    parts = [*ours.special_tokens, "<", "|", ">", "▁", " ", "s", "[", "a"]
    text = data.draw(st.lists(st.sampled_from(parts), max_size=6).map("".join))
    control = set(ours.special_tokens.values())
    if kind == "gpt1":  # <unk> is also the id of what it has no token for
        control -= set(ours.encode("|["))
    assert not control & set(ours.encode(text, add_special_tokens=False))
    assert not control & set(ours.encode_batch(["", text], add_special_tokens=False)[1])


@every
def test_saved_and_loaded_it_is_the_same_here_and_there(opened, kind, tmp_path, texts):
    ours, theirs = opened[kind]
    ours.save_pretrained(tmp_path)
    again, reopened = GPT4Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    lines = [text for text in texts if plain(ours, text)]
    assert again.encode_batch(lines) == theirs(lines)["input_ids"] == reopened(lines)["input_ids"]
    assert again.special_tokens == ours.special_tokens


def test_a_first_space_stays_where_the_class_of_transformers_5_loses_it(texts, tmp_path):
    """SentencePiece writes a space before every text, also before one that begins with a space; so does the file."""
    tokenizer, said = llama2(texts)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = {}
    for name in ("PreTrainedTokenizerFast", "LlamaTokenizer"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, "tokenizer_class": name}), encoding="utf-8")
        ours, theirs = GPT4Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert ours.encode("a b") == theirs.encode("a b")
        assert ours.decode(ours.encode(" a"), skip_special_tokens=True) == " a"
        found[name] = [
            b"".join(map(ours.token_bytes, each.encode(" a", add_special_tokens=False))) for each in (ours, theirs)
        ]
    assert found == {"PreTrainedTokenizerFast": [b"  a", b"  a"], "LlamaTokenizer": [b"  a", b" a"]}


def test_qwen_joins_letters_and_accents_before_it_reads(opened):
    ours, _ = opened["qwen"]
    assert ours.decode(ours.encode("e\u0301 각")) == "é 각"
    assert ours.encode("<think>") == [ours.convert_tokens_to_ids("<think>")]


def test_a_space_at_the_border_of_a_continuation(opened):
    ours, _ = opened["llama2"]
    ids = ours.encode("the cat", add_special_tokens=False)
    assert streamed(ours, ids) == "the cat"
    assert streamed(ours, ids, continues=True) == " the cat"
