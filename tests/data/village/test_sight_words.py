"""Captions, questions and answers about pictures: the grammar of three languages, one sentence for one scene."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.data.captions import LANGUAGES
from malmoi.data.village import sight_words
from malmoi.data.village.scenes import Draw
from malmoi.data.village.sights import Sight, draw_scene

SCENE = (Sight("star", "red", "big", "top left"), Sight("fish", "green", "small", "middle"))


def test_captions():
    assert sight_words.caption("en", SCENE) == "A big red star at the top left and a small green fish in the middle."
    assert sight_words.caption("ko", SCENE) == "왼쪽 위에 큰 빨간 별, 가운데에 작은 초록색 물고기가 있어요."
    expected = "Une grande étoile rouge en haut à gauche et un petit poisson vert au milieu."
    assert sight_words.caption("fr", SCENE) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (sight_words.how_many("en", "circle", "blue"), "How many blue circles are there?"),
        (sight_words.how_many("ko", "circle", "blue"), "파란 동그라미가 몇 개 있어요?"),
        (sight_words.how_many("ko", "house", "red"), "빨간 집이 몇 채 있어요?"),
        (sight_words.how_many("fr", "circle", "blue"), "Combien de cercles bleus y a-t-il ?"),
        (sight_words.how_many("fr", "star"), "Combien d'étoiles y a-t-il ?"),
        (sight_words.how_many("fr", "ring", "grey"), "Combien d'anneaux gris y a-t-il ?"),
        (sight_words.number("ko", "tree", 3), "세 그루"),
        (sight_words.number("fr", "star", 1), "une"),
        (sight_words.number("fr", "fish", 1), "un"),
        (sight_words.number("fr", "star", 0), "aucune"),
        (sight_words.number("en", "fish", 0), "none"),
        (sight_words.which_colour("ko", "star"), "별은 무슨 색이에요?"),
        (sight_words.which_colour("fr", "tree"), "De quelle couleur est l'arbre ?"),
        (sight_words.colour_name("fr", Sight("star", "blue", "big", "top")), "bleue"),
        (sight_words.where("ko", Sight("fish", "grey", "big", "top")), "회색 물고기는 어디에 있어요?"),
        (sight_words.where("fr", Sight("star", "red", "big", "top")), "Où est l'étoile rouge ?"),
        (sight_words.what_is("fr", "middle"), "Qu'y a-t-il au milieu ?"),
        (sight_words.what_is("en", "right"), "What is on the right?"),
        (sight_words.a_thing("fr", Sight("cross", "black", "small", "top")), "une petite croix noire"),
        (sight_words.a_thing("en", Sight("cross", "black", "small", "top")), "a small black cross"),
    ],
)
def test_grammar(made, expected):
    assert made == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**62))
def test_two_scenes_never_share_a_caption(seed):
    one, two = draw_scene(Draw(seed)), draw_scene(Draw(seed + 1))
    for language in LANGUAGES:
        assert (sight_words.caption(language, one) == sight_words.caption(language, two)) == (one == two)
