"""What is to be seen: scenes of two to five shapes and things, each with a colour, a size and a place. Data, no words.

A picture is divided into nine places, three by three; a thing lies in one of them. Things often share a colour or a
shape with another one, so that counting "blue circles" takes both. About a tenth of the pairs of colour and shape are
held out (`held_out.is_held_out`): training never sees a blue ring, say, though it sees blue things and rings.
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.data.village.held_out import is_held_out
from malmoi.data.village.scenes import Draw

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "ring", "house", "tree", "fish", "flower")
COLOURS = ("red", "blue", "yellow", "green", "black", "grey", "pink")
SIZES = ("small", "big")
PLACES = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
FEWEST, MOST = 2, 5


@dataclass(frozen=True, slots=True)
class Sight:
    """One thing in a picture."""

    shape: str
    colour: str
    size: str
    place: str

    @property
    def held_out(self) -> bool:
        """Whether training never shows this colour of this shape."""
        return is_held_out("sight", self.colour, self.shape)


Scene = tuple[Sight, ...]  # in the order of PLACES, no two in one place


HELD_OUT = tuple((shape, colour) for shape in SHAPES for colour in COLOURS if is_held_out("sight", colour, shape))


def draw_scene(draw: Draw) -> Scene:
    """A scene that belongs to the split of `draw`: without a held-out pair, or with one or two things of one."""
    places = sorted(draw.some(range(len(PLACES)), draw.between(FEWEST, MOST)))
    pair, new = draw.pick(HELD_OUT), draw.some(places, draw.between(1, 2)) if draw.held_out else []
    scene: list[Sight] = []
    for place in places:
        shape, colour = pair if place in new else _known_pair(draw, scene)
        scene.append(Sight(shape, colour, draw.pick(SIZES), PLACES[place]))
    return tuple(scene)


def _known_pair(draw: Draw, scene: list[Sight]) -> tuple[str, str]:
    """A shape and a colour that training may show together, often one of them of a thing that is there already."""
    while True:
        shape, colour = draw.pick(SHAPES), draw.pick(COLOURS)
        if scene and draw.chance(0.4):
            shape = draw.pick(scene).shape
        if scene and draw.chance(0.4):
            colour = draw.pick(scene).colour
        if (shape, colour) not in HELD_OUT:
            return shape, colour
