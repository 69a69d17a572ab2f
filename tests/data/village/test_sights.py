"""The Village's eyes: sights, painter, reader, sight_words, pictures: functions of seed and index, exact, held out."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.data.village import pictures, sight_words
from malmoi.data.village.painter import CELL, SHAPES, SHIFT, coverage, paint
from malmoi.data.village.reader import read
from malmoi.data.village.scenes import Draw
from malmoi.data.village.sights import COLOURS, FEWEST, HELD_OUT, MOST, PLACES, SIZES, Sight, draw_scene

SEEDS = st.integers(0, 2**62)
untimed = settings(deadline=None, max_examples=40)  # a busy machine is no error


def painted(seed, held_out=False):
    draw = Draw(seed, held_out)
    scene = draw_scene(draw)
    return scene, paint(scene, tuple((draw.between(-SHIFT, SHIFT), draw.between(-SHIFT, SHIFT)) for _ in scene))


def softened(pixels):
    soft = pixels.astype(float)
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    return soft


# ---- painting and reading


@untimed
@given(SEEDS, st.booleans())
def test_what_was_painted_is_read(seed, held_out):
    scene, pixels = painted(seed, held_out)
    assert read(pixels).shows(scene)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_thing_is_read_in_every_colour_and_position(shape, size):
    for colour in COLOURS:
        for right in range(-SHIFT, SHIFT + 1):
            scene = (Sight(shape, colour, size, "middle"),)
            assert read(paint(scene, ((right, -right),))).shows(scene)


def test_blur_and_noise_of_a_reconstruction_do_not_matter():
    draw, right = np.random.default_rng(0), [0, 0, 0]
    for seed in range(150):
        scene, pixels = painted(seed)
        soft = softened(pixels)
        noisy = [soft, pixels + draw.normal(0, 25, pixels.shape), soft + draw.normal(0, 15, pixels.shape)]
        for number, made in enumerate(noisy):
            right[number] += read(np.clip(made, 0, 255).astype(np.uint8)).shows(scene)
    assert right[0] == right[1] == 150
    assert right[2] >= 148


@untimed
@given(SEEDS, st.sampled_from(range(5)))
def test_a_picture_with_one_thing_changed_is_not_right(seed, kind):
    scene, _ = painted(seed)
    first, *rest = scene
    other = {
        0: (Sight("ring" if first.shape != "ring" else "tree", first.colour, first.size, first.place), *rest),
        1: (Sight(first.shape, "pink" if first.colour != "pink" else "black", first.size, first.place), *rest),
        2: (Sight(first.shape, first.colour, "big" if first.size == "small" else "small", first.place), *rest),
        3: tuple(rest),
        4: tuple(sorted((*scene, extra), key=lambda sight: PLACES.index(sight.place)))
        if (
            extra := next(
                (Sight("moon", "grey", "small", p) for p in PLACES if p not in {s.place for s in scene}), None
            )
        )
        else tuple(rest),
    }[kind]
    assert not read(paint(other)).shows(scene)


def test_foreign_ink_makes_a_place_unreadable():
    scene, pixels = painted(3)
    free = next(place for place in PLACES if place not in {sight.place for sight in scene})
    row, column = divmod(PLACES.index(free), 3)
    cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    cell[2:14, 2:8], cell[2:14, 8:14] = (200, 30, 30), (30, 60, 200)  # half red, half blue
    seen = read(pixels)
    assert seen.unreadable == (free,)
    assert not seen.shows(scene)


def test_noise_alone_shows_no_scene():
    noise = np.random.default_rng(1).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    assert not any(read(noise).shows(painted(seed)[0]) for seed in range(50))
    with pytest.raises(MalmoiError, match=r"uint8 \(48, 48, 3\)"):
        read(noise[:40])


@pytest.mark.parametrize("shape", SHAPES)
def test_things_lie_inside_their_place_and_differ(shape):
    for size in SIZES:
        whole = coverage(shape, size).sum()
        for right in (-SHIFT, SHIFT):
            moved = coverage(shape, size, right, right)
            assert moved.sum() == pytest.approx(whole)  # nothing was cut off
            assert np.array_equal(np.roll(coverage(shape, size), (right, right), (0, 1)), moved)
    assert coverage(shape, "small").sum() < 0.6 * coverage(shape, "big").sum()


# ---- documents and examples


def test_documents_are_a_function_of_seed_and_number():
    some = list(pictures.documents("60", seed=4))
    assert some[:20] == list(pictures.documents("20", seed=4))
    assert some != list(pictures.documents("60", seed=5))
    assert {document.id.split("/")[-2] for document in some} >= {"describe", "draw", "question"}
    with pytest.raises(MalmoiError, match="scenes:many"):
        next(pictures.documents("many"))


@pytest.mark.slow
def test_training_never_shows_or_names_a_held_out_pair():
    phrases = {
        language: [sight_words.noun_phrase(language, s, c, plural=many) for s, c in HELD_OUT for many in (False, True)]
        for language in pictures.LANGUAGES
    }
    assert len(HELD_OUT) >= 5
    for document in pictures.documents("1500"):
        words = " ".join(part for part in document.parts if isinstance(part, str))
        language = document.id.split("/")[-1]
        for phrase in phrases.get(language, ()):
            assert not re.search(rf"\b{phrase}\b", words), (phrase, words)
        shown = next(part for part in document.parts if not isinstance(part, str))
        scene = read(np.asarray(shown.open())).scene
        assert not any(sight.held_out for sight in scene)
        assert FEWEST <= len(scene) <= MOST


@pytest.mark.parametrize("task", pictures.TASKS)
@pytest.mark.parametrize("language", pictures.LANGUAGES)
def test_held_out_examples_are_about_a_held_out_pair(task, language):
    for example in pictures.examples(task, language, 25):
        held = [sight for sight in example.scene if sight.held_out]
        assert held
        assert read(np.asarray(example.picture.open())).shows(example.scene)
        if task != "question":
            assert example.answer == sight_words.caption(language, example.scene)
            continue
        said = example.prompt + " " + example.answer
        assert any(
            sight_words.WORDS[sight.shape].ko in said
            or sight_words.PLACES[sight.place][language] in said
            or sight_words.noun_phrase(language, sight.shape) in said
            or sight_words.noun_phrase(language, sight.shape, sight.colour, plural=True) in said
            for sight in held
        )


def test_train_examples_are_not_and_unknown_names_are_told():
    assert not any(s.held_out for e in pictures.examples("draw", "en", 30, split="train") for s in e.scene)
    with pytest.raises(MalmoiError, match=r"no task 'drew'\. Did you mean 'draw'"):
        pictures.examples("drew", "en", 1)


def test_counts_are_counts():
    for example in pictures.examples("question", "en", 150, split="train"):
        asked = re.fullmatch(r"How many (?:(\w+) )?(\w+) are there\?", example.prompt)
        if asked:
            words = {sight_words.WORDS[s.shape].en_plural: s.shape for s in example.scene}
            count = sum(asked[1] in (None, s.colour) and s.shape == words.get(asked[2]) for s in example.scene)
            assert example.answer == ("none" if count == 0 else ["one", "two", "three", "four", "five"][count - 1])
