"""French: gender and agreement, elision (l', d', n', qu', s'), contraction (au, du), partitives (du, de la, de l')."""

from __future__ import annotations

import functools

from malmoi.data.village.english import gender
from malmoi.data.village.lexicon import ADJECTIVES, COLOURS, FEELINGS, NOUNS, NUMBERS_FR, PLACES, TIMES, WEATHER
from malmoi.data.village.meaning import Cause, Event, Fact, Meaning, Person, Sequence, State, Thing, Weather
from malmoi.data.village.people import RELATIONS, ROLES, VILLAGERS
from malmoi.data.village.verbs import VERBS

_VOWELS = frozenset("aeiouhàâéèêîôœAEIOUHÉ")  # an h here is always mute: the Village has no word with an aspirated one
_FORMS = {"have": ("a", "ont", "aur", "avait", "avaient"), "be": ("est", "sont", "ser", "était", "étaient")}


def elide(word: str, following: str) -> str:
    """`de` + `Emma` is `d'Emma`, `la` + `école` is `l'école`; with the space where nothing is elided."""
    return word[:-1] + "'" + following if following[0] in _VOWELS else f"{word} {following}"


def definite(word: str, feminine: bool) -> str:
    return elide("la" if feminine else "le", word)


def contracted(preposition: str, phrase: str) -> str:
    """`à` + `le marché` is `au marché`; `de` + `les pommes` is `des pommes`; `de` + `Emma` is `d'Emma`."""
    if phrase.startswith("le "):
        return ("au " if preposition == "à" else "du ") + phrase[3:]
    if phrase.startswith("les "):
        return ("aux " if preposition == "à" else "des ") + phrase[4:]
    return elide("de", phrase) if preposition == "de" else f"{preposition} {phrase}"


def _is_plural(who: Person | Thing) -> bool:
    return bool(who.other) if isinstance(who, Person) else who.number > 1 and not NOUNS[who.noun].mass


def _is_feminine(who: Person | Thing) -> bool:
    if isinstance(who, Thing):
        return NOUNS[who.noun].gender == "f"
    if who.other:
        return VILLAGERS[who.name].gender == VILLAGERS[who.other].gender == "f"
    return gender(who) == "f"


def agree(word: str, who: Person | Thing) -> str:
    """A participle with the ending of its subject: allé, allée, allés, allées."""
    feminine = word + "e" if _is_feminine(who) else word
    return feminine + "s" if _is_plural(who) and feminine[-1] not in "sx" else feminine


@functools.cache
def person(who: Person) -> str:
    if who.name in ROLES:
        return ROLES[who.name].fr
    if who.relation:
        relation = RELATIONS[who.relation]
        feminine = relation.gender == "f"
        if who.own:
            return ("sa " if feminine else "son ") + relation.fr
        return definite(relation.fr, feminine) + " " + elide("de", who.name)
    return f"{who.name} et {who.other}" if who.other else who.name


def _modified(what: Thing) -> list[str]:
    """The noun with its adjective on the right side: un petit chat, une pomme rouge."""
    noun = NOUNS[what.noun]
    plural = what.number > 1 and not noun.mass
    word = noun.fr_plural if plural else noun.fr
    if not what.adjective:
        return [word]
    adjective = ADJECTIVES[what.adjective]
    feminine = noun.gender == "f"
    form = adjective.forms[2 * plural + feminine]
    if adjective.before and not plural and not feminine and word[0] in _VOWELS:
        form = adjective.elided
    return [form, word] if adjective.before else [word, form]


@functools.cache
def thing(what: Thing, negative: bool = False) -> str:
    """le ballon rouge, le ballon de Mina, son ballon, deux petits chats, de l'eau (`negative`: d'eau)."""
    noun = NOUNS[what.noun]
    feminine, plural = noun.gender == "f", what.number > 1 and not noun.mass
    text = " ".join(_modified(what))
    if plural:
        text = f"{NUMBERS_FR[what.number]} {text}"
    if what.owner == "self":
        own = "ses" if plural else "sa" if feminine and text[0] not in _VOWELS else "son"
        return f"{own} {text}"
    if what.definite or what.owner:
        text = f"les {text}" if plural else definite(text, feminine)
        return f"{text} {elide('de', what.owner)}" if what.owner else text
    if plural:
        return text
    if noun.mass:
        return elide("de", text) if negative else contracted("de", definite(text, feminine))
    return ("une " if feminine else "un ") + text


def phrase(what: Person | Thing, negative: bool = False) -> str:
    return person(what) if isinstance(what, Person) else thing(what, negative)


@functools.cache
def place(key: str, pattern: str) -> str:
    """au marché, dans la forêt, du marché, jusqu'à l'école, le marché."""
    data = PLACES[key]
    the = definite(data.fr, data.gender == "f")
    if pattern == "from":
        return contracted("de", the)
    if pattern == "leave":
        return the
    if pattern == "toward":
        return "jusqu'" + contracted("à", the)
    return contracted("à", the) if data.fr_at == "à" else f"{data.fr_at} {the}"


def _negate(word: str) -> str:
    return elide("ne", word) + " pas"


def _verb(event: Event, agreeing: Thing | None = None) -> str:
    """The predicate. `agreeing`: a direct object before the verb, with which the participle agrees."""
    plural, verb, tense = _is_plural(event.agent), event.verb, event.tense
    if verb in _FORMS:
        singular, many, stem, imperfect, imperfects = _FORMS[verb]
        if tense == "past":
            word = imperfects if plural else imperfect
        elif tense == "future":
            word = stem + ("ont" if plural else "a")
        else:
            word = many if plural else singular
        return _negate(word) if event.negative else word
    data = VERBS[verb]
    singular, many, stem, participle = data.fr
    if tense == "past":
        auxiliary = ("sont" if plural else "est") if data.fr_be else ("ont" if plural else "a")
        if data.fr_be:
            participle = agree(participle, event.agent)
        elif agreeing is not None:
            participle = agree(participle, agreeing)
        helped = elide("se", auxiliary) if data.fr_reflexive else auxiliary
        return (
            (f"ne {helped} pas" if data.fr_reflexive else _negate(auxiliary)) + f" {participle}"
            if event.negative
            else (f"{helped} {participle}")
        )
    word = stem + ("ont" if plural else "a") if tense == "future" else many if plural else singular
    if data.fr_reflexive:
        word = elide("se", word)
        return f"ne {word} pas" if event.negative else word
    return _negate(word) if event.negative else word


def _roles(event: Event) -> list[str]:
    words = []
    if event.object is not None:
        words.append(phrase(event.object, event.negative))
    if event.recipient is not None:
        words.append(contracted("à", person(event.recipient)))
    if event.place:
        words.append(_place(event))
    return words


def _place(event: Event) -> str:
    return place(event.place, event.verb if event.verb in ("be", "have") else VERBS[event.verb].pattern)


def _exists(event: Event) -> str:
    there = {"past": "il y avait", "future": "il y aura"}.get(event.tense, "il y a")
    return f"{there} {phrase(event.agent)} {place(event.place, 'be')}"


def _clause(event: Event, subject: str | None = None) -> str:
    time = TIMES[event.time].fr + ", " if event.time else ""
    if event.verb == "exist":
        return time + _exists(event)
    who = phrase(event.agent) if subject is None else subject
    return time + " ".join([*([who] if who else []), _verb(event), *_roles(event)])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _is(state: State) -> str:
    plural, past = _is_plural(state.subject), state.tense == "past"
    if isinstance(state.subject, Person) and FEELINGS[state.quality].noun:
        verb = ("avaient" if plural else "avait") if past else ("ont" if plural else "a")
        return f"{verb} {FEELINGS[state.quality].noun}"
    verb = ("étaient" if plural else "était") if past else ("sont" if plural else "est")
    source = FEELINGS if isinstance(state.subject, Person) else ADJECTIVES
    forms = source[state.quality].forms
    assert forms is not None
    return f"{verb} {forms[2 * plural + _is_feminine(state.subject)]}"


def _fact(fact: Fact) -> str:
    who = person(fact.person)
    if fact.kind == "age":
        return f"{who} a {fact.value} ans"
    if fact.kind == "home":
        data = PLACES[fact.value]
        return f"{who} habite à côté {contracted('de', definite(data.fr, data.gender == 'f'))}"
    if fact.kind == "work":
        return f"{who} travaille {place(fact.value, 'act')}"
    if fact.kind == "food":
        noun = NOUNS[fact.value]
        what = definite(noun.fr, noun.gender == "f") if noun.mass else f"les {noun.fr_plural}"
        return f"{who} préfère {what}"
    if fact.kind == "colour":
        return f"{who} préfère {definite(ADJECTIVES[fact.value].forms[0], False)}"
    return f"{fact.value} est {who}"


def sentence(meaning: Meaning, focus: bool = False) -> str:
    """The one French sentence of a meaning. (`focus` changes nothing in French.)"""
    if isinstance(meaning, Event):
        return _capital(_clause(meaning)) + "."
    if isinstance(meaning, State):
        time = TIMES[meaning.time].fr + ", " if meaning.time else ""
        return _capital(f"{time}{phrase(meaning.subject)} {_is(meaning)}.")
    if isinstance(meaning, Weather):
        time = TIMES[meaning.time].fr + ", " if meaning.time else ""
        return _capital(time + WEATHER[meaning.sky].fr[("past", "now", "future").index(meaning.tense)] + ".")
    if isinstance(meaning, Sequence):
        return _capital(f"{_clause(meaning.first)} et {_clause(meaning.second, '')}.")
    if isinstance(meaning, Cause):
        who = meaning.event.agent
        pronoun = ("elle" if _is_feminine(who) else "il") + ("s" if _is_plural(who) else "")
        return f"{sentence(meaning.state)[:-1]}, alors {_clause(meaning.event, pronoun)}."
    return _capital(_fact(meaning)) + "."


def question(meaning: Event | State | Weather | Fact, asked: str) -> str:
    """What one asks to hear this meaning: `asked` is agent, object, recipient, place, number, quality, sky or value."""
    if isinstance(meaning, Weather):
        return "Quel temps faisait-il ?" if meaning.tense == "past" else "Quel temps fait-il ?"
    if isinstance(meaning, State):
        plural, past = _is_plural(meaning.subject), meaning.tense == "past"
        verb = ("étaient" if plural else "était") if past else ("sont" if plural else "est")
        return (
            "De quelle couleur" if meaning.quality in COLOURS else "Comment"
        ) + f" {verb} {phrase(meaning.subject)} ?"
    if isinstance(meaning, Fact):
        return _fact_question(meaning)
    if asked == "agent":
        singular = Event(meaning.verb, Person("Jun"), tense=meaning.tense)
        return " ".join(["Qui", _verb(singular), *_roles(meaning)]) + " ?"
    who = phrase(meaning.agent)
    if meaning.verb == "be":
        return f"Où {_verb(meaning)} {who} ?"
    return _asked(meaning, asked, who)


def _asked(event: Event, asked: str, who: str) -> str:
    """Questions with est-ce que; an object that is asked for stands before the verb and its participle agrees."""
    agreeing = event.object if asked == "number" and isinstance(event.object, Thing) else None
    words = [_verb(event, agreeing)]
    if event.object is not None and asked not in ("object", "number"):
        words.append(phrase(event.object))
    if event.recipient is not None and asked != "recipient":
        words.append(contracted("à", person(event.recipient)))
    if event.place and asked != "place":
        words.append(_place(event))
    that = elide("que", who)
    if asked == "object":
        opening = "Qui est-ce " if isinstance(event.object, Person) else "Qu'est-ce "
    elif asked == "number":
        assert isinstance(event.object, Thing)
        noun = NOUNS[event.object.noun]
        opening = f"Combien {elide('de', noun.fr_plural)} est-ce "
    elif asked == "recipient":
        opening = "À qui est-ce "
    else:
        opening = ("D'où" if event.verb == "return" else "Où") + " est-ce "
    return f"{opening}{that} {' '.join(words)} ?"


def _fact_question(fact: Fact) -> str:
    who = person(fact.person)
    that = elide("que", who)
    return {
        "age": f"Quel âge a {who} ?",
        "home": f"Où habite {who} ?",
        "work": f"Où travaille {who} ?",
        "food": f"Qu'est-ce {that} préfère ?",
        "colour": f"Quelle couleur est-ce {that} préfère ?",
        "kin": f"Qui est {who} ?",
    }[fact.kind]
