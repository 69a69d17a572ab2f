"""Korean: the agent first, the verb last, particles in between; elders are spoken of with 께서, 께 and -시-."""

from __future__ import annotations

import functools

from malmoi.data.village import hangul
from malmoi.data.village.lexicon import ADJECTIVES, COLOURS, FEELINGS, NOUNS, NUMBERS_KO, PLACES, TIMES, WEATHER
from malmoi.data.village.meaning import Cause, Event, Fact, Meaning, Person, Sequence, State, Thing, Weather
from malmoi.data.village.people import RELATIONS, ROLES, VILLAGERS
from malmoi.data.village.verbs import VERBS

_STEMS = {"be": ("있", "계시"), "exist": ("있", ""), "have": ("가지고 있", "가지고 계시")}


def is_elder(who: object) -> bool:
    """Whether Korean honours this person."""
    if not isinstance(who, Person):
        return False
    if who.relation:
        return RELATIONS[who.relation].elder
    return who.name in ROLES and ROLES[who.name].elder


@functools.cache
def person(who: Person) -> str:
    if who.name in ROLES:
        return ROLES[who.name].ko
    child = VILLAGERS[who.name]
    if who.relation:
        word = RELATIONS[who.relation].ko[child.gender == "m"]
        return word if who.own else f"{child.ko}의 {word}"
    return hangul.together(child.ko) + " " + VILLAGERS[who.other].ko if who.other else child.ko


@functools.cache
def thing(what: Thing) -> str:
    """그 빨간 공, 미나의 공, 자기 공, 작은 고양이 두 마리, 물."""
    noun = NOUNS[what.noun]
    words = []
    if what.owner:
        words.append("자기" if what.owner == "self" else VILLAGERS[what.owner].ko + "의")
    elif what.definite:
        words.append("그")
    if what.adjective:
        words.append(ADJECTIVES[what.adjective].ko)
    words.append(noun.ko)
    if not noun.mass and (what.number > 1 or not (what.definite or what.owner)):
        words += [NUMBERS_KO[what.number], noun.counter]
    return " ".join(words)


def phrase(what: Person | Thing) -> str:
    return person(what) if isinstance(what, Person) else thing(what)


@functools.cache
def _agent(who: Person | Thing, focus: bool) -> str:
    word = phrase(who)
    if is_elder(who):
        return word + ("께서" if focus else "께서는")
    known = isinstance(who, Person) or who.definite or bool(who.owner)
    return hangul.topic(word) if known and not focus else hangul.subject(word)


@functools.cache
def _object(what: Person | Thing) -> str:
    return hangul.direct(phrase(what))


@functools.cache
def _recipient(who: Person) -> str:
    return person(who) + ("께" if is_elder(who) else "에게")


@functools.cache
def _place(place: str, pattern: str) -> str:
    word = PLACES[place].ko if place else "어디"
    if pattern == "toward":
        return hangul.along(word)
    if pattern == "leave":
        return hangul.direct(word)
    return word + ("에" if pattern in ("to", "move", "put", "be", "exist") else "에서")


def _stem(event: Event, elder: bool) -> str:
    plain, honorific = _STEMS.get(event.verb, ("", ""))
    if not plain:
        verb = VERBS[event.verb]
        plain, honorific = verb.ko, verb.ko_honorific
        if verb.ko_humble and (is_elder(event.recipient) or is_elder(event.object)):
            return verb.ko_humble
    return honorific if elder and honorific else plain


def _predicate(event: Event, elder: bool) -> str:
    stem = _stem(event, elder)
    if event.verb in _STEMS:
        return hangul.conjugate(stem, "habit" if event.tense == "now" else event.tense, elder, event.negative)
    return hangul.conjugate(stem, event.tense, elder, event.negative)


def _pattern(event: Event) -> str:
    return event.verb if event.verb in _STEMS else VERBS[event.verb].pattern


def _roles(event: Event) -> list[str]:
    """Recipient, place and object in Korean order."""
    words = []
    if event.recipient is not None:
        words.append(_recipient(event.recipient))
    pattern = _pattern(event)
    if pattern in ("move", "put") and event.object is not None:
        return [*words, _object(event.object), _place(event.place, pattern)]
    if event.place:
        words.append(_place(event.place, pattern))
    if event.object is not None:
        words.append(_object(event.object))
    return words


def _clause(event: Event, focus: bool = False, agent: bool = True) -> str:
    elder = is_elder(event.agent)
    words = [TIMES[event.time].ko] if event.time else []
    if event.verb == "exist":
        words += [_place(event.place, "exist"), hangul.subject(phrase(event.agent)), _predicate(event, False)]
        return " ".join(words)
    if agent:
        words.append(_agent(event.agent, focus))
    return " ".join([*words, *_roles(event), _predicate(event, elder)])


def _feeling_stem(key: str, elder: bool) -> str:
    feeling = FEELINGS[key]
    if elder:
        return feeling.ko_honorific or hangul.honorific(feeling.ko_stem)
    return feeling.ko_stem


def _quality(state: State) -> str:
    bend = hangul.past if state.tense == "past" else hangul.present
    if isinstance(state.subject, Person):
        return bend(_feeling_stem(state.quality, is_elder(state.subject)))
    if state.quality in COLOURS:
        return hangul.copula(ADJECTIVES[state.quality].ko_stem, state.tense == "past")
    return bend(ADJECTIVES[state.quality].ko_stem)


def _weather(sky: str, tense: str) -> str:
    data = WEATHER[sky]
    bend = {"past": hangul.past, "now": hangul.present, "future": hangul.future}[tense]
    return f"{data.ko_subject} {bend(data.ko_stem)}"


def _fact(fact: Fact) -> str:
    who = fact.person
    elder = is_elder(who)
    agent = _agent(who, False)
    if fact.kind == "age":
        return f"{agent} {fact.value}" + ("세이세요" if elder else "살이에요")
    if fact.kind == "home":
        return f"{agent} {PLACES[fact.value].ko} 옆에 살아요"
    if fact.kind == "work":
        return f"{agent} {PLACES[fact.value].ko}에서 {hangul.conjugate('일하', 'habit', elder, False)}"
    if fact.kind == "food":
        return f"{agent} {hangul.direct(NOUNS[fact.value].ko)} 가장 좋아해요"
    if fact.kind == "colour":
        return f"{agent} {hangul.direct(ADJECTIVES[fact.value].ko_stem)} 가장 좋아해요"
    sibling = VILLAGERS[fact.value]
    return f"{hangul.topic(sibling.ko)} {hangul.copula(person(who))}"


def sentence(meaning: Meaning, focus: bool = False) -> str:
    """The one Korean sentence of a meaning. `focus`: the agent is the news (an answer to "who?")."""
    if isinstance(meaning, Event):
        return _clause(meaning, focus) + "."
    if isinstance(meaning, State):
        time = TIMES[meaning.time].ko + " " if meaning.time else ""
        return f"{time}{_agent(meaning.subject, focus)} {_quality(meaning)}."
    if isinstance(meaning, Weather):
        time = TIMES[meaning.time].ko + " " if meaning.time else ""
        return f"{time}{_weather(meaning.sky, meaning.tense)}."
    if isinstance(meaning, Sequence):
        return _sequence(meaning)
    if isinstance(meaning, Cause):
        elder = is_elder(meaning.state.subject)
        reason = hangul.infinitive(_feeling_stem(meaning.state.quality, elder)) + "서"
        return f"{_agent(meaning.state.subject, False)} {reason} {_clause(meaning.event, agent=False)}."
    return _fact(meaning) + "."


def _sequence(meaning: Sequence) -> str:
    first = meaning.first
    elder = is_elder(first.agent)
    motion = _pattern(first) in ("to", "toward", "from")
    words = [TIMES[first.time].ko] if first.time else []
    words += [_agent(first.agent, False), *_roles(first), hangul.linked(_stem(first, elder), elder, motion)]
    return " ".join(words) + " " + _clause(meaning.second, agent=False) + "."


def question(meaning: Event | State | Weather | Fact, asked: str) -> str:
    """What one asks to hear this meaning: `asked` is agent, object, recipient, place, number, quality, sky or value."""
    if isinstance(meaning, Weather):
        return "날씨가 어땠어요?" if meaning.tense == "past" else "날씨가 어때요?"
    if isinstance(meaning, State):
        how = "어땠어요?" if meaning.tense == "past" else "어때요?"
        if meaning.quality in COLOURS:
            how = "무슨 색이었어요?" if meaning.tense == "past" else "무슨 색이에요?"
        elif is_elder(meaning.subject):
            how = "어떠셨어요?" if meaning.tense == "past" else "어떠세요?"
        return f"{_agent(meaning.subject, False)} {how}"
    if isinstance(meaning, Fact):
        return _fact_question(meaning)
    pattern = _pattern(meaning)
    elder = asked != "agent" and is_elder(meaning.agent)
    words = ["누가"] if asked == "agent" else [_agent(meaning.agent, False)]
    place = _place("" if asked == "place" else meaning.place, pattern) if asked == "place" or meaning.place else ""
    if meaning.recipient is not None:
        words.append("누구에게" if asked == "recipient" else _recipient(meaning.recipient))
    if place and pattern not in ("move", "put"):
        words.append(place)
    if meaning.object is not None:
        words.append(_asked_object(meaning.object, asked))
    if place and pattern in ("move", "put"):
        words.append(place)
    plain = Event(
        meaning.verb, meaning.agent, None if asked == "object" else meaning.object,
        None if asked == "recipient" else meaning.recipient, tense=meaning.tense,
    )  # fmt: skip
    return " ".join([*words, _predicate(plain, elder)])[:-1] + "요?"


def _asked_object(what: Person | Thing, asked: str) -> str:
    if asked == "object":
        return "누구를" if isinstance(what, Person) else "무엇을"
    if asked == "number" and isinstance(what, Thing):
        noun = NOUNS[what.noun]
        return f"{hangul.direct(noun.ko)} 몇 {noun.counter}"
    return _object(what)


def _fact_question(fact: Fact) -> str:
    agent, elder = _agent(fact.person, False), is_elder(fact.person)
    if fact.kind == "kin":
        return f"{hangul.topic(person(fact.person))} 누구예요?"
    asked = {
        "age": "연세가 어떻게 되세요?" if elder else "몇 살이에요?",
        "home": "어디에 살아요?",
        "work": f"어디에서 {hangul.conjugate('일하', 'habit', elder, False)[:-1]}요?",
        "food": "무엇을 가장 좋아해요?",
        "colour": "무슨 색을 가장 좋아해요?",
    }
    return f"{agent} {asked[fact.kind]}"
