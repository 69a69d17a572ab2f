"""Text to ids and back; text is only text; transformers agrees."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.tokens.vocabulary import SPECIAL_TOKENS

transformers = pytest.importorskip("transformers")

CONTROL = st.sampled_from(SPECIAL_TOKENS)
WITH_CONTROL = st.lists(st.one_of(CONTROL, st.text(max_size=8), CONTROL.map(lambda t: t[:-1])), max_size=6).map("".join)


@pytest.fixture(scope="session")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


# -------------------------------------------------------------------- round trips


def test_every_text_comes_back(tokenizer, texts):
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.batch_decode(tokenizer.encode_batch(texts)) == texts


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_merges_do_shorten(tokenizer, texts):
    assert len(tokenizer.encode(texts[0])) < 0.6 * len(texts[0].encode())


def test_batch_is_one_by_one(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(iter([])) == []


# -------------------------------------------------------------------- text is only text


@settings(deadline=None)
@given(text=WITH_CONTROL)
def test_no_text_gives_a_control_token(tokenizer, text):
    control = set(tokenizer.special_tokens.values())
    for ids in (
        tokenizer.encode(text),
        tokenizer.encode(text, add_special_tokens=False),
        *tokenizer.encode_batch([text, text + "<|end|>"]),
        tokenizer(text)["input_ids"],
    ):
        assert not control & set(ids)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_stays_so_after_saving_pickling_and_copying(tokenizer, folder):
    text = "".join(SPECIAL_TOKENS)
    want = tokenizer.encode(text)
    assert not set(want) & set(tokenizer.special_tokens.values())
    for other in (
        GPT4Tokenizer.from_pretrained(folder),
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
        copy.copy(tokenizer),
    ):
        assert other.encode(text) == want
        assert other.special_tokens == tokenizer.special_tokens
        assert other.eos_token_id == tokenizer.eos_token_id


def test_it_stays_so_after_a_template_was_read(tokenizer):
    assert tokenizer.encode_rendered("<|end|>") == [tokenizer.special_tokens["<|end|>"]]
    assert tokenizer.special_tokens["<|end|>"] not in tokenizer.encode("<|end|>")


def test_control_ids_are_where_the_format_says(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.special_tokens["<|endoftext|>"] == 0
    assert tokenizer.pad_token_id == tokenizer.special_tokens["<|pad|>"] == 1
    assert tokenizer.bos_token_id is None
    assert list(tokenizer.special_tokens.values()) == list(range(16))
    assert tokenizer.convert_tokens_to_ids("<|end|>") == 4
    with pytest.raises(MalmoiError, match="nope"):
        tokenizer.convert_tokens_to_ids("nope")


# -------------------------------------------------------------------- beside transformers


def test_transformers_gives_the_same_ids_and_text(tokenizer, theirs, texts):
    assert theirs(texts)["input_ids"] == tokenizer.encode_batch(texts)
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs.decode(ids) == tokenizer.decode(ids) == text
    assert len(theirs) == len(tokenizer) == tokenizer.vocab_size
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (0, 1, None)
    assert theirs.padding_side == tokenizer.padding_side == "left"


@settings(deadline=None)
@given(data=st.data())
def test_transformers_decodes_any_ids_the_same(tokenizer, theirs, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=20))
    for skip in (False, True):
        assert tokenizer.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "gpt2"])
def test_transformers_agrees_in_a_model_folder_too(tokenizer, texts, tmp_path, model_type):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(texts)["input_ids"] == tokenizer.encode_batch(texts)
    assert len(theirs) == len(tokenizer)


def test_where_transformers_differs_is_as_documented(tokenizer, theirs):
    text = "a<|endoftext|>b"
    assert theirs.encode(text)[1] == 0
    assert theirs.encode(text, split_special_tokens=True) == tokenizer.encode(text)


@pytest.mark.slow
def test_the_declaration_of_human_rights_in_every_language(tokenizer, theirs, declarations):
    texts = [text[:1500] for text in declarations]
    ours = tokenizer.encode_batch(texts)
    assert theirs(texts)["input_ids"] == ours
    assert tokenizer.batch_decode(ours) == texts
    assert theirs.batch_decode(ours) == texts
    for text, ids in zip(texts, ours, strict=True):
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == text


# -------------------------------------------------------------------- tensors and batches


def test_tensors(tokenizer):
    ids = tokenizer.encode("고양이 cat")
    tensor = tokenizer.encode("고양이 cat", return_tensors="pt")
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == [ids]
    array = tokenizer.encode("고양이 cat", return_tensors="np")
    assert array.dtype == np.int64
    assert array.tolist() == [ids]
    assert tokenizer.encode("", return_tensors="pt").shape == (1, 0)
    with pytest.raises(MalmoiError, match="'pt'"):
        tokenizer.encode("a", return_tensors="tf")


def test_decode_takes_what_models_give(tokenizer):
    ids = tokenizer.encode("고양이 cat")
    for given_ids in (ids, tuple(ids), torch.tensor(ids), np.array(ids)):
        assert tokenizer.decode(given_ids) == "고양이 cat"
    for batch in ([ids, ids[:1]], torch.tensor([ids, ids]), np.array([ids, ids])):
        assert tokenizer.decode(batch)[0] == "고양이 cat"
        assert tokenizer.decode(batch) == tokenizer.batch_decode(batch)
    for one in (ids[0], torch.tensor(ids[0]), np.int64(ids[0])):
        assert tokenizer.decode(one) == tokenizer.decode([ids[0]])
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([*ids, 0, 4], skip_special_tokens=True) == "고양이 cat"
    assert tokenizer.decode([*ids, 0, 4]) == "고양이 cat<|endoftext|><|end|>"


@pytest.mark.parametrize("bad", [-1, 440, 10**6])
def test_an_id_outside_the_vocabulary_is_named(tokenizer, bad):
    with pytest.raises(MalmoiError, match=f"id {bad} is outside"):
        tokenizer.decode([3, bad])


def test_calling_pads_on_the_left(tokenizer):
    short, long = tokenizer.encode("고양이"), tokenizer.encode("고양이는 할머니를 좋아했습니다.")
    batch = tokenizer(["고양이", "고양이는 할머니를 좋아했습니다."], padding=True, return_tensors="pt")
    gap = len(long) - len(short)
    assert batch.input_ids.tolist() == [[1] * gap + short, long]
    assert batch["attention_mask"].tolist() == [[0] * gap + [1] * len(short), [1] * len(long)]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.to("cpu").input_ids.tolist() == batch.input_ids.tolist()
    with pytest.raises(AttributeError, match="labels"):
        _ = batch.labels


def test_calling_agrees_with_transformers(tokenizer, theirs):
    lines = ["고양이", "The cat liked the old woman.", ""]
    for side in ("left", "right"):
        for arguments in (
            {"padding": True},
            {"padding": "longest", "truncation": True, "max_length": 3},
            {"padding": "max_length", "truncation": True, "max_length": 5},
            {"padding": "max_length", "max_length": 7},
            {"truncation": True, "max_length": 2},
            {},
        ):
            ours = copy.copy(tokenizer)
            ours.padding_side = theirs.padding_side = side
            want = theirs(lines, **arguments)
            assert ours(lines, **arguments) == {key: want[key] for key in ("input_ids", "attention_mask")}
    theirs.padding_side = "left"
    assert tokenizer("고양이")["input_ids"] == theirs("고양이")["input_ids"]


def test_truncation_can_keep_the_end(tokenizer):
    other = copy.copy(tokenizer)
    other.truncation_side = "left"
    ids = tokenizer.encode("고양이는 할머니를 좋아했습니다.")
    assert other("고양이는 할머니를 좋아했습니다.", truncation=True, max_length=3).input_ids == ids[-3:]
    assert tokenizer("고양이는 할머니를 좋아했습니다.", truncation=True, max_length=3).input_ids == ids[:3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"return_tensors": "pt"}, "padding=True"),
        ({"padding": "middle"}, "padding='middle'"),
        ({"truncation": True}, "max_length"),
        ({"truncation": True, "max_length": 0}, "max_length"),
    ],
)
def test_calling_wrongly_says_what_to_do(tokenizer, arguments, says):
    with pytest.raises(MalmoiError, match=says):
        tokenizer(["a", "a b c"], **arguments)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (["ok", 3], "Text 1 is int"),
        (["a\ud800"], "U\\+D800.*character 1"),
        ([None], "Text 0 is NoneType"),
        ([("a", "b")], "Text 0 is tuple"),
        ([b"a"], "Text 0 is bytes"),
    ],
)
def test_what_is_not_text_is_named(tokenizer, bad, says):
    with pytest.raises(MalmoiError, match=says):
        tokenizer.encode_batch(bad)


# -------------------------------------------------------------------- bytes and files


def test_token_bytes_are_exact(tokenizer):
    single = {tokenizer.token_bytes(index) for index in range(16, 272)}
    assert single == {bytes([byte]) for byte in range(256)}
    assert tokenizer.token_bytes(0) == b"<|endoftext|>"
    ids = tokenizer.encode("한글 é 👋🏽\n")
    assert b"".join(tokenizer.token_bytes(index) for index in ids) == "한글 é 👋🏽\n".encode()


def test_saved_and_loaded_is_the_same(tokenizer, folder, texts):
    loaded = GPT4Tokenizer.from_pretrained(folder)
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.chat_template == tokenizer.chat_template
    assert len(loaded) == len(tokenizer)
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    GPT4Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "deep" / "copy")
    for path in folder.iterdir():
        assert (tmp_path / "deep" / "copy" / path.name).read_bytes() == path.read_bytes()


def test_padding_side_is_saved(tokenizer, tmp_path):
    other = copy.copy(tokenizer)
    other.padding_side = "right"
    other.save_pretrained(tmp_path)
    assert GPT4Tokenizer.from_pretrained(tmp_path).padding_side == "right"


def test_lists_need_no_torch(folder):
    code = (
        "import sys; from malmoi import GPT4Tokenizer; "
        f"t = GPT4Tokenizer.from_pretrained({str(folder)!r}); t.decode(t.encode('a')); t('b'); "
        "t.apply_chat_template([{'role': 'user', 'content': 'hi'}]); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
