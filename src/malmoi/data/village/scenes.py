"""Drawing meanings: what may happen in the village, at random but sensibly.

`Draw` wraps one document's generator and knows the split: a training document accepts no held-out combination, a
held-out one may ask for one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from malmoi.data.village.held_out import has_held_out
from malmoi.data.village.lexicon import FEELINGS, FITTING, KINDS, NOUNS, PLACES, TIMES, WEATHER
from malmoi.data.village.meaning import Cause, Event, Fact, Meaning, Person, State, Thing, Weather
from malmoi.data.village.meaning import Sequence as Chain
from malmoi.data.village.people import FAMILIES, KIN, NAMES, RELATIONS, ROLES, SIBLINGS, VILLAGERS
from malmoi.data.village.verbs import BY_PATTERN, VERBS

T = TypeVar("T")
MeaningT = TypeVar("MeaningT", Event, State, Weather, Chain, Cause, Fact, Meaning)
TENSES = {"p": "past", "n": "now", "h": "habit", "f": "future"}
TIMES_OF = {tense: tuple(k for k, time in TIMES.items() if time.tense == tense) for tense in TENSES.values()}
_PATTERNS = ("to", "toward", "from", "leave", "act", "do", "move", "put", "give", "social", "be", "have", "exist")
_PATTERN_WEIGHTS = (10, 3, 4, 2, 16, 26, 5, 4, 11, 6, 4, 5, 4)
_PATTERN_BAG = tuple(p for p, weight in zip(_PATTERNS, _PATTERN_WEIGHTS, strict=True) for _ in range(weight))
_MEANING_BAG = ("event",) * 62 + ("state",) * 10 + ("weather",) * 6 + ("chain",) * 10 + ("cause",) * 6 + ("fact",) * 6
_ACTORS = tuple(key for key, verb in VERBS.items() if verb.agents == "all")
AFTER_FEELING = {  # what people do for a feeling: verbs, and a place where the verb needs one
    "hungry": (("eat", ""),),
    "thirsty": (("drink", ""),),
    "tired": (("rest", ""), ("sleep", ""), ("return", ""), ("rest", "home")),
    "sleepy": (("sleep", ""), ("go", "home"), ("sleep", "home")),
    "sick": (("go", "hospital"), ("rest", "home"), ("go", "home")),
    "happy": (("sing", ""), ("dance", ""), ("play", "")),
    "sad": (("go", "home"), ("rest", ""), ("leave", "")),
    "busy": (("work", ""),),
}


class Draw:
    """One document's source of chance."""

    __slots__ = ("held_out", "random")

    def __init__(self, seed: int, held_out: bool = False) -> None:
        self.random = random.Random(seed).random
        self.held_out = held_out

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible."""
        return low + int(self.random() * (high - low + 1))

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different ones, in random order."""
        pool = list(options)
        for i in range(count):
            j = i + int(self.random() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def fits(self, make: Callable[[Draw], MeaningT | None], required: bool = False) -> MeaningT:
        """Draw until the meaning belongs to the split: nothing held out in training, else (if `required`) something."""
        for _ in range(10_000):
            meaning = make(self)
            if meaning is None:
                continue
            held = has_held_out(meaning)
            if (held or not required) if self.held_out else not held:
                return meaning
        raise RuntimeError(f"nothing fits the split: {make}")


def kin_person(draw: Draw, name: str, own: bool = False) -> Person:
    return Person(name, draw.pick(KIN[name]), own=own)


def agent(draw: Draw, animals: bool = False) -> Person | Thing:
    """Somebody who can act: mostly a child, also kin, a role, two children, or an animal."""
    roll = draw.random()
    if animals and roll < 0.2:
        noun = draw.pick(KINDS["animal"])
        adjective = draw.pick(FITTING[noun]) if draw.chance(0.3) else ""
        return Thing(noun, 1, draw.chance(0.6), adjective)
    if roll < 0.36:
        return kin_person(draw, draw.pick(NAMES))
    if roll < 0.45:
        return Person(draw.pick(tuple(ROLES)))
    if roll < 0.53:
        first, second = draw.some(NAMES, 2)
        return Person(first, other=second)
    return Person(draw.pick(NAMES))


def _child(who: Person | Thing | None) -> str:
    """The name of an agent that is one child, else the empty string."""
    return who.name if isinstance(who, Person) and who.name in VILLAGERS and not (who.relation or who.other) else ""


def _somebody_else(draw: Draw, who: Person | Thing) -> Person:
    """A person who is not the agent, nor the agent by another name."""
    if _child(who) and draw.chance(0.25):
        return kin_person(draw, _child(who), own=True)
    taken = (who.name, who.other) if isinstance(who, Person) else ()
    name = draw.pick(NAMES)
    while name in taken or (isinstance(who, Person) and who.relation and VILLAGERS[name].family == _family(who)):
        name = draw.pick(NAMES)
    roll = draw.random()
    if roll < 0.12 and isinstance(who, Person) and who.name not in ROLES:
        return Person(draw.pick(tuple(ROLES)))
    if roll < 0.3 and not (isinstance(who, Person) and who.relation):
        person = kin_person(draw, name)
        if SIBLINGS.get((name, person.relation)) not in taken:
            return person
    return Person(name)


def _family(who: Person) -> str:
    return VILLAGERS[who.name].family


def thing(draw: Draw, noun: str, who: Person | Thing | None = None) -> Thing:
    """The noun with a number, an article, an adjective or an owner."""
    data = NOUNS[noun]
    adjective = draw.pick(FITTING[noun]) if FITTING[noun] and draw.chance(0.35) else ""
    roll = draw.random()
    if data.mass:
        return Thing(noun, 1, roll < 0.25, adjective)
    if "object" in data.kinds and roll < 0.18 and _child(who):
        owner = draw.pick(NAMES)
        return Thing(noun, 1, False, adjective, "self" if roll < 0.1 or owner == _child(who) else owner)
    if roll < 0.42:
        return Thing(noun, 1, True, adjective)
    if roll < 0.65:
        return Thing(noun, draw.between(2, 10), False, adjective)
    if roll < 0.68:
        return Thing(noun, draw.between(2, 10), True, adjective)
    return Thing(noun, 1, False, adjective)


def _time(draw: Draw, tense: str, probability: float) -> str:
    return draw.pick(TIMES_OF[tense]) if tense == "habit" or draw.chance(probability) else ""


def event(draw: Draw, pattern: str = "", tense: str = "") -> Event | None:
    """One event of a random frame."""
    pattern = pattern or draw.pick(_PATTERN_BAG)
    if pattern in ("be", "have", "exist"):
        return _standing(draw, pattern)
    verb = VERBS[draw.pick(BY_PATTERN[pattern])]
    who = agent(draw, verb.agents == "all")
    if not tense:
        tense = "past" if draw.chance(0.45) else TENSES[draw.pick(verb.tenses)]
    elif tense[0] not in verb.tenses:
        return None
    what: Thing | Person | None = None
    recipient, place = None, ""
    if pattern == "social":
        what = _somebody_else(draw, who)
    elif verb.objects:
        what = thing(draw, draw.pick(verb.objects), who)
    if pattern == "give":
        recipient = _somebody_else(draw, who)
    elif verb.places and (pattern not in ("act", "do") or draw.chance(0.6 if pattern == "act" else 0.25)):
        place = draw.pick(verb.places)
    known = not isinstance(what, Thing) or what.definite or what.owner or NOUNS[what.noun].mass
    indefinite = isinstance(who, Thing) and not who.definite
    negative = bool(known) and not indefinite and draw.chance(0.12)
    return Event(verb.key, who, what, recipient, place, _time(draw, tense, 0.5), tense, negative)


def _standing(draw: Draw, kind: str) -> Event:
    tense = "past" if draw.chance(0.4) else "now"
    if kind == "have":
        name = Person(draw.pick(NAMES))
        noun = draw.pick(KINDS["thing"])
        adjective = draw.pick(FITTING[noun]) if FITTING[noun] and draw.chance(0.3) else ""
        return Event("have", name, Thing(noun, draw.between(1, 10), False, adjective), tense=tense)
    place = draw.pick(tuple(PLACES))
    if kind == "exist":
        noun = draw.pick(KINDS["animal"] + KINDS["object"])
        adjective = draw.pick(FITTING[noun]) if draw.chance(0.3) else ""
        return Event("exist", Thing(noun, draw.between(1, 10), False, adjective), place=place, tense=tense)
    if draw.chance(0.6):
        return Event("be", agent(draw), place=place, time=_time(draw, tense, 0.3), tense=tense)
    return Event("be", Thing(draw.pick(KINDS["object"] + KINDS["animal"]), 1, True), place=place, tense=tense)


def state(draw: Draw) -> State:
    tense = "past" if draw.chance(0.5) else "now"
    if draw.chance(0.55):
        return State(agent(draw), draw.pick(tuple(FEELINGS)), tense, _time(draw, tense, 0.4))
    noun = draw.pick(KINDS["thing"] + KINDS["animal"])
    quality = draw.pick(FITTING[noun])
    if quality == "old":
        quality = "big"
    owner = draw.pick(NAMES) if draw.chance(0.3) else ""
    return State(Thing(noun, 1, not owner, "", owner), quality, tense)


def weather(draw: Draw) -> Weather:
    tense = draw.pick(("past", "now", "future"))
    return Weather(draw.pick(tuple(WEATHER)), tense, _time(draw, tense, 0.7))


def chain(draw: Draw) -> Chain | None:
    """Going somewhere and doing something there."""
    tense = draw.pick(("past", "past", "habit", "future"))
    first = event(draw, draw.pick(("to", "to", "toward", "from")), tense)
    second = event(draw, draw.pick(("do", "do", "act")), tense)
    if first is None or second is None or first.negative or second.negative or not isinstance(first.agent, Person):
        return None
    what = second.object
    if isinstance(what, Thing) and what.owner:
        return None
    return Chain(first, Event(second.verb, first.agent, what, tense=tense))


def cause(draw: Draw, who: Person | None = None) -> Cause | None:
    """A feeling and what it leads to."""
    if who is None:
        drawn = agent(draw)
        if isinstance(drawn, Thing):
            return None
        who = drawn
    quality = draw.pick(tuple(FEELINGS))
    key, place = draw.pick(AFTER_FEELING[quality])
    verb = VERBS[key]
    if not place and verb.pattern in ("from", "leave", "to"):
        place = draw.pick(tuple(p for p in verb.places if p != "home"))
    what = None
    if verb.objects:
        noun = draw.pick(verb.objects)
        mass = NOUNS[noun].mass
        what = Thing(noun, 1 if mass or draw.chance(0.5) else draw.between(2, 5), False)
    return Cause(State(who, quality), Event(key, who, what, place=place))


def fact(draw: Draw) -> Fact:
    return draw.pick(TOLD_FACTS)


def _facts() -> tuple[Fact, ...]:
    found = []
    for name, child in VILLAGERS.items():
        who = Person(name)
        found += [Fact("age", who, str(child.age)), Fact("home", who, child.home)]
        found += [Fact("food", who, child.food), Fact("colour", who, child.colour)]
        family = FAMILIES[child.family]
        for relation in KIN[name]:
            if RELATIONS[relation].elder:
                found.append(Fact("age", Person(name, relation), str(family.ages[relation])))
            else:
                found.append(Fact("kin", Person(name, relation), SIBLINGS[name, relation]))
        found += [Fact("work", Person(name, parent), place) for parent, place in family.work.items()]
    return tuple(found)


FACTS: tuple[Fact, ...] = _facts()
TOLD_FACTS = tuple(fact for fact in FACTS if fact.kind != "work")  # French says "is working" and "works" alike
_MAKERS: dict[str, Callable[[Draw], Meaning | None]] = {
    "event": event, "state": state, "weather": weather, "chain": chain, "cause": cause, "fact": fact,
}  # fmt: skip


def _any(draw: Draw) -> Meaning | None:
    return _MAKERS[draw.pick(_MEANING_BAG)](draw)


def meaning(draw: Draw) -> Meaning:
    """A sentence's meaning of any kind; in the held-out split one with a held-out combination."""
    return draw.fits(_any, required=draw.held_out)


def _rich(draw: Draw) -> Meaning | None:
    found = chain(draw) if draw.chance(0.3) else event(draw)
    if found is None:
        return None
    deed = found.second if isinstance(found, Chain) else found
    what = deed.object
    described = isinstance(what, Thing) and (what.adjective or what.number > 1 or what.owner)
    return found if described and (isinstance(found, Chain) or deed.time or deed.place or deed.recipient) else None


def rich_meaning(draw: Draw) -> Meaning:
    """A meaning with many parts: one that may stand alone in a document, as no other document will be the same."""
    return draw.fits(_rich, required=draw.held_out)
