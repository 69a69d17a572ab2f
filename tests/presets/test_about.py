"""Every preset says what is known about it, in both languages."""

import re

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.presets.about import sentences


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_says_what_is_published_and_what_is_guessed(name):
    for text in presets.about(name):
        assert re.fullmatch(r"[^가-힣\n]{10,}\.", text), text
    for text in presets.about(name, "ko"):
        assert re.search("[가-힣]", text)
        assert text.endswith("요."), text


def test_a_member_adds_to_its_family():
    family, xl = presets.about("gpt3-small").published, presets.about("gpt3-xl").published
    assert xl.startswith(family)
    assert "24 heads" in xl.removeprefix(family)
    assert "24 heads" not in family
    assert sentences("gpt4", "gpt4", "en").published.count("BaGuaLu") == 1


def test_a_preset_by_name():
    assert presets.preset("mini") == presets.size("mini")
    assert presets.preset("gpt2") == presets.preset("gpt2-small") == presets.gpt2()
    assert presets.preset("gpt3") == presets.preset("gpt3-175b") == presets.gpt3()
    with pytest.raises(MalmoiError, match="Did you mean 'gpt2'"):
        presets.preset("gtp2")
    with pytest.raises(MalmoiError, match="Did you mean 'gpt4'"):
        presets.about("gpt-4")


def test_the_giants_are_labelled_as_what_they_are():
    assert "not GPT-4" in presets.about("gpt4").conjecture
    assert "rumour" in presets.about("gpt4-rumoured").conjecture
