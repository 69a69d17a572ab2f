"""What is to be seen, in words: captions, questions and answers in three languages, one sentence for one meaning.

The words for shapes are here; colours and sizes are the Village's own (`lexicon.ADJECTIVES`), and so are the rules: the
particles and counters of Korean, the plurals of English, gender, agreement, elision and the places of adjectives in
French.
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.data.village import english, french, hangul
from malmoi.data.village.lexicon import ADJECTIVES, NUMBERS_EN, NUMBERS_FR, NUMBERS_KO, rows
from malmoi.data.village.sights import Scene, Sight


@dataclass(frozen=True, slots=True)
class Word:
    """The name of a shape."""

    ko: str
    counter: str
    en: str
    en_plural: str
    fr: str
    feminine: bool
    fr_plural: str


# key | Korean | counter | English plural | French | gender | French plural
_WORDS = """
circle   | 동그라미 | 개   |         | cercle   | m |
square   | 네모     | 개   |         | carré    | m |
triangle | 세모     | 개   |         | triangle | m |
star     | 별       | 개   |         | étoile   | f |
heart    | 하트     | 개   |         | cœur     | m |
cross    | 십자가   | 개   | crosses | croix    | f | croix
moon     | 달       | 개   |         | lune     | f |
ring     | 고리     | 개   |         | anneau   | m | anneaux
house    | 집       | 채   |         | maison   | f |
tree     | 나무     | 그루 |         | arbre    | m |
fish     | 물고기   | 마리 | fish    | poisson  | m |
flower   | 꽃       | 송이 |         | fleur    | f |
"""
WORDS: dict[str, Word] = {
    key: Word(ko, counter, key, plural or key + "s", fr, gender == "f", fr_plural or fr + "s")
    for key, ko, counter, plural, fr, gender, fr_plural in rows(_WORDS)
}

# key | Korean (with its particle) | English | French
_PLACES = """
top left     | 왼쪽 위에     | at the top left     | en haut à gauche
top          | 위쪽에        | at the top          | en haut
top right    | 오른쪽 위에   | at the top right    | en haut à droite
left         | 왼쪽에        | on the left         | à gauche
middle       | 가운데에      | in the middle       | au milieu
right        | 오른쪽에      | on the right        | à droite
bottom left  | 왼쪽 아래에   | at the bottom left  | en bas à gauche
bottom       | 아래쪽에      | at the bottom       | en bas
bottom right | 오른쪽 아래에 | at the bottom right | en bas à droite
"""
PLACES: dict[str, dict[str, str]] = {key: {"ko": ko, "en": en, "fr": fr} for key, ko, en, fr in rows(_PLACES)}


def noun_phrase(language: str, shape: str, colour: str = "", size: str = "", *, plural: bool = False) -> str:
    """The noun with its adjectives and no article: big red circle, 큰 빨간 동그라미, grand cercle rouge."""
    word = WORDS[shape]
    if language == "ko":
        return " ".join([ADJECTIVES[key].ko for key in (size, colour) if key] + [word.ko])
    if language == "en":
        return " ".join([*filter(None, (size, colour)), word.en_plural if plural else word.en])
    form = 2 * plural + word.feminine
    noun = word.fr_plural if plural else word.fr
    before, after = (ADJECTIVES[key].forms[form] if key else "" for key in (size, colour))
    return " ".join(filter(None, (before, noun, after)))


def a_thing(language: str, sight: Sight) -> str:
    """One thing, indefinite: a big red circle, 큰 빨간 동그라미, un grand cercle rouge."""
    text = noun_phrase(language, sight.shape, sight.colour, sight.size)
    if language == "ko":
        return text
    if language == "en":
        return f"{english.article(text)} {text}"
    return ("une " if WORDS[sight.shape].feminine else "un ") + text


def caption(language: str, scene: Scene) -> str:
    """The one sentence that says all there is to be seen, place by place."""
    if language == "ko":
        seen = [f"{PLACES[sight.place]['ko']} {a_thing('ko', sight)}" for sight in scene]
        return hangul.subject(", ".join(seen)) + " 있어요."
    seen = [f"{a_thing(language, sight)} {PLACES[sight.place][language]}" for sight in scene]
    joined = ", ".join(seen[:-1]) + (" and " if language == "en" else " et ") + seen[-1]
    return joined[0].upper() + joined[1:] + "."


def how_many(language: str, shape: str, colour: str = "") -> str:
    """How many blue circles are there? 파란 동그라미가 몇 개 있어요? Combien de cercles bleus y a-t-il ?"""
    if language == "ko":
        return f"{hangul.subject(noun_phrase('ko', shape, colour))} 몇 {WORDS[shape].counter} 있어요?"
    text = noun_phrase(language, shape, colour, plural=True)
    if language == "en":
        return f"How many {text} are there?"
    return f"Combien {french.elide('de', text)} y a-t-il ?"


def number(language: str, shape: str, count: int) -> str:
    """The answer to `how_many`: two, 두 개, deux; none, 없어요, aucun."""
    feminine = WORDS[shape].feminine
    if count == 0:
        return {"en": "none", "ko": "없어요", "fr": "aucune" if feminine else "aucun"}[language]
    if language == "ko":
        return f"{NUMBERS_KO[count]} {WORDS[shape].counter}"
    return NUMBERS_EN[count] if language == "en" else "une" if count == 1 and feminine else NUMBERS_FR[count]


def which_colour(language: str, shape: str) -> str:
    """What colour is the star? 별은 무슨 색이에요? De quelle couleur est l'étoile ?"""
    if language == "ko":
        return f"{hangul.topic(WORDS[shape].ko)} 무슨 색이에요?"
    if language == "en":
        return f"What colour is the {WORDS[shape].en}?"
    return f"De quelle couleur est {french.definite(WORDS[shape].fr, WORDS[shape].feminine)} ?"


def colour_name(language: str, sight: Sight) -> str:
    """The answer to `which_colour`: blue, 파란색, bleue (it agrees with the thing)."""
    adjective = ADJECTIVES[sight.colour]
    if language == "ko":
        return adjective.ko_stem
    return sight.colour if language == "en" else adjective.forms[int(WORDS[sight.shape].feminine)]


def where(language: str, sight: Sight) -> str:
    """Where is the red star? 빨간 별은 어디에 있어요? Où est l'étoile rouge ?"""
    text = noun_phrase(language, sight.shape, sight.colour)
    if language == "ko":
        return f"{hangul.topic(text)} 어디에 있어요?"
    if language == "en":
        return f"Where is the {text}?"
    return f"Où est {french.definite(text, WORDS[sight.shape].feminine)} ?"


def what_is(language: str, place: str) -> str:
    """What is in the middle? 가운데에 뭐가 있어요? Qu'y a-t-il au milieu ?"""
    said = PLACES[place][language]
    return {"ko": f"{said} 뭐가 있어요?", "en": f"What is {said}?", "fr": f"Qu'y a-t-il {said} ?"}[language]
