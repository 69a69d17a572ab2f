"""A translation is a function: over many meanings, no two share a sentence in any language."""

import re
from collections import defaultdict

import pytest

from malmoi.data.village.scenes import Draw, meaning
from malmoi.data.village.translation import GRAMMARS


@pytest.fixture(scope="module")
def meanings():
    found = set()
    for seed in range(300):
        draw = Draw(seed, held_out=seed % 4 == 0)
        found.update(meaning(draw) for _ in range(40))
    return found


@pytest.mark.parametrize("language", GRAMMARS)
def test_no_two_meanings_share_a_sentence(meanings, language):
    assert len(meanings) > 5000
    told = defaultdict(set)
    for one in meanings:
        told[GRAMMARS[language].sentence(one)].add(one)
    assert {text: found for text, found in told.items() if len(found) > 1} == {}


# What a critical reader would mark, as patterns that must never match a sentence.
MISTAKES = {
    "ko": (
        r"[가-힣]*[가개기나다라레로리모미바보비사소수아엠오우이자주지차치카코크키타토파포피하호]은 ",  # no 은 here
        r"(준|폴|톰|지은|수진|지훈|아담)(는|가|를|와|라는) ",  # a vowel's particle after a consonant
        r"(미나|소라|민호|레오|노라|안나|엠마)(은|을|과|이라는) ",
        r"께서는? .*(갔|왔|먹었|마셨|샀|했|봤|줬|잤|만났)어요\.$",  # an elder without the honorific
        r"\(|\)|  ",
    ),
    "en": (
        r"\ba [aeiou]",
        r"\ban [^aeiou]",
        r"\b(one|two|three|four|five|six|seven|eight|nine|ten) (\w+ )?(mouse|sheeps|foxs|box|watch|scarf)\b",
        r"(?<!and )\b(Mina|Jun|Leo) (go|eat|buy|have|sleep)\b",
        r"  |\bthe home\b|\bto home\b",
    ),
    "fr": (
        r"\b[ld]e [aeiouéèêhœ]",
        r"\bla [aeiouéèêhœ]",
        r"\b(à|de) les? ",
        r"\bne [aeiouéèêhœ]",
        r"\bque [AEIOUaeiou]",
        r"\b(un|le) (pomme|maison|fleur|vache)|\b(une|la) (chat|ballon|livre|chien)\b",
        r"(?<!de |et )(?<!')\b(Mina|Emma|Anna|Sora) est (allé|venu|revenu)\b",
        r"(?<!de |et )\b(Jun|Paul|Leo|Tom) est (allée|venue|revenue)\b",
        r"  |\bdu eau\b|\bsa écharpe\b",
    ),
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_no_sentence_has_a_known_mistake(meanings, language):
    patterns = [re.compile(pattern) for pattern in MISTAKES[language]]
    for one in meanings:
        text = GRAMMARS[language].sentence(one)
        assert not [pattern.pattern for pattern in patterns if pattern.search(text)], text
        assert text[0].isupper() or language == "ko"
        assert text.endswith(".") and "\n" not in text and text == text.strip()
