"""The held-out split: combinations that training never sees, though it sees every word of them.

A model that has learned the *parts* (who, does, what, where) can put them together anew; one that has only learned
sentences by heart cannot. About a tenth of all pairs of each kind are kept aside by a keyed hash of the pair, so that
the split depends on nothing else: not on the seed, the task, the language or the version of Python.

Kinds of pairs: (verb, object), (agent, place), (adjective, noun), (feeling, agent), and operands of sums.
"""

from __future__ import annotations

import functools
import hashlib

from malmoi.data.village.meaning import Cause, Event, Meaning, Person, Sequence, State, Thing

SHARE = 10  # one pair in ten
Pair = tuple[str, str, str]


@functools.cache
def is_held_out(kind: str, first: str, second: str) -> bool:
    """Whether this pair never occurs in a training document."""
    words = f"malmoi village held out 22\x1f{kind}\x1f{first}\x1f{second}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") % SHARE == 0


def _names(who: Person | Thing) -> tuple[str, ...]:
    """What an agent counts as: its noun, its relation, its role, or the names of the children."""
    if isinstance(who, Thing):
        return (who.noun,)
    return (who.relation,) if who.relation else (who.name, who.other) if who.other else (who.name,)


def _described(what: object) -> list[Pair]:
    return [("quality", what.adjective, what.noun)] if isinstance(what, Thing) and what.adjective else []


def _of_event(event: Event) -> list[Pair]:
    found = _described(event.agent) + _described(event.object)
    if event.place:
        found += [("place", name, event.place) for name in _names(event.agent)]
    if event.object is not None:
        found += [("object", event.verb, name) for name in _names(event.object)]
    return found


def pairs(meaning: Meaning) -> list[Pair]:
    """The combinations in a meaning."""
    if isinstance(meaning, Event):
        return _of_event(meaning)
    if isinstance(meaning, Sequence):
        return _of_event(meaning.first) + _of_event(meaning.second)
    if isinstance(meaning, Cause):
        return pairs(meaning.state) + _of_event(meaning.event)
    if isinstance(meaning, State):
        if isinstance(meaning.subject, Person):
            return [("feeling", meaning.quality, name) for name in _names(meaning.subject)]
        return [("quality", meaning.quality, meaning.subject.noun), *_described(meaning.subject)]
    return []


def has_held_out(meaning: Meaning) -> bool:
    """Whether a combination of the meaning is kept out of training."""
    return any(is_held_out(*pair) for pair in pairs(meaning))
