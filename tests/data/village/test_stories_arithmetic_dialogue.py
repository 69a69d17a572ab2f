"""Stories are long and coherent enough, worked sums are right, conversations hold every skill."""

import re

import pytest

from malmoi.data import village
from malmoi.data.village import arithmetic
from malmoi.data.village.scenes import Draw

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "×": lambda a, b: a * b}


@pytest.mark.parametrize("language", village.LANGUAGES)
def test_stories_have_five_to_fifteen_sentences(language):
    lengths = set()
    for document in village.documents(9, "train", 0, 900, weights={"story": 1}):
        if document.id.endswith(language):
            lengths.add(len(re.findall(r"[.](?:\s|$)", document.text.split("\n")[0])))
    assert min(lengths) >= 5 and max(lengths) <= 15 and len(lengths) >= 6


def test_what_was_lost_is_found_by_another_and_given_back():
    found = 0
    for document in village.documents(9, "train", 0, 1500, weights={"story": 1}):
        lost = re.search(r"(\w+) lost (?:his|her) (?:\w+ )?(\w+)\.", document.text)
        if lost:
            finder = re.search(rf"(\w+) found {lost[1]}'s (?:\w+ )?{lost[2]}\.", document.text)
            assert finder and finder[1] != lost[1]
            assert f"{finder[1]} gave the {lost[2]} to {lost[1]}." in document.text
            found += 1
    assert found > 30


@pytest.mark.parametrize("language", village.LANGUAGES)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_worked_step_is_right(language, held_out):
    for seed in range(400):
        draw = Draw(seed, held_out)
        _, answer = arithmetic.exercise(draw, language)
        equations = re.findall(r"((?:\d+ [-+×] )+\d+) = (\d+)", answer)
        assert equations
        for terms, result in equations:
            value, *rest = re.findall(r"\d+|[-+×]", terms)
            total = int(value)
            for sign, number in zip(rest[::2], rest[1::2], strict=True):
                total = OPERATIONS[sign](total, int(number))
            assert total == int(result), answer
        assert re.findall(r"\d+", answer)[-1] == equations[-1][1]


def test_carries_and_borrows_are_written_out():
    assert arithmetic.steps(17, "+", 25, "en") == "7 + 5 = 12, carry 1. 1 + 2 + 1 = 4. 17 + 25 = 42."
    assert arithmetic.steps(42, "-", 17, "ko") == "12 - 7 = 5, 내림 1. 4 - 1 - 1 = 2. 42 - 17 = 25."
    assert arithmetic.steps(14, "×", 3, "fr") == "4 × 3 = 12. 10 × 3 = 30. 30 + 12 = 42."
    assert arithmetic.steps(3, "+", 4, "en") == "3 + 4 = 7."


def test_held_out_sums_are_never_taught():
    taught, asked = set(), set()
    for seed in range(4000):
        taught.add(arithmetic.operands(Draw(seed)))
        asked.add(arithmetic.operands(Draw(seed, held_out=True)))
    assert len(taught) > 1500 and len(asked) > 150
    assert not taught & asked


@pytest.mark.parametrize("language", village.LANGUAGES)
def test_a_chat_has_every_skill(language):
    texts = [
        "\n".join(message["content"] for message in document.messages)
        for document in village.documents(9, "train", 0, 1500, weights={"dialogue": 1})
        if document.id.endswith(language)
    ]
    skills = {
        "ko": ("안녕하세요", "번역해 주세요|옮기세요", "계산하세요", "몇 살", "누가", "말모이"),
        "en": ("Hello", "Translate", "Calculate", "How old", "Who", "Malmoi"),
        "fr": ("Bonjour", "Traduis", "Calcule", "Quel âge", "Qui", "Malmoi"),
    }
    for skill in skills[language]:
        assert any(re.search(skill, text) for text in texts), skill
