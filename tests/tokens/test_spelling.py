"""What a token is in bytes: the decoders that are read, against the library's own decoding; the others are refused."""

import itertools

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from malmoi.config import MalmoiError
from malmoi.tokens.spelling import Pieces, byte_alphabet, spelling
from malmoi.tokens.tokenizer import GPT4Tokenizer

SENTENCEPIECE = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def with_decoder(decoder, pieces=("▁", "▁a", "b", "▁▁", "<0xEA>", "<0xB0>", "<0x80>", "가", "c</w>", "a▁b")):
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


def test_the_byte_alphabet_is_the_librarys():
    alphabet = byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é한👋")[0][0]
    assert bytes(alphabet[character] for character in spelt) == "é한👋".encode()


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence(SENTENCEPIECE),
        decoders.Sequence([*SENTENCEPIECE, decoders.Strip(" ", 1, 0)]),
        decoders.Sequence([*SENTENCEPIECE, decoders.Strip(" ", 0, 0)]),
        decoders.Metaspace(prepend_scheme="never"),
        decoders.BPEDecoder("</w>"),
        decoders.ByteLevel(),
        decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]),
    ],
    ids=lambda decoder: type(decoder).__name__,
)
def test_all_orders_of_a_few_tokens_decode_as_the_library_does(decoder):
    tokenizer = with_decoder(decoder)
    ours = GPT4Tokenizer(tokenizer)
    whole = (4, 5, 6)  # the bytes of one character stay together
    for ids in itertools.permutations([(0,), (1,), (2,), (3,), whole, (7,), (8,), (9,)], 4):
        flat = list(itertools.chain(*ids))
        text = tokenizer.decode(flat)
        assert ours.decode(flat) == text
        stream = ours.stream()
        assert "".join(map(stream.push, flat)) + stream.finish() == text


def test_metaspace_drops_the_space_that_the_encoder_put_first():
    ours = GPT4Tokenizer(with_decoder(decoders.Metaspace()))
    assert [ours.decode(ids) for ids in ([1, 1], [0, 1], [2, 1], [0])] == ["a a", " a", "b a", ""]


def test_half_a_character_is_one_replacement_character_and_the_rest_stays():
    """The library gives up the whole run of byte tokens: here what is whole is kept, as it was streamed."""
    tokenizer = with_decoder(decoders.Sequence(SENTENCEPIECE))
    assert tokenizer.decode([4, 5, 6, 4, 5]) == "\ufffd" * 5
    assert GPT4Tokenizer(tokenizer).decode([4, 5, 6, 4, 5]) == "가\ufffd"


def test_added_tokens_are_spelt_as_the_library_spells_them():
    for decoder in (decoders.ByteLevel(), decoders.Sequence(SENTENCEPIECE), decoders.BPEDecoder("</w>")):
        tokenizer = with_decoder(decoder)
        tokenizer.add_tokens(["▁▁▁▁", "  ", "한글"])
        tokenizer.add_special_tokens(["<｜end▁of▁sentence｜>", "<s>"])
        pieces = Pieces(tokenizer, 15, spelling(tokenizer))
        for index in range(10, 15):
            alone = tokenizer.decode([index, 2], skip_special_tokens=False)
            assert (pieces[index] + pieces[2]).decode() == alone


def test_a_hole_is_no_bytes():
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 3}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    pieces = Pieces(tokenizer, 4, spelling(tokenizer))
    assert [pieces[index] for index in range(4)] == [b"a", b"", b"", b"b"]
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            pieces[outside]


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        (None, "declares no decoder"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.CTC(), "CTC"),
        (decoders.Strip(" ", 1, 0), "Strip"),
        (decoders.Sequence([*SENTENCEPIECE, decoders.Strip(" ", 1, 1)]), "Strip"),
        (decoders.Sequence([*SENTENCEPIECE, decoders.Strip("x", 1, 0)]), "Strip"),
        (decoders.Replace(Regex("a+"), " "), "Replace"),
    ],
)
def test_other_decoders_are_refused_not_guessed(decoder, says):
    with pytest.raises(MalmoiError, match=says):
        spelling(with_decoder(decoder))
