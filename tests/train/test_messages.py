"""Every message exists in both languages, with the same numbers in it."""

import string

import pytest

from malmoi.train.messages import MESSAGES, say
from malmoi.train.stopping import WORDS


def fields(text):
    return sorted({name for _, name, _, _ in string.Formatter().parse(text) if name})


@pytest.mark.parametrize(("name", "texts"), [*MESSAGES.items(), *WORDS.items()])
def test_both_languages_say_the_same(name, texts):
    assert texts.keys() == {"en", "ko"}
    assert fields(texts["en"]) == fields(texts["ko"])
    assert any("가" <= character <= "힣" for character in texts["ko"])
    assert texts["en"].isascii()


def test_numbers_are_filled_in():
    assert say("finished", "en", step=12_000) == "Finished after 12,000 steps."
    assert say("finished", "ko", step=12_000) == "12,000단계를 마쳤습니다."
