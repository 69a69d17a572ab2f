"""Questions about a story: an answer needs one, two or three of its facts to be joined.

    one     Who bought a hat?                     (somebody did, and the story says so)
    two     Where is the hat?                     Mina bought it + Mina went to the park
    three   Where is the hat?                     Jun gave it to Mina's brother + that is Leo + Leo went to the park
            How many hats does Mina have?         bought five + got two + sold one

Answers are whole sentences. A question is only asked where the story gives it one answer.
"""

from __future__ import annotations

from typing import TypeGuard

from malmoi.data.village.episodes import Episode
from malmoi.data.village.held_out import has_held_out
from malmoi.data.village.lexicon import KINDS
from malmoi.data.village.meaning import Cause, Event, Fact, Meaning, Person, Sequence, State, Thing, Weather
from malmoi.data.village.people import SIBLINGS
from malmoi.data.village.scenes import Draw
from malmoi.data.village.translation import GRAMMARS

Asked = tuple[Meaning, str]  # the answer, and which part of it is asked for
_COUNTABLE = tuple(noun for noun in KINDS["thing"])


def ask(language: str, asked: Asked) -> tuple[str, str]:
    """The question and its answer in words."""
    grammar = GRAMMARS[language]
    meaning, part = asked
    return grammar.question(meaning, part), grammar.sentence(meaning, focus=part == "agent")


def _retold(event: Event) -> Event:
    """An event as an answer tells it: without the time."""
    return Event(event.verb, event.agent, event.object, event.recipient, event.place, "", event.tense, event.negative)


def one_fact(lines: list[Meaning]) -> list[Asked]:
    """Every question that exactly one line of the story answers."""
    found: dict[tuple[object, ...], list[Asked]] = {}
    for line in _simple(lines):
        for asked, same in _parts(line):
            found.setdefault(same, []).append(asked)
    unique = [answers[0] for answers in found.values() if len(answers) == 1]
    return [(line, part) for line, part in unique if part != "place" or not _is_motion(line) or line.verb == "go"]


def _simple(lines: list[Meaning]) -> list[Meaning]:
    """The lines with sentences of two clauses taken apart."""
    found: list[Meaning] = []
    for line in lines:
        if isinstance(line, Sequence):
            found += [line.first, line.second]
        elif isinstance(line, Cause):
            found += [line.state, line.event]
        else:
            found.append(line)
    return found


def _is_motion(line: Meaning) -> TypeGuard[Event]:
    return isinstance(line, Event) and line.verb in ("go", "come", "run", "return", "leave")


def _parts(line: Meaning) -> list[tuple[Asked, tuple[object, ...]]]:
    """What may be asked about a line, each with what makes two questions the same."""
    if isinstance(line, Weather):
        return [((line, "sky"), ("sky",))]
    if isinstance(line, State):
        return [((line, "quality"), ("quality", line.subject))]
    if not isinstance(line, Event) or line.verb == "exist":
        return []
    event, verb = _retold(line), "move" if _is_motion(line) else line.verb
    what = event.object.noun if isinstance(event.object, Thing) else event.object
    parts: list[tuple[Asked, tuple[object, ...]]] = [((event, "agent"), ("agent", verb, what, event.place))]
    if what is not None:
        parts.append(((event, "object"), ("object", verb, event.agent)))
    if event.recipient is not None:
        parts.append(((event, "recipient"), ("recipient", verb, event.agent, what)))
    if event.place:
        parts.append(((event, "place"), ("place", verb, event.agent, what)))
    if isinstance(event.object, Thing) and event.object.number > 1:
        parts.append(((event, "number"), ("number", verb, event.agent, what)))
    return parts


def ordinary_story(draw: Draw) -> Episode:
    """Four to seven lines about two or three children."""
    episode = Episode(draw)
    names = episode.people(draw.between(2, 3))
    length = draw.between(4, 7)
    if draw.chance(0.3):
        episode.weather()
    while len(episode.lines) < length:
        name, roll = draw.pick(names), draw.random()
        if roll < 0.35:
            episode.go(name)
        elif roll < 0.6:
            episode.get(name, number=draw.between(1, 6) if draw.chance(0.4) else 1)
        elif roll < 0.75:
            held = [noun for noun, holder in episode.holder.items() if episode.things[noun].number == 1]
            if held:
                noun = draw.pick(held)
                other = draw.pick([n for n in names if n != episode.holder[noun]])
                episode.give(episode.holder[noun], noun, other)
        elif roll < 0.9:
            episode.do(name)
        else:
            episode.feel(name)
    return episode


def _allowed(draw: Draw, asked: Asked) -> bool:
    return draw.held_out or not has_held_out(asked[0])


def story_one(draw: Draw) -> tuple[list[Meaning], list[Asked]] | None:
    episode = ordinary_story(draw)
    return episode.lines, one_fact(episode.lines)


def _whereabouts(episode: Episode) -> list[Asked]:
    """Where the held things are, by way of who has them."""
    found: list[Asked] = []
    for noun, holder in episode.holder.items():
        if holder in episode.at and episode.things[noun].number == 1:
            found.append((episode.be(Thing(noun, 1, True), episode.at[holder]), "place"))
    return found


def story_two(draw: Draw) -> tuple[list[Meaning], list[Asked]] | None:
    """Who has it and where they are; or who somebody's kin is and where that child is."""
    episode = Episode(draw)
    asked: list[Asked] = []
    if draw.chance(0.4):
        (child, relation), sibling = draw.pick(_KIN)
        names = [sibling, *(n for n in episode.people(3) if n not in (child, sibling))][:3]
        episode.lines.append(Fact("kin", Person(child, relation), sibling))
        for name in draw.some(names, len(names)):
            if not episode.go(name):
                return None
        asked.append((episode.be(Person(child, relation), episode.at[sibling]), "place"))
        noun = episode.get(sibling)
        if noun:
            asked.append((Event("have", Person(child, relation), episode.things[noun], tense="now"), "object"))
    else:
        names = episode.people(draw.between(2, 3))
        nouns = [noun for noun in (episode.get(name) for name in names) if noun]
        for name in draw.some(names, len(names)):
            episode.go(name)
        if nouns and draw.chance(0.5):
            noun = draw.pick(nouns)
            episode.give(episode.holder[noun], noun, draw.pick([n for n in names if n != episode.holder[noun]]))
        asked += _whereabouts(episode)
    return episode.lines, asked


def story_three(draw: Draw) -> tuple[list[Meaning], list[Asked]] | None:
    """A hand-over to somebody's kin who went somewhere; or a count that changes twice."""
    return _handed_over(draw) if draw.chance(0.5) else _counted(draw)


def _handed_over(draw: Draw) -> tuple[list[Meaning], list[Asked]] | None:
    episode = Episode(draw)
    (child, relation), sibling = draw.pick(_KIN)
    others = [name for name in episode.people(4) if name not in (child, sibling)][:2]
    episode.lines.append(Fact("kin", Person(child, relation), sibling))
    noun = episode.get(others[0])
    if not noun or not all(episode.go(name) for name in draw.some([sibling, others[1]], 2)):
        return None
    if not episode.tell(Event("give", Person(others[0]), Thing(noun, 1, True), Person(child, relation))):
        return None
    return episode.lines, [(episode.be(Thing(noun, 1, True), episode.at[sibling]), "place")]


def _counted(draw: Draw) -> tuple[list[Meaning], list[Asked]] | None:
    episode = Episode(draw)
    name, other = episode.people(2)
    noun = draw.pick(_COUNTABLE)
    first, more, less = draw.between(1, 6), draw.between(1, 4), 0
    less = draw.between(1, min(first + more - 1, 5))
    steps = [
        Event("buy", Person(name), Thing(noun, first)),
        Event("give", Person(other), Thing(noun, more), Person(name)),
        Event("sell", Person(name), Thing(noun, less)),
    ]
    if draw.chance(0.5):
        episode.weather()
    episode.nouns.add(noun)
    for step in steps:
        if draw.chance(0.4):
            episode.go(draw.pick((name, other)))
        elif draw.chance(0.3):
            episode.do(other)
        if not episode.tell(step):
            return None
    return episode.lines, [(Event("have", Person(name), Thing(noun, first + more - less), tense="now"), "number")]


_KIN = tuple(SIBLINGS.items())
STORIES = {"question1": story_one, "question2": story_two, "question3": story_three}


def scene(draw: Draw, task: str) -> tuple[list[Meaning], list[Asked]]:
    """A story and what may be asked about it, in random order; in the held-out split all of it about held-out pairs."""
    while True:
        made = STORIES[task](draw)
        if made is None:
            continue
        lines, asked = made
        if draw.held_out:
            asked = [a for a in asked if has_held_out(a[0])] or ([] if task == "question1" else asked)
            if not any(has_held_out(line) for line in lines) and not any(has_held_out(a[0]) for a in asked):
                continue
        else:
            asked = [a for a in asked if _allowed(draw, a)]
        if asked:
            return lines, draw.some(asked, len(asked))


def told(language: str, lines: list[Meaning]) -> str:
    sentence = GRAMMARS[language].sentence
    return " ".join(sentence(line) for line in lines)


def document(draw: Draw, task: str, language: str) -> str:
    """A story, then questions with their answers, line by line."""
    lines, asked = scene(draw, task)
    words = [told(language, lines)]
    for item in asked[: 4 if task == "question1" else 3]:
        words += ask(language, item)
    return "\n".join(words)


def example(draw: Draw, task: str, language: str) -> tuple[str, str]:
    lines, asked = scene(draw, task)
    question, answer = ask(language, asked[0])
    return f"{told(language, lines)}\n{question}\n", answer
