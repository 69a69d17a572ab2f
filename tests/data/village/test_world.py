"""The world is inspectable and agrees with itself."""

import json

from malmoi.data import village
from malmoi.data.village.people import FAMILIES, SIBLINGS, VILLAGERS


def test_the_world_is_plain_data_of_a_good_size():
    world = village.describe()
    assert json.loads(json.dumps(world, ensure_ascii=False)) == world
    assert 220 <= world["concepts"] <= 320
    assert world["people"]["Mina"]["ko"] == "미나"
    assert world["nouns"]["cake"]["fr_plural"] == "gâteaux"


def test_facts_are_questions_and_answers_in_every_language():
    facts = village.facts()
    assert len(facts) > 120
    for known in facts:
        assert set(known.questions) == set(known.answers) == set(village.LANGUAGES)
    for language in village.LANGUAGES:  # one question, one answer
        assert len({known.questions[language] for known in facts}) == len(facts)


def test_dialogues_tell_the_facts():
    known = {
        one.questions[language]: one.answers[language] for one in village.facts() for language in village.LANGUAGES
    }
    told = 0
    for document in village.documents(1, "train", 0, 600, weights={"dialogue": 1}):
        for asked, answered in zip(document.messages[::2], document.messages[1::2], strict=True):
            if asked["content"] in known:
                assert answered["content"] == known[asked["content"]]
                told += 1
    assert told > 150


def test_families_make_sense():
    for (child, relation), sibling in SIBLINGS.items():
        older = VILLAGERS[sibling].age > VILLAGERS[child].age
        assert relation == ("older " if older else "little ") + (
            "sister" if VILLAGERS[sibling].gender == "f" else "brother"
        )
        assert VILLAGERS[child].age != VILLAGERS[sibling].age
    for child in VILLAGERS.values():
        ages = FAMILIES[child.family].ages
        assert ages["mother"] - child.age >= 20 and ages["father"] - child.age >= 20
        assert ages["grandmother"] - max(ages["mother"], ages["father"]) >= 20
