"""Scoring what is seen and drawn: names, phrases, drawings; a model's own choice among names."""

import itertools

import numpy as np
import pytest
import torch

from malmoi.config import ImageTokenizerConfig, MalmoiError, ModelConfig
from malmoi.data.village.painter import paint
from malmoi.data.village.sight_words import caption
from malmoi.data.village.sights import Sight
from malmoi.evaluate import pictures
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import vocabulary
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import encode_parts, with_images
from malmoi.tokens.picture import Picture

SCENE = (Sight("star", "red", "big", "top left"), Sight("fish", "green", "small", "middle"))


@pytest.fixture(scope="module")
def speaker():
    words = vocabulary.learn(["A big red star at the top left. English: 한국어: Français: apple pear"] * 9, 300)
    images = ImageTokenizer(ImageTokenizerConfig(image_size=48, levels=(4, 3), hidden_channels=8, num_blocks=0)).eval()
    tokenizer = with_images(words, images)
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT4LMHeadModel(config).eval(), tokenizer


def test_names():
    assert pictures.same_name(" Red  apple", "red apple")
    assert not pictures.same_name("red apples", "red apple")
    assert pictures.has_keyword("a green apple", "red apple", ["fruit", "apple"])
    assert not pictures.has_keyword("pineapple", "red apple", ["fruit", "apple"])
    assert pictures.has_keyword("pomme d’amour", "pomme rouge", ["pomme"])
    assert pictures.has_keyword("빨간 사과", "빨간 사과", [])
    assert not pictures.has_keyword("", "red apple", ["", "apple"])


@pytest.mark.parametrize("language", ["en", "ko", "fr"])
def test_phrases_of_a_caption(language):
    said = caption(language, SCENE)
    assert pictures.phrases(said, SCENE, language) == 1
    assert pictures.phrases(said, (SCENE[0], Sight("fish", "red", "small", "middle")), language) == 0.5
    assert pictures.phrases("", SCENE, language) == 0


def test_a_drawing_is_right_or_partly_right():
    assert pictures.drawn_right(paint(SCENE), SCENE) == (True, 1.0)
    assert pictures.drawn_right(paint(SCENE[:1]), SCENE) == (False, 0.5)
    more = (*SCENE, Sight("moon", "black", "big", "bottom"))
    assert pictures.drawn_right(paint(more), SCENE) == (False, 1.0)  # all is there, and something else


def test_the_whole_examination(speaker):
    found = pictures.scenes(*speaker, n=3)
    assert [(row["task"], row["language"]) for row in found["rows"]][:2] == [("draw", "en"), ("draw", "ko")]
    assert len(found["rows"]) == 9
    assert all(row["n"] == 3 and row["correct"] == 0 for row in found["rows"])  # nobody has taught it anything


def test_together_is_alone(speaker):
    model, tokenizer = speaker
    shown = [Picture.of(paint((sight,))) for sight in SCENE]
    asked = [(shown[0], "English: "), (shown[1], "A big")]
    together = pictures.describe(model, tokenizer, asked, max_new_tokens=9)
    assert together == [pictures.describe(model, tokenizer, [one], max_new_tokens=9)[0] for one in asked]
    drawn = pictures.draw(model, tokenizer, ["star", "a red fish"], seed=3)
    assert [picture.shape for picture in drawn] == [(48, 48, 3)] * 2
    assert np.array_equal(drawn[0], pictures.draw(model, tokenizer, ["star"], seed=3)[0])
    one, other = pictures.draw(model, tokenizer, ["star", "star"])
    assert not np.array_equal(one, other)


def test_a_choice_is_the_probability_of_each_name(speaker):
    model, tokenizer = speaker
    picture, names = Picture.of(paint(SCENE)), ["apple", "a pear", "big red star"]
    found = pictures.choose(model, tokenizer, picture, "English: ", names)
    head = list(itertools.chain(*encode_parts(tokenizer, [picture, "English: "])))
    for chance, name in zip(found, names, strict=True):
        row = [*tokenizer.encode(name, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([head + row])).logits[0, len(head) - 1 : -1].log_softmax(-1)
        assert chance == pytest.approx(float(logits.gather(-1, torch.tensor(row)[:, None]).sum()), abs=1e-4)


def test_a_text_model_cannot(speaker):
    model, _ = speaker
    words = vocabulary.learn(["An apple is not a pear, is it?"] * 9, 280)
    with pytest.raises(MalmoiError, match="knows only text"):
        pictures.describe(model, words, [(Picture.of(paint(SCENE)), "English: ")])
