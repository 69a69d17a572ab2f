"""Korean word forms: particles that listen to the last sound, and verbs that bend.

A Hangul syllable's code point is 0xAC00 + (initial * 21 + vowel) * 28 + final, so sounds are arithmetic.
The conjugations are those of the polite style in -요 (해요체), with the honorific -시- for elders.
"""

from __future__ import annotations

import functools

VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINAL_L, _FINAL_B, _FINAL_SS = 8, 17, 20  # ㄹ, ㅂ, ㅆ in the order of finals
_FIRST = 0xAC00


def split(syllable: str) -> tuple[int, int, int]:
    """(initial, vowel, final) of one Hangul syllable; final 0 is none. `ValueError` for anything else."""
    code = ord(syllable) - _FIRST
    if not 0 <= code < 11172:
        raise ValueError(f"{syllable!r} is not a Hangul syllable")
    return code // 588, code % 588 // 28, code % 28


def join(initial: int, vowel: int, final: int = 0) -> str:
    return chr(_FIRST + (initial * 21 + vowel) * 28 + final)


def final_of(word: str) -> int:
    return split(word[-1])[2]


def topic(word: str) -> str:
    return word + ("은" if final_of(word) else "는")


def subject(word: str) -> str:
    return word + ("이" if final_of(word) else "가")


def direct(word: str) -> str:
    return word + ("을" if final_of(word) else "를")


def along(word: str) -> str:
    """Towards: 로 after a vowel and after ㄹ, else 으로."""
    return word + ("로" if final_of(word) in (0, _FINAL_L) else "으로")


def together(word: str) -> str:
    return word + ("과" if final_of(word) else "와")


def copula(word: str, past: bool = False, honorific: bool = False) -> str:
    """The noun as predicate: 빨간색이에요, 사과예요; 선생님이세요 for elders."""
    final = final_of(word)
    if honorific:
        return word + ("이" if final else "") + ("셨어요" if past else "세요")
    if past:
        return word + ("이었어요" if final else "였어요")
    return word + ("이에요" if final else "예요")


def infinitive(stem: str) -> str:
    """The stem with 아/어: 가 -> 가, 먹 -> 먹어, 돕 -> 도와, 부르 -> 불러, 기쁘 -> 기뻐, 하 -> 해.

    Stems in ㅂ and 르 bend here as the Village's words do (돕다, 춥다, 부르다); there are no regular ones among them.
    """
    if stem.endswith("하"):
        return stem[:-1] + "해"
    initial, vowel, final = split(stem[-1])
    name = VOWELS[vowel]
    if final == _FINAL_B:
        return stem[:-1] + join(initial, vowel) + ("와" if stem == "돕" else "워")
    if stem.endswith("르"):
        before = split(stem[-2])
        return stem[:-2] + join(before[0], before[1], _FINAL_L) + ("라" if VOWELS[before[1]] in "ㅏㅗ" else "러")
    if final:
        return stem + ("아" if name in "ㅏㅗ" else "어")
    if name in "ㅏㅓㅐㅔㅕ":
        return stem
    if name == "ㅡ":
        bright = len(stem) > 1 and VOWELS[split(stem[-2])[1]] in "ㅏㅗ"
        return stem[:-1] + join(initial, VOWELS.index("ㅏ" if bright else "ㅓ"))
    contracted = {"ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅣ": "ㅕ"}.get(name)
    return stem[:-1] + join(initial, VOWELS.index(contracted)) if contracted else stem + "어"


def _before_vowel(stem: str, ending_final: int, ending: str) -> str:
    """Join an ending that takes 으 after a consonant: `ending_final` closes an open stem (0: nothing does)."""
    initial, vowel, final = split(stem[-1])
    if final == _FINAL_B:  # 돕 -> 도우, 춥 -> 추우
        stem, initial, vowel, final = stem[:-1] + join(initial, vowel) + "우", 11, VOWELS.index("ㅜ"), 0
    if final and final != _FINAL_L:
        return stem + join(11, VOWELS.index("ㅡ"), ending_final) + ending
    return stem[:-1] + join(initial, vowel, ending_final) + ending


def honorific(stem: str) -> str:
    """The stem with -(으)시-: 가시, 읽으시, 만드시, 도우시."""
    return stem if stem.endswith("시") and stem != "마시" else _before_vowel(stem, 0, "시")


def present(stem: str) -> str:
    """가요, 먹어요; 가세요 for an honorific stem."""
    return stem[:-1] + "세요" if is_honorific(stem) else infinitive(stem) + "요"


def past(stem: str) -> str:
    """갔어요, 먹었어요, 가셨어요."""
    form = infinitive(stem)
    initial, vowel, _ = split(form[-1])
    return form[:-1] + join(initial, vowel, _FINAL_SS) + "어요"


def future(stem: str) -> str:
    """갈 거예요, 먹을 거예요, 만들 거예요."""
    return _before_vowel(stem, _FINAL_L, " 거예요")


def progressive(stem: str, elder: bool) -> str:
    """가고 있어요; 가고 계세요 of an elder (the honorific stands in 계시-, the verb itself stays plain)."""
    return stem + ("고 계세요" if elder else "고 있어요")


def negated(stem: str, tense: str, elder: bool) -> str:
    """The long negation: 가지 않았어요, 가지 않으셨어요."""
    if tense == "now":
        return stem + ("고 계시지 않아요" if elder else "고 있지 않아요")
    no = "않으시" if elder else "않"
    return stem + "지 " + {"past": past, "habit": present, "future": future}[tense](no)


def is_honorific(stem: str) -> bool:
    """Whether the stem ends in the honorific -시- (마시다 only looks like it)."""
    return stem.endswith("시") and not stem.endswith("마시")


@functools.cache
def conjugate(stem: str, tense: str, elder: bool, negative: bool) -> str:
    """The predicate of an action. An elder's own verb (드시, 주무시, 계시) may be the stem already."""
    if negative:
        return negated(stem, tense, elder)
    if tense == "now":
        return progressive(stem, elder)
    stem = honorific(stem) if elder else stem
    return {"past": past, "habit": present, "future": future}[tense](stem)


@functools.cache
def linked(stem: str, elder: bool, motion: bool) -> str:
    """The form before a second verb: 가서, 먹고; 가셔서, 드시고."""
    stem = honorific(stem) if elder else stem
    return infinitive(stem) + "서" if motion else stem + "고"
