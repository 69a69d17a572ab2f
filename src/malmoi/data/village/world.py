"""The Village's world as data: who and what there is, and what always holds. For planting and probing knowledge."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from malmoi.data.village.dialogue import KNOWN_FACTS
from malmoi.data.village.held_out import SHARE
from malmoi.data.village.lexicon import (
    ADJECTIVES,
    FEELINGS,
    NOUNS,
    NUMBERS_EN,
    NUMBERS_FR,
    NUMBERS_KO,
    PLACES,
    TIMES,
    WEATHER,
)
from malmoi.data.village.meaning import Fact
from malmoi.data.village.people import FAMILIES, RELATIONS, ROLES, VILLAGERS
from malmoi.data.village.translation import GRAMMARS
from malmoi.data.village.verbs import VERBS

_TABLES: dict[str, dict[str, Any]] = {
    "people": VILLAGERS,
    "families": FAMILIES,
    "kinship": RELATIONS,
    "roles": ROLES,
    "places": PLACES,
    "nouns": NOUNS,
    "verbs": VERBS,
    "adjectives": ADJECTIVES,
    "feelings": FEELINGS,
    "times": TIMES,
    "weather": WEATHER,
}


@dataclass(frozen=True, slots=True)
class KnownFact:
    """Something that holds in every document: its meaning, and question and answer in each language."""

    fact: Fact
    questions: dict[str, str]
    answers: dict[str, str]


def facts() -> list[KnownFact]:
    """Ages, homes, tastes, kinship and work of the villagers, as dialogues tell them."""
    return [
        KnownFact(
            fact,
            {language: grammar.question(fact, fact.kind) for language, grammar in GRAMMARS.items()},
            {language: grammar.sentence(fact) for language, grammar in GRAMMARS.items()},
        )
        for fact in KNOWN_FACTS
    ]


def describe() -> dict[str, Any]:
    """The world's tables by name: plain dictionaries, fit for JSON."""
    tables = {name: {key: _plain(asdict(entry)) for key, entry in table.items()} for name, table in _TABLES.items()}
    tables["numbers"] = {
        str(number): {"ko": ko, "en": en, "fr": fr}
        for number, (ko, en, fr) in enumerate(zip(NUMBERS_KO, NUMBERS_EN, NUMBERS_FR, strict=True))
    }
    concepts = sum(len(table) for name, table in tables.items() if name != "families")
    return {"concepts": concepts, "held_out_share": 1 / SHARE, "facts": len(KNOWN_FACTS), **tables}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
