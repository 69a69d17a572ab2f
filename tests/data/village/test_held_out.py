"""The split: a tenth of the pairs, never in training (checked on the words themselves), every word in training."""

import itertools
import re

import pytest

from malmoi.data import village
from malmoi.data.village.dialogue import KNOWN_FACTS
from malmoi.data.village.held_out import has_held_out, is_held_out, pairs
from malmoi.data.village.lexicon import ADJECTIVES, FITTING, NOUNS, NUMBERS_EN, PLACES
from malmoi.data.village.meaning import Event, Person, Thing
from malmoi.data.village.people import NAMES, VILLAGERS
from malmoi.data.village.scenes import FACTS
from malmoi.data.village.verbs import VERBS


def words_of(document):
    if document.messages is None:
        return document.text
    return "\n".join(message["content"] for message in document.messages)


@pytest.fixture(scope="module")
def training():
    return [words_of(document) for document in village.documents(11, "train", 0, 16_000)]


def test_about_a_tenth_of_the_pairs_is_held_out():
    found = [is_held_out("object", verb.key, noun) for verb in VERBS.values() for noun in verb.objects]
    found += [is_held_out("place", name, place) for name in NAMES for place in PLACES]
    found += [is_held_out("quality", quality, noun) for noun in NOUNS for quality in FITTING[noun]]
    assert len(found) > 1300
    assert 0.08 < sum(found) / len(found) < 0.12


def test_the_split_never_moves():
    """Frozen: a moved split would let old models be examined on what they were taught."""
    assert [noun for noun in VERBS["buy"].objects if is_held_out("object", "buy", noun)] == FROZEN_BUY
    assert [place for place in PLACES if is_held_out("place", "Mina", place)] == FROZEN_MINA


FROZEN_BUY = ["water", "doll", "hat"]
FROZEN_MINA = ["station"]


def test_no_verb_loses_all_its_objects_and_nobody_all_places():
    for verb in VERBS.values():
        kept = [noun for noun in verb.objects if not is_held_out("object", verb.key, noun)]
        assert len(kept) * 3 >= 2 * len(verb.objects), verb.key
    for noun, fitting in FITTING.items():
        kept = [quality for quality in fitting if not is_held_out("quality", quality, noun)]
        assert len(kept) * 2 >= len(fitting), noun


def test_the_pairs_of_a_meaning():
    event = Event("buy", Person("Mina"), Thing("hat", 1, False, "red"), place="market")
    assert set(pairs(event)) == {("quality", "red", "hat"), ("place", "Mina", "market"), ("object", "buy", "hat")}


def test_no_training_sentence_has_a_held_out_quality(training):
    beside = set()  # neighbouring words, Korean ones also without their particle
    for text in training:
        words = re.findall(r"[\w-]+", text)
        beside.update(itertools.pairwise(words))
    beside.update([(first, re.sub("(은|는|이|가|을|를)$", "", second)) for first, second in beside])
    seen = 0
    for noun in NOUNS.values():
        for quality in FITTING[noun.key]:
            told = {(quality, noun.en), (quality, noun.en_plural), (ADJECTIVES[quality].ko, noun.ko)}
            if is_held_out("quality", quality, noun.key):
                assert not told & beside, (quality, noun.key)
            else:
                seen += bool(told & beside)
    assert seen > 250  # the same search does find the others


def test_no_training_sentence_has_a_held_out_object(training):
    forms = {form: verb.key for verb in VERBS.values() if verb.objects for form in verb.en}
    nouns = {form: noun.key for noun in NOUNS.values() for form in (noun.en, noun.en_plural)}
    told = re.compile(
        rf"\b({'|'.join(forms)}) (?:(?:{'|'.join(NUMBERS_EN)}|\d+|a|an|the|his|her|their|[A-Z]\w+'s) )*"
        rf"(?:(?:{'|'.join(ADJECTIVES)}) )?({'|'.join(nouns)})\b"
    )
    found = {(forms[verb], nouns[noun]) for text in training for verb, noun in told.findall(text)}
    assert {(verb, noun) for verb, noun in found if is_held_out("object", verb, noun)} == set()
    assert len(found) > 400


def test_no_training_sentence_has_a_held_out_place(training):
    sentences = {s for text in training for s in re.split(r"(?<=[.?!])\s+", text)}
    for name in NAMES:
        held = [PLACES[place].bare for place in PLACES if place != "home" and is_held_out("place", name, place)]
        if not held:
            continue
        alone = re.compile(
            rf"(?:^|\d |o'clock |day |night |evening |morning |en |ow |er |on |ng |ht ){name} (?!and)(?!lives)"
        )
        for sentence in sentences:
            if alone.search(sentence):
                assert not any(sentence.endswith(f" {place}.") for place in held), sentence


def test_every_word_of_the_held_out_split_is_in_training(training):
    """The vocabulary (with its particles and endings) of an examination was all taught."""
    word = re.compile(r"[^\W\d]+")
    known = {token for text in training for token in word.findall(text)}
    asked = set()
    for task in village.TASKS:
        for label in village.labels(task):
            for example in village.examples(task, label, 60):
                asked.update(word.findall(example.prompt + example.answer))
    assert asked - known == set()


def test_held_out_documents_have_a_held_out_pair():
    examples = village.examples("translation", "en-ko", 50, split="held_out")
    trained = "\n".join(words_of(document) for document in village.documents(3, "train", 0, 5000))
    assert all(example.answer not in trained.split("\n") for example in examples)


def test_facts_hold_in_both_splits():
    assert len(KNOWN_FACTS) == len(FACTS)
    assert not any(
        has_held_out(Event("be", fact.person, place=fact.value)) for fact in KNOWN_FACTS if fact.kind == "work"
    )
    assert {fact.person.name for fact in KNOWN_FACTS} == set(VILLAGERS)
