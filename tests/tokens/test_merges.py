"""GPT-1's and GPT-2's two files: which is which, the same ids and text as transformers, and what damaged files say."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.config import ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.foreign import vocabulary
from malmoi.tokens.merges import GPT1, GPT2
from small_models import BASE

transformers = pytest.importorskip("transformers")


def write(folder, vocab, merges, **others):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in others.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def learned(tokenizer, texts, **how):
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(show_progress=False, **how))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


@pytest.fixture(scope="module")
def gpt2_files(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = learned(
        tokenizer, [*texts, "## #"], vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    return {**vocab, "<|endoftext|>": len(vocab)}, merges


@pytest.fixture(scope="module")
def gpt1_files(texts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    signs = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    how = {"vocab_size": 500, "special_tokens": ["<unk>"], "end_of_word_suffix": "</w>", "limit_alphabet": len(signs)}
    return learned(tokenizer, [" ".join(signs) * 99, "".join(signs) * 99, *texts], initial_alphabet=signs, **how)


@pytest.fixture(scope="module")
def gpt2(gpt2_files, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gpt2"), *gpt2_files, config={"model_type": "gpt2"})


@pytest.fixture(scope="module")
def gpt1(gpt1_files, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gpt1"), *gpt1_files, config={"model_type": "openai-gpt"})


@pytest.fixture(scope="module")
def pair(request):
    folder = request.getfixturevalue(request.param)
    return GPT4Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


both = pytest.mark.parametrize("pair", ["gpt1", "gpt2"], indirect=True)


def plain(text):
    return "<unk>" not in text and "<|endoftext|>" not in text


def streamed(tokenizer, ids, **how):
    stream = tokenizer.stream(**how)
    shown = [stream.push(index) for index in ids]
    return "".join(shown) + stream.finish()


@both
def test_ids_and_text_are_those_of_transformers(pair, texts, hard):
    ours, theirs = pair
    for text in filter(plain, [*texts, *hard]):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)
        assert streamed(ours, ids) == ours.decode(ids)
        skipped = ours.decode(ids, skip_special_tokens=True)
        assert skipped == theirs.decode(ids, skip_special_tokens=True) == streamed(ours, ids, skip_special_tokens=True)


@both
def test_the_declaration_of_human_rights_in_every_language(pair, declarations):
    ours, theirs = pair
    rows = ours.encode_batch(declarations)
    assert rows == theirs(declarations)["input_ids"]
    assert [ours.decode(row) for row in rows] == theirs.batch_decode(rows)


@settings(deadline=None)
@both
@given(text=st.text(max_size=40).filter(plain), data=st.data())
def test_any_text_and_any_ids(pair, text, data):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    drawn = data.draw(st.lists(st.integers(0, len(ours) - 1), max_size=20))
    for row in (ids, drawn):
        assert ours.decode(row) == theirs.decode(row)
        # a character that is not whole in the end is not streamed, and U+FFFD when decoded at once
        assert ours.decode(row).startswith(streamed(ours, row))


@both
@given(text=st.lists(st.sampled_from(["<|endoftext|>", "<unk>", "<", "|>", "unk", " ", "a"])).map("".join))
def test_a_control_token_that_is_spelt_is_text(pair, text):
    ours, _ = pair
    (control,) = ours.special_tokens.values()
    assert control not in ours.encode(text)


def test_gpt_2_gives_every_text_back_and_gpt_1_what_it_kept(gpt1, gpt2, texts, hard):
    two, one = GPT4Tokenizer.from_pretrained(gpt2), GPT4Tokenizer.from_pretrained(gpt1)
    assert all(two.decode(two.encode(text)) == text for text in [*texts, *hard])
    assert two.eos_token_id == two.bos_token_id == len(two) - 1
    assert one.decode(one.encode("The CAT liked\n\n the  old woman.")) == "the cat liked the old woman ."
    assert one.decode(one.encode("Où est l'été ?")) == "ou est l ' ete ?"
    assert one.decode(one.encode("고양이")).startswith("<unk>")
    assert one.eos_token_id is None
    assert one.special_tokens == {"<unk>": 0}


def test_a_continuation_begins_with_the_space_that_parts_it_from_its_prompt(gpt1):
    tokenizer = GPT4Tokenizer.from_pretrained(gpt1)
    whole = tokenizer.encode("the old woman lived in a village")
    for cut in range(1, len(whole)):
        if tokenizer.token_bytes(whole[cut - 1]).endswith(b" "):
            text = tokenizer.decode(whole[:cut]) + streamed(tokenizer, whole[cut:], continues=True)
            assert text == tokenizer.decode(whole)
    assert streamed(tokenizer, [], continues=True) == ""


@pytest.mark.parametrize(
    ("others", "kind"),
    [
        ({}, None),
        ({"config": {"model_type": None}}, None),
        ({"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}}, None),
        ({"tokenizer_config": {"tokenizer_class": "OpenAIGPTTokenizer"}, "config": {"model_type": "gpt2"}}, GPT1),
        ({"tokenizer_config": {"tokenizer_class": "OpenAIGPTTokenizerFast"}}, GPT1),
        ({"tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"}}, GPT2),
        ({"config": {"model_type": "gpt2"}}, GPT2),
        ({"config": {"model_type": "openai-gpt"}}, GPT1),
    ],
)
def test_the_two_are_told_apart_by_what_the_folder_says(gpt1_files, gpt2_files, tmp_path, others, kind):
    for name, own, held in (("one", GPT1, gpt1_files), ("two", GPT2, gpt2_files)):
        if kind in (None, own):
            ours = GPT4Tokenizer.from_pretrained(write(tmp_path / name, *held, **others))
            the = ours.decode(ours.encode("The"))
            assert the == ("the" if own == GPT1 else "The")


@both
def test_saved_it_is_one_file_that_transformers_opens_too(pair, tmp_path, texts):
    ours, theirs = pair
    ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    again, reopened = GPT4Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    lines = [*filter(plain, texts)]
    want = theirs(lines)["input_ids"]
    assert again.encode_batch(lines) == want == reopened(lines)["input_ids"]
    assert again.special_tokens == ours.special_tokens
    assert (again.eos_token_id, again.bos_token_id) == (ours.eos_token_id, ours.bos_token_id)
    again.save_pretrained(tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.parametrize(
    "others",
    [
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}},
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}},
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>", "eos_token": "</s>"}},
        {
            "tokenizer_config": {
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": True},
            }
        },
        {
            "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>"},
            "added_tokens": {"<pad>": 401, "냐옹": 400},
        },
        {
            "tokenizer_config": {
                "tokenizer_class": "GPT2Tokenizer",
                "added_tokens_decoder": {
                    "399": {"content": "<|endoftext|>", "special": True, "normalized": False},
                    "400": {"content": "<b>", "special": False, "normalized": True, "lstrip": True},
                },
                "extra_special_tokens": ["<x>"],
            }
        },
        {"special_tokens_map": {"pad_token": "<pad>"}, "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}},
    ],
)
def test_what_a_folder_adds_is_added_as_transformers_adds_it(gpt2_files, tmp_path, others):
    vocab = {token: index for index, token in enumerate(list(gpt2_files[0])[:399])}
    merges = [merge for merge in gpt2_files[1] if "".join(merge) in vocab]
    vocab["<|endoftext|>"] = 399
    folder = write(tmp_path, vocab, merges, config={"model_type": "gpt2"}, **others)
    ours, theirs = GPT4Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert vocabulary(folder) == theirs.get_vocab()
    assert set(ours.special_tokens) == set(theirs.all_special_tokens)
    for role in ("eos", "bos", "pad"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    for text in ("고양이 냐옹 cat", "a  <b> c", ""):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


# -------------------------------------------------------------------- what is wrong is said


@pytest.mark.parametrize(
    ("gone", "says"), [("merges.txt", r"vocab\.json, but no merges\.txt"), ("vocab.json", r"merges\.txt, but no vocab")]
)
def test_one_of_the_two_is_missing(gpt2_files, tmp_path, gone, says):
    (write(tmp_path, *gpt2_files) / gone).unlink()
    with pytest.raises(MalmoiError, match=says):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("onlyone", "'onlyone' is not two pieces"),
        ("a b c", "'a b c' is not two pieces"),
        ("a ", "'a ' is not two pieces"),
        ("", "'' is not two pieces"),
        ("zzz9 qqq9", "needs the token 'zzz9'"),
        ("! !", r"needs the token '!!'"),
    ],
)
def test_a_broken_merge_is_named_by_its_line(gpt2_files, tmp_path, line, says):
    path = write(tmp_path, *gpt2_files) / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines.insert(4, line)
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(MalmoiError, match=rf"merges\.txt, line 5: .*{says}"):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"twice": 7}, r"vocab\.json: the tokens .* and 'twice' have the same id 7"),
        ({"far": 4000}, r"vocab\.json: no token has the id 40\d, although ids go up to 4000"),
        ({"bad": "7"}, r"'bad' has the id '7'"),
        ({"bad": -1}, r"'bad' has the id -1"),
        ({"bad": True}, r"'bad' has the id True"),
        ({"bad": 1.0}, r"'bad' has the id 1\.0"),
        ({"bad": None}, r"'bad' has the id None"),
    ],
)
def test_a_vocabulary_that_is_none(gpt2_files, tmp_path, change, says):
    write(tmp_path, {**gpt2_files[0], **change}, gpt2_files[1])
    with pytest.raises(MalmoiError, match=says):
        GPT4Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (
            {"tokenizer_config": {"tokenizer_class": "CLIPTokenizer"}},
            r"tokenizer_class is 'CLIPTokenizer'.*AutoTokenizer",
        ),
        ({"tokenizer_config": {"tokenizer_class": 3}}, "tokenizer_class is 3"),
        ({"config": {"model_type": "qwen3"}}, "for a 'qwen3' model.*AutoTokenizer"),
        ({"added_tokens": {"<pad>": 4000}}, "no token has the id"),
        ({"added_tokens": {"<pad>": 3}}, "same id 3"),
        ({"added_tokens": {"<pad>": "x"}}, r"added_tokens\.json is not"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": 3}}}, "added_tokens_decoder"),
        ({"tokenizer_config": {"added_tokens_decoder": {"400": {}}}}, "added_tokens_decoder"),
    ],
)
def test_settings_that_do_not_fit(gpt2_files, tmp_path, others, says):
    write(tmp_path, *gpt2_files, **others)
    with pytest.raises(MalmoiError, match=says):
        GPT4Tokenizer.from_pretrained(tmp_path)


def test_a_model_does_not_open_with_more_tokens_than_it_has_room_for(gpt2_files, tmp_path):
    for size in (401, 400):
        model = GPT4LMHeadModel(ModelConfig(**{**BASE, "vocab_size": size}))
        model.save_pretrained(tmp_path / str(size))
        write(tmp_path / str(size), *gpt2_files, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"})
    assert max(vocabulary(tmp_path / "401").values()) == 400
    assert GPT4LMHeadModel.from_pretrained(tmp_path / "401").config.vocab_size == 401
    with pytest.raises(MalmoiError, match="knows token ids up to 400"):
        GPT4LMHeadModel.from_pretrained(tmp_path / "400")


def test_gpt_1_needs_its_unknown_token(gpt1_files, tmp_path):
    vocab = {token.replace("<unk>", "<none>"): index for token, index in gpt1_files[0].items()}
    write(tmp_path, vocab, gpt1_files[1])
    with pytest.raises(MalmoiError, match=r"vocab\.json: has no '<unk>'"):
        GPT4Tokenizer.from_pretrained(tmp_path)
    write(tmp_path, vocab, gpt1_files[1], tokenizer_config={"unk_token": {"content": "<none>"}})
    assert GPT4Tokenizer.from_pretrained(tmp_path).encode("Ж") == [0]
