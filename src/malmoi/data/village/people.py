"""Who lives in the village: families, kinship, ages, homes, favourite food. A closed world with known facts.

Children are called by name. Elders (parents, grandparents, the teacher, the doctor) are called by what they are to a
child or to the village (`Mina's mother`), and Korean speaks of them with honorifics.
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.data.village.lexicon import rows


@dataclass(frozen=True, slots=True)
class Villager:
    """A child of the village. The name is written alike in English and French."""

    key: str
    ko: str
    gender: str
    age: int
    family: str
    home: str  # the place that they live beside
    food: str  # what they like best
    colour: str


# name | Korean | gender | age | family | lives beside | likes | favourite colour
_VILLAGERS = """
Mina  | 미나 | f | 9  | Kim    | river    | peach   | red
Jun   | 준   | m | 7  | Kim    | river    | honey   | blue
Sora  | 소라 | f | 12 | Lee    | market   | soup    | white
Jieun | 지은 | f | 6  | Lee    | market   | cake    | yellow
Minho | 민호 | m | 10 | Choi   | hill     | egg     | green
Jihun | 지훈 | m | 8  | Choi   | hill     | rice    | black
Sujin | 수진 | f | 11 | Han    | library  | orange  | pink
Emma  | 엠마 | f | 10 | Brown  | park     | biscuit | grey
Anna  | 안나 | f | 7  | Brown  | park     | apple   | pink
Tom   | 톰   | m | 8  | Green  | station  | cheese  | red
Adam  | 아담 | m | 11 | Green  | station  | tomato  | black
Lucie | 뤼시 | f | 11 | Martin | lake     | cake    | blue
Leo   | 레오 | m | 6  | Martin | lake     | carrot  | green
Nora  | 노라 | f | 9  | Petit  | forest   | bread   | yellow
Paul  | 폴   | m | 12 | Petit  | forest   | soup    | grey
Louis | 루이 | m | 13 | Blanc  | school   | apple   | white
"""

VILLAGERS: dict[str, Villager] = {
    key: Villager(key, ko, gender, int(age), family, home, food, colour)
    for key, ko, gender, age, family, home, food, colour in rows(_VILLAGERS)
}


@dataclass(frozen=True, slots=True)
class Relation:
    """What somebody is to a child. Korean names elder siblings by the sex of both."""

    key: str
    ko: tuple[str, str]  # of a girl, of a boy
    en: str
    fr: str
    gender: str
    elder: bool


# key | Korean of a girl | of a boy | French | gender | elder
_RELATIONS = """
mother         | 어머니   | 어머니   | mère        | f | elder
father         | 아버지   | 아버지   | père        | m | elder
grandmother    | 할머니   | 할머니   | grand-mère  | f | elder
grandfather    | 할아버지 | 할아버지 | grand-père  | m | elder
older sister   | 언니     | 누나     | grande sœur | f |
older brother  | 오빠     | 형       | grand frère | m |
little sister  | 여동생   | 여동생   | petite sœur | f |
little brother | 남동생   | 남동생   | petit frère | m |
"""

RELATIONS: dict[str, Relation] = {
    key: Relation(key, (girl, boy), key, fr, gender, bool(elder))
    for key, girl, boy, fr, gender, elder in rows(_RELATIONS)
}
ELDERS: tuple[str, ...] = tuple(key for key, relation in RELATIONS.items() if relation.elder)


@dataclass(frozen=True, slots=True)
class Role:
    """Somebody known by their work."""

    key: str
    ko: str
    en: str
    fr: str
    gender: str
    elder: bool


# key | Korean | French with article | gender | elder
_ROLES = """
teacher | 선생님      | la maîtresse | f | elder
doctor  | 의사 선생님 | le docteur   | m | elder
farmer  | 농부        | le fermier   | m |
baker   | 제빵사      | le boulanger | m |
"""

ROLES: dict[str, Role] = {
    key: Role(key, ko, f"the {key}", fr, gender, bool(elder)) for key, ko, fr, gender, elder in rows(_ROLES)
}


def _siblings() -> dict[tuple[str, str], str]:
    """(child, relation) -> the sibling's name, for the siblings that exist."""
    found = {}
    for child in VILLAGERS.values():
        for other in VILLAGERS.values():
            if other.family == child.family and other.key != child.key:
                sister = "sister" if other.gender == "f" else "brother"
                found[child.key, ("older " if other.age > child.age else "little ") + sister] = other.key
    return found


SIBLINGS: dict[tuple[str, str], str] = _siblings()
KIN: dict[str, tuple[str, ...]] = {  # child -> the relations that the child has
    key: (*ELDERS, *(relation for child, relation in SIBLINGS if child == key)) for key in VILLAGERS
}
NAMES: tuple[str, ...] = tuple(VILLAGERS)

# family -> ages of mother, father, grandmother, grandfather, and where mother and father work
_FAMILIES = """
Kim    | 36 | 38 | 66 | 68 | library  | farm
Lee    | 40 | 41 | 70 | 73 | hospital | market
Choi   | 37 | 39 | 64 | 67 | school   | station
Han    | 42 | 43 | 71 | 75 | bakery   | library
Brown  | 38 | 35 | 63 | 65 | shop     | hospital
Green  | 39 | 40 | 69 | 72 | market   | post office
Martin | 41 | 44 | 74 | 76 | farm     | bakery
Petit  | 43 | 42 | 72 | 71 | station  | school
Blanc  | 45 | 46 | 77 | 79 | post office | shop
"""


@dataclass(frozen=True, slots=True)
class Family:
    ages: dict[str, int]  # of the elders
    work: dict[str, str]  # of mother and father: a place


FAMILIES: dict[str, Family] = {
    name: Family(dict(zip(ELDERS, map(int, ages), strict=True)), {"mother": mother, "father": father})
    for name, *ages, mother, father in rows(_FAMILIES)
}
