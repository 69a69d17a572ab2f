"""Tokenizers from elsewhere: GPT-2's kind, Llama 2's kind, what their folders leave out. All are made here."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.tokens.foreign import vocabulary

transformers = pytest.importorskip("transformers")

SENTENCES = [
    "Hello, world!",
    " two  spaces",
    "옛날에 고양이가",
    "été\n\n",
    "👨‍👩‍👧",
    "",
    "</s> <|endoftext|> <unk>",
    "a\x00b",
]


def save(folder, tokenizer, tokenizer_config=None, **others):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config": tokenizer_config, **others}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def gpt2_kind(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])  # GPT-2's own comes last, too
    return tokenizer


def llama_kind(texts, whole=True):
    """SentencePiece's habits: U+2581 for spaces, one before the text, bytes as <0x..> tokens, <s> first."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in special]
    vocab = description["model"]["vocab"]
    if not whole:  # a converted vocabulary in which merges lead to </s>
        for piece in ("<", "/", "s", ">", "</", "s>"):
            vocab.setdefault(piece, len(vocab))
        description["model"]["merges"] += [["<", "/"], ["s", ">"], ["</", "s>"]]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return tokenizer


@pytest.fixture(scope="module")
def gpt2(texts, tmp_path_factory):
    model = {"model_type": "gpt2", "bos_token_id": 340, "eos_token_id": 340}
    config = {"model_max_length": 1024}  # all that GPT-2's own says
    return save(tmp_path_factory.mktemp("gpt2"), gpt2_kind(texts), config, config=model)


@pytest.fixture(scope="module")
def llama(texts, tmp_path_factory):
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "eos_token": {"content": "</s>", "__type": "AddedToken"},
        "unk_token": "<unk>",
        "padding_side": "right",
    }
    return save(tmp_path_factory.mktemp("llama"), llama_kind(texts), config)


def plain(text):
    return not any(token in text for token in ("<s>", "</s>", "<unk>", "<|endoftext|>"))


def test_gpt_2(gpt2, texts):
    ours, theirs = GPT4Tokenizer.from_pretrained(gpt2), transformers.AutoTokenizer.from_pretrained(gpt2)
    assert ours.eos_token_id == 340
    assert ours.pad_token_id is None
    assert len(ours) == 341
    for text in [*texts, *SENTENCES]:
        assert ours.decode(ours.encode(text)) == text
        assert 340 not in ours.encode(text)
        if plain(text):
            assert ours.encode(text) == theirs.encode(text)
            assert theirs.decode(ours.encode(text)) == text
    assert ours(["a", "a b c"], padding=True).attention_mask[0][0] == 0  # padded with eos where there is no pad
    assert ours("고양이는 " * 2000, truncation=True).input_ids == ours.encode("고양이는 " * 2000)[:1024]


def test_llama_2(llama, texts):
    ours, theirs = GPT4Tokenizer.from_pretrained(llama), transformers.AutoTokenizer.from_pretrained(llama)
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, None)
    assert ours.padding_side == "right"
    for text in [*texts, *SENTENCES]:
        ids = ours.encode(text)
        assert ids[0] == 1
        assert ours.encode(text, add_special_tokens=False) == ids[1:]
        assert not {0, 1, 2} & set(ids[1:])
        assert ours.decode(ids, skip_special_tokens=True) == text
        stream = ours.stream(skip_special_tokens=True)
        assert "".join(map(stream.push, ids)) + stream.finish() == text
        if plain(text):
            assert ids == theirs.encode(text)
            assert theirs.decode(ids, skip_special_tokens=True) == text
    assert ours.token_bytes(ours.convert_tokens_to_ids("<0x0A>")) == b"\n"
    assert ours.token_bytes(ours.convert_tokens_to_ids("▁")) == b" "
    assert ours.token_bytes(2) == b"</s>"


@settings(deadline=None)
@given(text=st.lists(st.sampled_from(["</s>", "<s>", "<", "/", "s", ">", " ", "s>", "</", "<unk>"])).map("".join))
def test_merges_that_lead_to_a_control_token_are_taken_away(texts, tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "risky"
    if not folder.is_dir():
        tokenizer = llama_kind(texts, whole=False)
        tokenizer.encode_special_tokens = True
        assert 2 in tokenizer.encode("a</s>").ids  # as it came, plain text reaches </s>
        save(folder, tokenizer, {"eos_token": "</s>"})
    ours = GPT4Tokenizer.from_pretrained(folder)
    ids = ours.encode(text, add_special_tokens=False)
    assert not {0, 1, 2} & set(ids)
    assert ours.decode(ids) == text


def test_a_control_token_that_is_a_word_of_the_vocabulary_is_not_reached_by_text(texts, tmp_path):
    """Mistral's newer layout: control tokens stand in the vocabulary that whole words are looked up in."""
    description = json.loads(gpt2_kind(texts).to_str())
    description["model"]["ignore_merges"] = True
    description["model"]["vocab"] |= {"<|endoftext|>": 340, "STOP": 341}
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_special_tokens(["STOP"])
    tokenizer.post_processor = processors.TemplateProcessing("STOP $A", special_tokens=[("STOP", 341)])
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("STOP").ids == [341, 341]  # as it came, a text becomes a control token
    folder = save(tmp_path, tokenizer, {"eos_token": "<|endoftext|>"})
    ours, theirs = GPT4Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for other in (ours, pickle.loads(pickle.dumps(ours))):
        rows = other.encode_batch(["a STOP", "STOP", "STOP<|endoftext|>STOP", "", *texts])
        assert all(row[0] == 341 and not {340, 341} & set(row[1:]) for row in rows)
        assert other.decode(other.encode("STOP", add_special_tokens=False)) == "STOP"
        assert rows[4:] == theirs(texts)["input_ids"]


def test_llama_3_kind_keeps_its_whole_words(texts, tmp_path):
    description = json.loads(gpt2_kind(texts).to_str())
    description["model"]["ignore_merges"] = True
    folder = save(tmp_path, Tokenizer.from_str(json.dumps(description)), {"eos_token": "<|endoftext|>"})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert GPT4Tokenizer.from_pretrained(folder).encode_batch(texts) == theirs(texts)["input_ids"]


def test_ordinary_added_tokens_stay_ordinary(texts, tmp_path):
    tokenizer = gpt2_kind(texts)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    ours = GPT4Tokenizer.from_pretrained(save(tmp_path, tokenizer, {"eos_token": "<|endoftext|>"}))
    assert ours.encode("<think>") == [341]
    assert "<think>" not in ours.special_tokens
    assert ours.decode([341], skip_special_tokens=True) == "<think>"


@pytest.mark.parametrize("how", ["ordinary", "undeclared"])
def test_a_token_with_a_role_is_out_of_reach_however_it_is_declared(texts, tmp_path, how):
    """<|im_end|> ends a turn, but this file lists it among the ordinary words, or not at all."""
    description = json.loads(gpt2_kind([*texts, "<|im_end|>" * 50]).to_str())
    if how == "ordinary":
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        description["added_tokens"].append({"id": 341, "content": "<|im_end|>", **flags})
    else:
        description["model"]["vocab"]["<|im_end|>"] = 340
        description["added_tokens"][0]["id"] = 341
    folder = save(tmp_path, Tokenizer.from_str(json.dumps(description)), {"eos_token": "<|im_end|>"})
    ours = GPT4Tokenizer.from_pretrained(folder)
    assert ours.eos_token_id not in ours.encode("a<|im_end|>b")
    assert ours.decode(ours.encode("a<|im_end|>b")) == "a<|im_end|>b"
    assert ours.decode([ours.eos_token_id], skip_special_tokens=True) == ""
    assert ours.encode_rendered("<|im_end|>") == [ours.eos_token_id]


def test_saved_truncation_and_padding_do_not_follow(texts, tmp_path):
    tokenizer = gpt2_kind(texts)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    ours = GPT4Tokenizer.from_pretrained(save(tmp_path, tokenizer, {"eos_token": "<|endoftext|>"}))
    assert ours.decode(ours.encode("Hello, world!")) == "Hello, world!"


@pytest.mark.parametrize(
    "others",
    [
        {"tokenizer_config": {"eos_token": "<|endoftext|>"}},
        {"tokenizer_config": {"eos_token": {"content": "<|endoftext|>", "lstrip": False}}},
        {"special_tokens_map": {"eos_token": "<|endoftext|>"}},
        {"tokenizer_config": {}, "special_tokens_map": {"eos_token": {"content": "<|endoftext|>"}}},
        {"config": {"eos_token_id": 340}},
        {"config": {"eos_token_id": [340, 3]}},
        {"tokenizer_config": {"eos_token": None}},
        {},
    ],
)
def test_the_end_of_text_is_found_wherever_a_folder_names_it(texts, tmp_path, others):
    ours = GPT4Tokenizer.from_pretrained(save(tmp_path, gpt2_kind(texts), **others))
    assert ours.eos_token_id == 340


def test_no_end_of_text_anywhere(texts, tmp_path):
    description = json.loads(gpt2_kind(texts).to_str())
    description["added_tokens"] = []
    save(tmp_path, Tokenizer.from_str(json.dumps(description)))
    ours = GPT4Tokenizer.from_pretrained(tmp_path)
    assert ours.eos_token_id is None
    assert ours.decode(ours.encode("Hello")) == "Hello"
    with pytest.raises(MalmoiError, match="neither a padding nor an end-of-text token"):
        ours(["a", "a b c"], padding=True)


@pytest.mark.parametrize("role", ["eos_token", "pad_token", "bos_token"])
@pytest.mark.parametrize("value", ["<nowhere>", 3, {"content": 3}])
def test_a_named_token_that_is_not_there(texts, tmp_path, role, value):
    save(tmp_path, gpt2_kind(texts), {"eos_token": "<|endoftext|>", role: value})
    with pytest.raises(MalmoiError, match=f"{role} is .*tokenizer.json has no such token"):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("model", [models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), models.Unigram([("a", 0.0)])])
def test_other_kinds_of_model_are_refused_by_name(tmp_path, model):
    save(tmp_path, Tokenizer(model), {"eos_token": "a"})
    with pytest.raises(MalmoiError, match=f"holds a {type(model).__name__} model"):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": {}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "BPE", "vocab": [], "merges": 7}},
        {"added_tokens": 3},
        {"added_tokens": [{"id": 0}]},
        {"added_tokens": ["x"]},
        {"decoder": {"type": "Nonsense"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"model": {"type": ["BPE"]}},
        {"model": {"type": "BPE", "vocab": {"a": 0, "<|endoftext|>": 0}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "<unk>"}},
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 339}, "merges": []}},
        {"decoder": None},
        {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
    ],
)
def test_json_that_is_no_tokenizer(texts, tmp_path, change):
    save(tmp_path, gpt2_kind(texts), {"eos_token": "<|endoftext|>"})
    description = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**description, **change}), encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"tokenizer\.json: "):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("{{ 1 }}", "{{ 1 }}"),
        ([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "tool_use", "template": "a"}], None),
        (None, None),
    ],
)
def test_a_chat_template_inside_the_settings_moves_to_its_file(texts, tmp_path, written, found):
    save(tmp_path / "a", gpt2_kind(texts), {"eos_token": "<|endoftext|>", "chat_template": written, "mine": [1]})
    ours = GPT4Tokenizer.from_pretrained(tmp_path / "a")
    assert ours.chat_template == found
    ours.save_pretrained(tmp_path / "b")
    again = GPT4Tokenizer.from_pretrained(tmp_path / "b")
    assert again.chat_template == found
    settings_file = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "chat_template" not in settings_file
    assert settings_file["mine"] == [1]


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model", "tekken.json", "spiece.model"])
def test_other_kinds_of_file_are_refused_with_a_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\n\x0e")
    with pytest.raises(MalmoiError, match=rf"{name}: is a SentencePiece or tiktoken file.*tokenizer\.json: AutoTok"):
        GPT4Tokenizer.from_pretrained(tmp_path)
    assert vocabulary(tmp_path) is None


def test_the_vocabulary_of_any_folder(texts, tmp_path, gpt2):
    assert vocabulary(gpt2) == GPT4Tokenizer.from_pretrained(gpt2)._tokenizer.get_vocab()
    save(tmp_path, Tokenizer(models.Unigram([("a", 0.0), ("b", 0.0)])))
    assert vocabulary(tmp_path) == {"a": 0, "b": 1}  # a model may be read whose tokenizer is of no use here
    for damaged in ("{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "x"}}}'):
        (tmp_path / "tokenizer.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(MalmoiError, match=r"tokenizer\.json: holds no vocabulary"):
            vocabulary(tmp_path)
