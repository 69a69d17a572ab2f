"""English: articles by sound, tenses by auxiliaries, the third person's -s."""

from __future__ import annotations

import functools

from malmoi.data.village.lexicon import COLOURS, NOUNS, NUMBERS_EN, PLACES, TIMES, WEATHER
from malmoi.data.village.meaning import Cause, Event, Fact, Meaning, Person, Sequence, State, Thing, Weather
from malmoi.data.village.people import RELATIONS, ROLES, VILLAGERS
from malmoi.data.village.verbs import VERBS

_FORMS = {
    "be": ("be", "is", "was", "being"),
    "have": ("have", "has", "had", "having"),
}
_PLURAL = {"is": "are", "was": "were", "has": "have"}


def gender(who: Person) -> str:
    """The natural gender of one person, for `she`, `his`."""
    if who.relation:
        return RELATIONS[who.relation].gender
    return ROLES[who.name].gender if who.name in ROLES else VILLAGERS[who.name].gender


def possessive(who: Person | Thing) -> str:
    if isinstance(who, Thing):
        return "its"
    return "their" if who.other else "her" if gender(who) == "f" else "his"


@functools.cache
def person(who: Person, own: str = "") -> str:
    if who.name in ROLES:
        return ROLES[who.name].en
    if who.relation:
        return f"{own} {who.relation}" if who.own else f"{who.name}'s {who.relation}"
    return f"{who.name} and {who.other}" if who.other else who.name


def article(word: str) -> str:
    """a or an, by the first sound of the next word."""
    return "an" if word[0] in "aeiou" else "a"


@functools.cache
def thing(what: Thing, own: str = "") -> str:
    """the red ball, Mina's ball, her ball, two small cats, water."""
    noun = NOUNS[what.noun]
    words = [what.adjective] if what.adjective else []
    words.append(noun.en if noun.mass or what.number == 1 else noun.en_plural)
    if what.number > 1 and not noun.mass:
        words.insert(0, NUMBERS_EN[what.number])
    if what.owner:
        words.insert(0, own if what.owner == "self" else f"{what.owner}'s")
    elif what.definite:
        words.insert(0, "the")
    elif not noun.mass and what.number == 1:
        words.insert(0, article(words[0]))
    return " ".join(words)


def phrase(what: Person | Thing, own: str = "") -> str:
    return person(what, own) if isinstance(what, Person) else thing(what, own)


def _is_plural(who: Person | Thing) -> bool:
    return bool(who.other) if isinstance(who, Person) else who.number > 1 and not NOUNS[who.noun].mass


@functools.cache
def _verb(verb: str, tense: str, plural: bool, negative: bool) -> str:
    base, third, past, going = _FORMS.get(verb) or VERBS[verb].en
    no = " not" if negative else ""
    if verb in _FORMS:
        if tense == "future":
            return f"will{no} {base}"
        form = past if tense == "past" else third
        form = _PLURAL.get(form, form) if plural else form
        return form + no
    if tense == "future":
        return f"will{no} {base}"
    if tense == "now":
        return ("are" if plural else "is") + f"{no} {going}"
    if negative:
        return ("did" if tense == "past" else "do" if plural else "does") + f" not {base}"
    return past if tense == "past" else base if plural else third


def _place(place: str, verb: str) -> str:
    data = PLACES[place]
    pattern = verb if verb in ("be", "exist", "have") else VERBS[verb].pattern
    if pattern in ("to", "toward", "move"):
        return data.to
    return data.origin if pattern == "from" else data.bare if pattern == "leave" else data.at


def _roles(event: Event, own: str) -> list[str]:
    """Object, recipient and place in English order."""
    words = []
    if event.object is not None:
        words.append(phrase(event.object, own))
    if event.recipient is not None:
        words += ["to", person(event.recipient, own)]
    if event.place:
        words.append(_place(event.place, event.verb))
    return words


def _clause(event: Event, agent: str | None = None) -> str:
    words = [TIMES[event.time].en] if event.time else []
    plural = _is_plural(event.agent)
    if event.verb == "exist":
        words += ["there", _verb("be", event.tense, plural, False), phrase(event.agent), PLACES[event.place].at]
        return " ".join(words)
    subject = phrase(event.agent) if agent is None else agent
    if subject:
        words.append(subject)
    words.append(_verb(event.verb, event.tense, plural, event.negative))
    return " ".join([*words, *_roles(event, possessive(event.agent))])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _fact(fact: Fact) -> str:
    who = person(fact.person)
    if fact.kind == "age":
        return f"{who} is {fact.value} years old"
    if fact.kind == "home":
        return f"{who} lives next to {PLACES[fact.value].bare}"
    if fact.kind == "work":
        return f"{who} works {PLACES[fact.value].at}"
    if fact.kind == "food":
        noun = NOUNS[fact.value]
        return f"{who} likes {noun.en if noun.mass else noun.en_plural} best"
    if fact.kind == "colour":
        return f"{who} likes {fact.value} best"
    return f"{fact.value} is {who}"


def sentence(meaning: Meaning, focus: bool = False) -> str:
    """The one English sentence of a meaning. (`focus` changes nothing in English.)"""
    if isinstance(meaning, Event):
        return _capital(_clause(meaning)) + "."
    if isinstance(meaning, State):
        time = TIMES[meaning.time].en + " " if meaning.time else ""
        plural = _is_plural(meaning.subject)
        verb = _verb("be", "past" if meaning.tense == "past" else "habit", plural, False)
        return _capital(f"{time}{phrase(meaning.subject)} {verb} {meaning.quality}.")
    if isinstance(meaning, Weather):
        time = TIMES[meaning.time].en + " " if meaning.time else ""
        return _capital(time + WEATHER[meaning.sky].en[("past", "now", "future").index(meaning.tense)] + ".")
    if isinstance(meaning, Sequence):
        return _capital(f"{_clause(meaning.first)} and {_clause(meaning.second, '')}.")
    if isinstance(meaning, Cause):
        who = meaning.event.agent
        assert isinstance(who, Person)
        pronoun = "they" if who.other else "she" if gender(who) == "f" else "he"
        return f"{sentence(meaning.state)[:-1]}, so {_clause(meaning.event, pronoun)}."
    return _capital(_fact(meaning)) + "."


def question(meaning: Event | State | Weather | Fact, asked: str) -> str:
    """What one asks to hear this meaning: `asked` is agent, object, recipient, place, number, quality, sky or value."""
    if isinstance(meaning, Weather):
        return "What was the weather like?" if meaning.tense == "past" else "What is the weather like?"
    if isinstance(meaning, State):
        verb = _verb("be", "past" if meaning.tense == "past" else "habit", _is_plural(meaning.subject), False)
        return ("What colour" if meaning.quality in COLOURS else "How") + f" {verb} {phrase(meaning.subject)}?"
    if isinstance(meaning, Fact):
        return _fact_question(meaning)
    own = possessive(meaning.agent)
    if asked == "agent":
        verb = _verb(meaning.verb, meaning.tense, False, False)
        return " ".join(["Who", verb, *_roles(meaning, "their")]) + "?"
    if meaning.verb == "be":
        return f"Where {_verb('be', meaning.tense, _is_plural(meaning.agent), False)} {phrase(meaning.agent)}?"
    return _asked(meaning, asked, own)


def _asked(event: Event, asked: str, own: str) -> str:
    """Questions with do-support: `What did Mina buy at the market?`"""
    plural = _is_plural(event.agent)
    base, *_, going = _FORMS.get(event.verb) or VERBS[event.verb].en
    helper = {"past": "did", "habit": "do" if plural else "does", "now": "are" if plural else "is", "future": "will"}
    progressive = event.tense == "now" and event.verb not in _FORMS
    tense = "habit" if event.tense == "now" and not progressive else event.tense
    ending: list[str] = []
    if asked == "object":
        word = "Who" if isinstance(event.object, Person) else "What"
    elif asked == "number":
        assert isinstance(event.object, Thing)
        word = f"How many {NOUNS[event.object.noun].en_plural}"
    else:
        word = "Who" if asked == "recipient" else "Where"
        if event.object is not None:
            ending.append(phrase(event.object, own))
    if asked == "recipient":
        ending.append("to")
    elif event.recipient is not None:
        ending += ["to", person(event.recipient, own)]
    if asked == "place":
        ending += ["from"] if event.verb == "return" else []
    elif event.place:
        ending.append(_place(event.place, event.verb))
    return " ".join([word, helper[tense], phrase(event.agent), going if progressive else base, *ending]) + "?"


def _fact_question(fact: Fact) -> str:
    who = person(fact.person)
    return {
        "age": f"How old is {who}?",
        "home": f"Where does {who} live?",
        "work": f"Where does {who} work?",
        "food": f"What does {who} like best?",
        "colour": f"Which colour does {who} like best?",
        "kin": f"Who is {who}?",
    }[fact.kind]
