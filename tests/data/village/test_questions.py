"""The answers are right: a second reader, who only sees the English words, comes to the same ones."""

import re

import pytest

from malmoi.data import village
from malmoi.data.village.lexicon import NUMBERS_EN

NUMBERS = {word: number for number, word in enumerate(NUMBERS_EN)} | {"a": 1, "an": 1}
MOVE = re.compile(r"^(\w+) (?:went|came|ran) (?:to the (.+)|(home))\.$")
GET = re.compile(r"^(\w+) (?:bought|found|made|got) (\w+) (.+)\.$")
GIVE = re.compile(r"^(\w+) gave (\w+) (.+) to (.+)\.$")
KIN = re.compile(r"^(\w+) is (\w+'s .+)\.$")


class Reader:
    """Reads a story sentence by sentence and keeps who is where and who has what."""

    def __init__(self, story):
        self.at, self.has, self.count, self.kin = {}, {}, {}, {}
        self.lines = re.split(r"(?<=\.) ", story)
        for line in self.lines:
            self.read(line)

    def read(self, line):
        if found := KIN.match(line):
            self.kin[found[2]] = found[1]
        elif found := MOVE.match(line):
            self.at[found[1]] = found[2] or found[3]
        elif found := GIVE.match(line):
            taker = self.kin.get(found[4], found[4])
            noun = found[3].split()[-1].rstrip("s")
            if found[2] == "the":
                self.has[noun] = taker
            else:
                self.count[taker] = self.count.get(taker, 0) + NUMBERS[found[2]]
        elif found := re.match(r"^(\w+) sold (\w+) ", line):
            self.count[found[1]] -= NUMBERS[found[2]]
        elif found := GET.match(line):
            self.has[found[3].split()[-1].rstrip("s")] = found[1]
            self.count[found[1]] = NUMBERS.get(found[2], 1)


def facts_of(text):
    story, *rest = text.split("\n")
    return Reader(story), zip(rest[::2], rest[1::2], strict=True)


@pytest.mark.parametrize("task", ["question2", "question3"])
def test_a_second_reader_agrees(task):
    checked = 0
    for document in village.documents(6, "train", 0, 3000, weights={task: 1}):
        if not document.id.endswith("/en"):
            continue
        reader, asked = facts_of(document.text)
        for question, answer in asked:
            checked += 1
            if found := re.match(r"^Where is the (\w+)\?$", question):
                place = reader.at[reader.has[found[1]]]
            elif found := re.match(r"^Where is (\w+'s .+)\?$", question):
                place = reader.at[reader.kin[found[1]]]
            elif found := re.match(r"^How many .+ does (\w+) have\?$", question):
                assert NUMBERS[re.match(r"^\w+ has (\w+) ", answer)[1]] == reader.count[found[1]], document.text
                continue
            else:
                found = re.match(r"^What does (\w+'s .+) have\?$", question)
                noun = answer.rstrip(".").split()[-1]
                assert reader.has[noun.rstrip("s")] == reader.kin[found[1]], document.text
                continue
            assert re.search(rf" (at|in|on) the {place}\.$| at {place}\.$", answer), document.text
    assert checked > 500


def test_one_fact_answers_stand_in_the_story():
    checked = 0
    for document in village.documents(6, "train", 0, 1500, weights={"question1": 1}):
        if not document.id.endswith("/en"):
            continue
        story, *rest = document.text.split("\n")
        told = re.split(r"(?<=\.) ", story)
        for question, answer in zip(rest[::2], rest[1::2], strict=True):
            checked += 1
            assert told.count(answer) == 1
            if question.startswith("Who"):  # nobody else did it
                done = answer.split(" ", 1)[1]
                assert sum(line.endswith(" " + done) for line in told) == 1
    assert checked > 500


def test_three_facts_are_needed():
    """Without any one of its three facts the reader cannot answer where the thing is."""
    document = next(
        d
        for d in village.documents(6, "train", 0, 400, weights={"question3": 1})
        if "/en" in d.id and "Where" in d.text
    )
    reader, asked = facts_of(document.text)
    question, _ = next(iter(asked))
    noun = re.match(r"^Where is the (\w+)\?$", question)[1]
    giving = next(line for line in reader.lines if " gave the " in line)
    kin = next(line for line in reader.lines if KIN.match(line))
    taker = reader.has[noun]
    assert taker not in giving and taker in kin and reader.at[taker] not in giving + kin
