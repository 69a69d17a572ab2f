"""Short chains of happenings whose state is known: where everybody is, who has what, what follows from what.

An `Episode` only grows through its methods, which keep the books: the lines that were told and the state after them.
Stories are made of episodes; questions are asked about them, and their answers are read from the books.
"""

from __future__ import annotations

from malmoi.data.village.held_out import has_held_out, is_held_out
from malmoi.data.village.lexicon import FEELINGS, FITTING, KINDS, NOUNS, PLACES, WEATHER
from malmoi.data.village.meaning import Event, Meaning, Person, State, Thing, Weather
from malmoi.data.village.people import NAMES
from malmoi.data.village.scenes import Draw
from malmoi.data.village.verbs import VERBS

GETTING = ("buy", "find", "make")
_PORTABLE = {
    verb: tuple(n for n in VERBS[verb].objects if not NOUNS[n].mass and n in KINDS["thing"]) for verb in GETTING
}
FELT = tuple(feeling for feeling in FEELINGS if feeling != "busy")


class Episode:
    """What has happened so far, and the state of the small world after it."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.lines: list[Meaning] = []
        self.at: dict[str, str] = {}  # child -> place
        self.holder: dict[str, str] = {}  # noun -> child
        self.lies: dict[str, str] = {}  # noun -> place
        self.things: dict[str, Thing] = {}  # noun -> as first told of
        self.nouns: set[str] = set()  # that were told of: a noun names one thing in an episode

    def tell(self, meaning: Meaning) -> bool:
        """Add a line, if the split allows it."""
        if not self.draw.held_out and has_held_out(meaning):
            return False
        self.lines.append(meaning)
        return True

    def people(self, count: int) -> list[str]:
        return self.draw.some(NAMES, count)

    def go(self, name: str, place: str = "") -> bool:
        place = place or self._place(name)
        verb = self.draw.pick(("go", "go", "go", "come", "run"))
        if verb == "run" and place == "home":
            verb = "go"
        if self.at.get(name) == place or not self.tell(Event(verb, Person(name), place=place)):
            return False
        self.at[name] = place
        return True

    def _place(self, name: str) -> str:
        """Somewhere else that the split allows for this child."""
        return self.draw.pick(PLACE_KEYS)

    def new(self, nouns: tuple[str, ...], number: int = 1, described: float = 0.4) -> Thing | None:
        """A thing that was not told of yet."""
        noun = self.draw.pick(nouns)
        if noun in self.nouns:
            return None
        adjective = self.draw.pick(FITTING[noun]) if FITTING[noun] and self.draw.chance(described) else ""
        return Thing(noun, number, False, adjective)

    def get(self, name: str, verb: str = "", number: int = 1) -> str:
        """The child comes to have a thing; its noun, or empty when the split did not allow it."""
        verb = verb or self.draw.pick(GETTING)
        what = self.new(_PORTABLE[verb], number)
        if what is None or self._future_is_held_out(what.noun):
            return ""
        if not self.tell(Event(verb, Person(name), what)):
            return ""
        self.nouns.add(what.noun)
        self.things[what.noun] = what
        self.holder[what.noun] = name
        return what.noun

    def _future_is_held_out(self, noun: str) -> bool:
        return not self.draw.held_out and is_held_out("object", "have", noun)

    def give(self, giver: str, noun: str, taker: str) -> bool:
        if not self.tell(Event("give", Person(giver), Thing(noun, 1, True), Person(taker))):
            return False
        self.holder[noun] = taker
        return True

    def put(self, name: str, noun: str, place: str) -> bool:
        """Lays the thing down where the child is."""
        if not self.tell(Event("put", Person(name), Thing(noun, 1, True), place=place)):
            return False
        del self.holder[noun]
        self.lies[noun] = place
        return True

    def do(self, name: str) -> bool:
        """Something that changes nothing: sings, reads, sees an animal."""
        verb = VERBS[self.draw.pick(("sing", "play", "rest", "dance", "eat", "drink", "read", "draw", "see", "study"))]
        what = None
        if verb.objects:
            what = self.new(verb.objects)
            if what is None:
                return False
            self.nouns.add(what.noun)
        place = self.at.get(name, "") if verb.pattern == "act" else ""
        if place and place not in verb.places:
            return False
        return self.tell(Event(verb.key, Person(name), what, place=place))

    def feel(self, name: str, feeling: str = "") -> bool:
        return self.tell(State(Person(name), feeling or self.draw.pick(FELT)))

    def weather(self) -> bool:
        return self.tell(Weather(self.draw.pick(SKIES)))

    def be(self, who: Person | Thing, place: str) -> Event:
        return Event("be", who, place=place, tense="now")


PLACE_KEYS = tuple(PLACES)
SKIES = tuple(WEATHER)
