"""One stream of texts and pictures: same ids for text, no picture by typing, and everything comes back."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import ImageTokenizerConfig, MalmoiError
from malmoi.tokens import chat
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import ImageIds, decode_parts, encode_parts, spellings, with_images
from malmoi.tokens.picture import Picture
from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.tokens.vocabulary import learn

pytest.importorskip("PIL.Image")

IMAGES = ImageTokenizer(ImageTokenizerConfig(image_size=32, levels=(4, 3), hidden_channels=8, num_blocks=0)).eval()
TEXT = learn(["한 마을에 할머니와 고양이가 살았습니다. Once upon a time there was a cat. " * 20], 300)
BOTH = with_images(TEXT, IMAGES)
NAMES = spellings(8, 12)


def picture(seed: int) -> Picture:
    return Picture.of(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


def test_the_ids_of_pictures_follow_those_of_texts():
    assert BOTH.images == ImageIds(begin=300, end=301, size=302, first=303, count=12, grid=8)
    assert len(BOTH) == len(TEXT) + 3 + 12
    assert TEXT.images is None
    with pytest.raises(MalmoiError, match="already"):
        with_images(BOTH, IMAGES)


@given(st.lists(st.sampled_from([*NAMES, "고양이", " cat", "<|", "image_", "|>", "<|endoftext|>"]), max_size=12))
def test_no_text_can_make_a_picture_and_every_text_keeps_its_ids(pieces):
    text = "".join(pieces)
    assert BOTH.encode(text) == TEXT.encode(text)
    assert max(BOTH.encode(text), default=0) < BOTH.images.begin
    assert BOTH.decode(BOTH.encode(text)) == text
    said = chat.render(BOTH, [{"role": "user", "content": text}])[0]
    assert max(said) < BOTH.images.begin


def test_texts_and_pictures_there_and_back():
    parts = ["A cat: ", picture(1), picture(2), " und dann <|image_3|>", picture(1)]
    rows = encode_parts(BOTH, parts)
    known = BOTH.images
    assert [len(row) for row in rows[1:3]] == [known.length, known.length] == [67, 67]
    assert rows[1] == rows[4] != rows[2]
    assert rows[1][:2] == [known.begin, known.size] and rows[1][-1] == known.end
    assert (np.array(rows[1][2:-1]) - known.first == IMAGES.encode(picture(1)).ravel()).all()
    ids = [index for row in rows for index in row]
    back = decode_parts(BOTH, np.array([*ids, BOTH.eos_token_id]))
    assert [part for part in back if isinstance(part, str)] == [parts[0], parts[3]]
    painted = np.asarray(IMAGES.decode(IMAGES.encode(picture(2))))
    assert np.array_equal(np.asarray(back[2]), painted)
    assert BOTH.decode(ids, skip_special_tokens=True) == parts[0] + parts[3]


@pytest.mark.parametrize("cut", [1, 2, 3, 40, 66])
def test_half_a_picture_is_told(cut):
    whole = encode_parts(BOTH, [picture(3)])[0]
    with pytest.raises(MalmoiError, match="not whole: 67 tokens"):
        decode_parts(BOTH, whole[:cut])
    assert BOTH.images.unfinished([5, *whole, 7, *whole[:cut]]) == cut
    assert BOTH.images.unfinished([5, *whole]) is None
    assert BOTH.images.unfinished([5]) is None


def test_a_malformed_beginning_is_refused():
    known = BOTH.images
    for wrong in ([known.begin, 5], [known.begin, known.size, 5], [known.begin, known.size, *[known.first] * 65]):
        with pytest.raises(MalmoiError, match="not well-formed"):
            known.unfinished(wrong)
    with pytest.raises(MalmoiError, match="not whole"):
        decode_parts(BOTH, [known.begin, *[known.first] * 65, known.end])


def test_a_tokenizer_with_pictures_is_saved_pickled_and_opened(tmp_path):
    BOTH.save_pretrained(tmp_path)
    for opened in (GPT4Tokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(BOTH))):
        assert opened.images == BOTH.images
        assert encode_parts(opened, ["a", picture(4)]) == encode_parts(BOTH, ["a", picture(4)])
    again = GPT4Tokenizer.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "copy")
    assert GPT4Tokenizer.from_pretrained(tmp_path / "copy").image_tokenizer is not None


def test_a_text_tokenizer_says_what_it_cannot():
    with pytest.raises(MalmoiError, match="knows only text"):
        encode_parts(TEXT, [picture(1)])
    assert decode_parts(TEXT, TEXT.encode("고양이")) == ["고양이"]


def test_the_list_of_control_tokens_stays_readable():
    assert "image_0" not in repr(BOTH)
    with pytest.raises(MalmoiError) as error:
        BOTH.convert_tokens_to_ids("<|nothing|>")
    assert "image_0" not in str(error.value)


def test_a_template_from_elsewhere_lets_no_picture_in_either():
    template = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
    foreign = GPT4Tokenizer(BOTH._tokenizer, {"eos_token": "<|endoftext|>"}, template)
    assert foreign.images == BOTH.images
    ids = chat.prompt_ids(foreign, [{"role": "user", "content": "".join(NAMES[:5])}])
    assert max(ids) < BOTH.images.begin and foreign.special_tokens["<|end|>"] in ids
    with pytest.raises(MalmoiError, match="holds a picture"):
        chat.prompt_ids(foreign, [{"role": "user", "content": [{"type": "image", "image": picture(1)}]}])
