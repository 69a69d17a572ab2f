"""Particles and conjugations, against forms written by hand, and the arithmetic of syllables over all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.data.village import hangul


@given(st.integers(0xAC00, 0xD7A3))
def test_a_syllable_is_its_sounds(code):
    assert hangul.join(*hangul.split(chr(code))) == chr(code)


@pytest.mark.parametrize("text", ["a", "ㄱ", "7", "漢"])
def test_only_syllables_have_sounds(text):
    with pytest.raises(ValueError, match="Hangul"):
        hangul.split(text)


@pytest.mark.parametrize(
    ("word", "topic", "subject", "direct", "along", "together"),
    [
        ("미나", "미나는", "미나가", "미나를", "미나로", "미나와"),
        ("준", "준은", "준이", "준을", "준으로", "준과"),
        ("폴", "폴은", "폴이", "폴을", "폴로", "폴과"),  # ㄹ: 로, though it is a consonant
        ("시장", "시장은", "시장이", "시장을", "시장으로", "시장과"),
        ("학교", "학교는", "학교가", "학교를", "학교로", "학교와"),
    ],
)
def test_particles_follow_the_last_sound(word, topic, subject, direct, along, together):
    assert hangul.topic(word) == topic
    assert hangul.subject(word) == subject
    assert hangul.direct(word) == direct
    assert hangul.along(word) == along
    assert hangul.together(word) == together


def test_copula():
    assert hangul.copula("빨간색") == "빨간색이에요"
    assert hangul.copula("누나") == "누나예요"
    assert hangul.copula("빨간색", past=True) == "빨간색이었어요"
    assert hangul.copula("누나", past=True) == "누나였어요"
    assert hangul.copula("선생님", honorific=True) == "선생님이세요"


@pytest.mark.parametrize(
    ("stem", "present", "past", "future", "elder_present", "elder_past", "elder_future"),
    [
        ("가", "가요", "갔어요", "갈 거예요", "가세요", "가셨어요", "가실 거예요"),
        ("오", "와요", "왔어요", "올 거예요", "오세요", "오셨어요", "오실 거예요"),
        ("먹", "먹어요", "먹었어요", "먹을 거예요", "먹으세요", "먹으셨어요", "먹으실 거예요"),
        ("마시", "마셔요", "마셨어요", "마실 거예요", "마시세요", "마시셨어요", "마시실 거예요"),
        ("만들", "만들어요", "만들었어요", "만들 거예요", "만드세요", "만드셨어요", "만드실 거예요"),
        ("놀", "놀아요", "놀았어요", "놀 거예요", "노세요", "노셨어요", "노실 거예요"),
        ("돕", "도와요", "도왔어요", "도울 거예요", "도우세요", "도우셨어요", "도우실 거예요"),
        ("춥", "추워요", "추웠어요", "추울 거예요", "추우세요", "추우셨어요", "추우실 거예요"),
        ("부르", "불러요", "불렀어요", "부를 거예요", "부르세요", "부르셨어요", "부르실 거예요"),
        ("목마르", "목말라요", "목말랐어요", "목마를 거예요", "목마르세요", "목마르셨어요", "목마르실 거예요"),
        ("기쁘", "기뻐요", "기뻤어요", "기쁠 거예요", "기쁘세요", "기쁘셨어요", "기쁘실 거예요"),
        ("아프", "아파요", "아팠어요", "아플 거예요", "아프세요", "아프셨어요", "아프실 거예요"),
        ("크", "커요", "컸어요", "클 거예요", "크세요", "크셨어요", "크실 거예요"),
        ("일하", "일해요", "일했어요", "일할 거예요", "일하세요", "일하셨어요", "일하실 거예요"),
        ("쉬", "쉬어요", "쉬었어요", "쉴 거예요", "쉬세요", "쉬셨어요", "쉬실 거예요"),
        ("보내", "보내요", "보냈어요", "보낼 거예요", "보내세요", "보내셨어요", "보내실 거예요"),
        ("주", "줘요", "줬어요", "줄 거예요", "주세요", "주셨어요", "주실 거예요"),
        ("찾", "찾아요", "찾았어요", "찾을 거예요", "찾으세요", "찾으셨어요", "찾으실 거예요"),
        ("읽", "읽어요", "읽었어요", "읽을 거예요", "읽으세요", "읽으셨어요", "읽으실 거예요"),
        ("드시", "드세요", "드셨어요", "드실 거예요", "드세요", "드셨어요", "드실 거예요"),
        ("주무시", "주무세요", "주무셨어요", "주무실 거예요", "주무세요", "주무셨어요", "주무실 거예요"),
    ],
)
def test_conjugation(stem, present, past, future, elder_present, elder_past, elder_future):
    if not hangul.is_honorific(stem):
        assert hangul.conjugate(stem, "habit", False, False) == present
        assert hangul.conjugate(stem, "past", False, False) == past
        assert hangul.conjugate(stem, "future", False, False) == future
    assert hangul.conjugate(stem, "habit", True, False) == elder_present
    assert hangul.conjugate(stem, "past", True, False) == elder_past
    assert hangul.conjugate(stem, "future", True, False) == elder_future


def test_negation_progress_and_links():
    assert hangul.conjugate("가", "past", False, True) == "가지 않았어요"
    assert hangul.conjugate("가", "past", True, True) == "가지 않으셨어요"
    assert hangul.conjugate("먹", "future", False, True) == "먹지 않을 거예요"
    assert hangul.conjugate("먹", "habit", True, True) == "먹지 않으세요"
    assert hangul.conjugate("읽", "now", False, False) == "읽고 있어요"
    assert hangul.conjugate("읽", "now", True, False) == "읽고 계세요"
    assert hangul.conjugate("읽", "now", False, True) == "읽고 있지 않아요"
    assert hangul.linked("가", False, True) == "가서"
    assert hangul.linked("오", True, True) == "오셔서"
    assert hangul.linked("떠나", False, False) == "떠나고"
