"""Stories of five to fifteen sentences: a beginning, a plot whose events follow from one another, an ending.

A plot draws its people, places and things and makes one event follow from another; around it there is weather.
"""

from __future__ import annotations

from collections.abc import Callable

from malmoi.data.village import hangul
from malmoi.data.village.episodes import Episode
from malmoi.data.village.french import contracted, definite
from malmoi.data.village.held_out import has_held_out
from malmoi.data.village.lexicon import FITTING, KINDS, NOUNS, PLACES
from malmoi.data.village.meaning import Cause, Event, Meaning, Person, State, Thing, Weather
from malmoi.data.village.meaning import Sequence as Chain
from malmoi.data.village.people import KIN, NAMES, RELATIONS, VILLAGERS
from malmoi.data.village.questions import Asked, ask, one_fact
from malmoi.data.village.scenes import Draw, cause
from malmoi.data.village.translation import GRAMMARS
from malmoi.data.village.verbs import VERBS


def opening(language: str, name: str) -> str:
    """Once upon a time there was a child who lived somewhere."""
    child = VILLAGERS[name]
    place = PLACES[child.home]
    girl = child.gender == "f"
    if language == "ko":
        called = child.ko + ("이라는" if hangul.final_of(child.ko) else "라는")
        return f"한때 {place.ko} 옆에 {called} {'소녀가' if girl else '소년이'} 살았어요."
    if language == "en":
        return f"Once upon a time a {'girl' if girl else 'boy'} named {name} lived next to {place.bare}."
    where = contracted("de", definite(place.fr, place.gender == "f"))
    who = "une fille nommée" if girl else "un garçon nommé"
    return f"Il était une fois {who} {name} qui habitait à côté {where}."


def closing(language: str, name: str, kind: int) -> str:
    """One of four endings."""
    child = VILLAGERS[name]
    endings = {
        "ko": (
            "그날은 아주 좋은 하루였어요.",
            "모두 행복했어요.",
            f"그날 밤 {hangul.topic(child.ko)} 잘 잤어요.",
            f"{hangul.topic(child.ko)} 그날을 잊지 않았어요.",
        ),
        "en": (
            "It was a very good day.",
            "Everyone was happy.",
            f"That night {name} slept well.",
            f"{name} did not forget that day.",
        ),
        "fr": (
            "C'était une très belle journée.",
            "Tout le monde était content.",
            f"Cette nuit-là, {name} a bien dormi.",
            f"{name} n'a pas oublié ce jour-là.",
        ),
    }
    return endings[language][kind]


class Plot(Episode):
    """An episode that must hold together: a line that the split forbids spoils it."""

    spoilt = False

    def must(self, *meanings: Meaning) -> None:
        for meaning in meanings:
            if not self.tell(meaning):
                self.spoilt = True

    def may(self, meaning: Meaning | None) -> None:
        if meaning is not None:
            self.tell(meaning)


def _event(verb: str, name: str, what: Thing | Person | None = None, **roles: object) -> Event:
    return Event(verb, Person(name), what, **roles)  # type: ignore[arg-type]


def _described(draw: Draw, noun: str, number: int = 1) -> Thing:
    adjective = draw.pick(FITTING[noun]) if FITTING[noun] and draw.chance(0.5) else ""
    return Thing(noun, number, False, adjective)


def _the(what: Thing) -> Thing:
    return Thing(what.noun, what.number, True)


def lost_and_found(draw: Draw, plot: Plot, hero: str, friend: str) -> None:
    what = _described(draw, draw.pick(KINDS["object"]))
    place = draw.pick(VERBS["lose"].places)
    mine = Thing(what.noun, 1, False, what.adjective, "self")
    plot.must(Event("have", Person(hero), what), _event("go", hero, place=place))
    if draw.chance(0.6):
        plot.may(_event(draw.pick(("play", "rest", "sing")), hero))
    plot.must(_event("lose", hero, mine), State(Person(hero), "sad"))
    plot.may(_event("return", hero, place=place, time="later"))
    plot.must(_event("go", friend, place=place, time=draw.pick(("then", "later"))))
    plot.must(_event("find", friend, Thing(what.noun, 1, False, what.adjective, hero)))
    plot.must(_event("meet", friend, Person(hero)), _event("give", friend, _the(what), recipient=Person(hero)))
    plot.must(State(Person(hero), "happy"))


def errand(draw: Draw, plot: Plot, hero: str, friend: str) -> None:
    relation = draw.pick([r for r in KIN[hero] if RELATIONS[r].elder])
    elder = Person(hero, relation, own=True)
    feeling = draw.pick(("hungry", "sick", "tired"))
    what = _described(draw, draw.pick(KINDS["food"]))
    shop = draw.pick(VERBS["buy"].places)
    plot.must(State(Person(hero, relation), feeling))
    plot.must(Chain(_event("go", hero, place=shop), _event("buy", hero, what)))
    if draw.chance(0.6):
        plot.may(_event("meet", hero, Person(friend)))
    plot.must(_event("go", hero, place="home", time=draw.pick(("then", "later", ""))))
    plot.must(_event("give", hero, _the(what), recipient=elder))
    plot.must(Event("eat", Person(hero, relation), _the(what)), State(Person(hero, relation), "happy"))
    plot.may(Event("praise", Person(hero, relation), Person(hero)))


def animal(draw: Draw, plot: Plot, hero: str, friend: str) -> None:
    noun = draw.pick(KINDS["animal"])
    beast, the = _described(draw, noun), Thing(noun, 1, True)
    first, second = draw.some([p for p in VERBS["see"].places if p != "shop"], 2)
    plot.must(_event("go", hero, place=first), _event("see", hero, beast))
    seen = draw.pick(("clever", "fast", "small", "big"))
    plot.may(State(the, seen) if seen != beast.adjective else None)
    plot.must(Event("go" if noun == "bird" else "run", the, place=second), _event("follow", hero, the, time="then"))
    found = _described(draw, draw.pick(KINDS["object"]))
    plot.must(_event("find", hero, found, place=second))
    if draw.chance(0.6):
        plot.may(Event("sleep", the))
    plot.must(_event("come", friend, place=second, time=draw.pick(("then", "later"))))
    plot.must(_event("show", hero, _the(found), recipient=Person(friend)))
    plot.must(State(Person(hero, other=friend), "happy"))


def present(draw: Draw, plot: Plot, hero: str, friend: str) -> None:
    what = _described(draw, draw.pick([n for n in VERBS["make"].objects if not NOUNS[n].mass]))
    place = draw.pick(VERBS["play"].places)
    plot.must(_event("make", hero, what))
    plot.may(_event("show", hero, _the(what), recipient=Person(hero, draw.pick(("mother", "grandmother")), own=True)))
    plot.must(_event("take", hero, _the(what), place=place), _event("meet", hero, Person(friend), time="then"))
    plot.must(_event("give", hero, _the(what), recipient=Person(friend)), State(Person(friend), "happy"))
    plot.must(Event("play", Person(hero, other=friend), place=place))
    plot.may(Event(draw.pick(("sing", "dance")), Person(hero, other=friend)))


def outing(draw: Draw, plot: Plot, hero: str, friend: str) -> None:
    place = draw.pick(VERBS["walk"].places)
    both = Person(hero, other=friend)
    plot.must(_event("meet", hero, Person(friend)), Event("go", both, place=place))
    for _ in range(draw.between(2, 4)):
        who = draw.pick((hero, friend))
        deed = draw.pick(("see", "find", "draw"))
        noun = draw.pick(VERBS[deed].objects)
        if noun not in plot.nouns:
            plot.nouns.add(noun)
            plot.may(_event(deed, who, _described(draw, noun, draw.between(1, 4))))
    feeling, deed = draw.pick((("happy", "sing"), ("tired", "rest"), ("thirsty", "drink"), ("hungry", "eat")))
    what = draw.pick(VERBS[deed].objects) if VERBS[deed].objects else ""
    plot.may(Cause(State(both, feeling), Event(deed, both, Thing(what) if what else None)))
    plot.must(Event("return", both, place=place, time="later"))


PLOTS: tuple[Callable[[Draw, Plot, str, str], None], ...] = (lost_and_found, errand, animal, present, outing)


def lines(draw: Draw) -> tuple[str, list[Meaning]]:
    """The hero and the lines of a whole plot, between four and thirteen of them."""
    while True:
        hero, friend = draw.some(NAMES, 2)
        plot = Plot(draw)
        if draw.chance(0.5):
            plot.weather()
        if draw.chance(0.3):
            plot.may(draw.fits(lambda d, hero=hero: cause(d, Person(hero))))
        draw.pick(PLOTS)(draw, plot, hero, friend)
        if draw.chance(0.2):
            plot.may(Weather("sunny", "past", "later"))
        good = not plot.spoilt and 3 <= len(plot.lines) <= 13
        if good and (not draw.held_out or any(has_held_out(line) for line in plot.lines)):
            return hero, plot.lines


def _text(draw: Draw, language: str, hero: str, told: list[Meaning]) -> str:
    sentence = GRAMMARS[language].sentence
    return " ".join([opening(language, hero), *map(sentence, told), closing(language, hero, draw.between(0, 3))])


def _asked(draw: Draw, told: list[Meaning]) -> list[Asked]:
    """What may be asked about the story, in random order: in the held-out split about held-out pairs, else not."""
    found = [item for item in one_fact(told) if has_held_out(item[0]) == draw.held_out]
    return draw.some(found, len(found))


def document(draw: Draw, language: str) -> str:
    """A story of five to fifteen sentences; half of them with two questions about it."""
    hero, told = lines(draw)
    words = [_text(draw, language, hero, told)]
    if draw.chance(0.5):
        for item in _asked(draw, told)[:2]:
            words += ask(language, item)
    return "\n".join(words)


def example(draw: Draw, language: str) -> tuple[str, str]:
    """A story and a question about it. (How a story goes on has no one right answer; what it said has.)"""
    while True:
        hero, told = lines(draw)
        asked = _asked(draw, told)
        if asked:
            question, answer = ask(language, asked[0])
            return f"{_text(draw, language, hero, told)}\n{question}\n", answer
