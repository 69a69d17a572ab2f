"""What a sentence means, apart from any language: the records that the three grammars render.

One meaning has exactly one sentence in each language, and no two meanings share a sentence, so a translation is a
function and can be scored by exact match. Where a language would lose something (Korean has no articles) the Village's
way of speaking keeps it: `사과 한 개` is `an apple`, `그 사과` is `the apple`.

The records are frozen and hashable; grammars remember the phrases that they made from them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """A villager by `name`; with `relation` somebody of that child's kin; with `other` two children together.

    `name` may be a role (`teacher`). `own` marks kin of the sentence's own agent: `her mother`, `어머니`, `sa mère`.
    """

    name: str
    relation: str = ""
    other: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """Things or animals: how many, which (definite, or `owner`'s), of what quality.

    `owner` is a child's name, or "self" for the agent's own: `her ball`, `자기 공`, `son ballon`.
    """

    noun: str
    number: int = 1
    definite: bool = False
    adjective: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Somebody does something. `verb` is a frame of `verbs.VERBS`, or `be` (at a place), `have`, `exist` (there is).

    `tense`: past, now (going on), habit (with a time that says how often), future.
    """

    verb: str
    agent: Person | Thing
    object: Thing | Person | None = None
    recipient: Person | None = None
    place: str = ""
    time: str = ""
    tense: str = "past"
    negative: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Somebody feels (`Person`, a feeling) or something is (`Thing`, an adjective). Tense: past or now."""

    subject: Person | Thing
    quality: str
    tense: str = "past"
    time: str = ""


@dataclass(frozen=True, slots=True)
class Weather:
    """The weather. Tense: past, now or future."""

    sky: str
    tense: str = "past"
    time: str = ""


@dataclass(frozen=True, slots=True)
class Sequence:
    """The same agent does one thing and then another: `went to the market and bought an apple`."""

    first: Event
    second: Event


@dataclass(frozen=True, slots=True)
class Cause:
    """A feeling and what the person did for it: `Mina was hungry, so she ate an apple.`"""

    state: State
    event: Event


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that always holds: `age`, `home`, `food`, `colour`, `work`, or `kin` (value: the sibling's name)."""

    kind: str
    person: Person
    value: str


Meaning = Event | State | Weather | Sequence | Cause | Fact
