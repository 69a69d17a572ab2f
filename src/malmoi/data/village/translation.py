"""Parallel sentences with instructions, in all six directions: one meaning, told twice."""

from __future__ import annotations

from malmoi.data.village import english, french, korean
from malmoi.data.village.scenes import Draw, meaning, rich_meaning

GRAMMARS = {"ko": korean, "en": english, "fr": french}
DIRECTIONS = ("ko-en", "en-ko", "ko-fr", "fr-ko", "en-fr", "fr-en")

# Direction -> phrasings, before the text. Two are in the language of the text, one in the language of the reader.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "en-fr": ("Translate this text to French: ", "Say this in French: ", "Traduis ce texte en français : "),
    "en-ko": ("Translate this text to Korean: ", "Say this in Korean: ", "다음 문장을 한국어로 옮기세요: "),
    "ko-en": ("다음 문장을 영어로 옮기세요: ", "영어로 번역해 주세요: ", "Translate this text to English: "),
    "ko-fr": ("다음 문장을 프랑스어로 옮기세요: ", "프랑스어로 번역해 주세요: ", "Traduis ce texte en français : "),
    "fr-en": ("Traduis ce texte en anglais : ", "Dis ceci en anglais : ", "Translate this text to English: "),
    "fr-ko": ("Traduis ce texte en coréen : ", "Dis ceci en coréen : ", "다음 문장을 한국어로 옮기세요: "),
}


def pair(draw: Draw, direction: str, alone: bool = False) -> tuple[str, str]:
    """A sentence and its translation. `alone`: nothing else is in the document, so the sentence must be a rare one."""
    source, target = direction.split("-")
    what = rich_meaning(draw) if alone else meaning(draw)
    return GRAMMARS[source].sentence(what), GRAMMARS[target].sentence(what)


def instruction(draw: Draw, direction: str) -> str:
    phrasings = INSTRUCTIONS[direction]
    return phrasings[0] if draw.chance(0.5) else draw.pick(phrasings[1:])


def document(draw: Draw, direction: str) -> str:
    """An instruction and one to four sentence pairs, each text followed by its translation on the next line."""
    count = draw.pick((1, 2, 3, 3, 4, 4))
    pairs = [pair(draw, direction, alone=count == 1) for _ in range(count)]
    return instruction(draw, direction) + "\n".join(f"{text}\n{translation}" for text, translation in pairs)


def example(draw: Draw, direction: str, alone: bool = False) -> tuple[str, str]:
    text, translation = pair(draw, direction, alone)
    return instruction(draw, direction) + text + "\n", translation
