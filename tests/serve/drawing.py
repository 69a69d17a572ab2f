"""A made-up model that draws: it says "a red ", a picture, and " circle", whatever it is asked."""

import numpy as np

from malmoi.config import ImageTokenizerConfig
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine
from malmoi.serve.service import Service
from malmoi.tokens import vocabulary
from malmoi.tokens.chat import END, MESSAGE
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import with_images


def untrained():
    """An image tokenizer whose codes mean anything: 8 x 8 cells of twelve codes."""
    return ImageTokenizer(ImageTokenizerConfig(image_size=32, levels=(4, 3), hidden_channels=8, num_blocks=0)).eval()


TOKENIZER = with_images(vocabulary.learn(["a red circle, two blue circles"] * 9, 275), untrained())
IDS = TOKENIZER.images
CODES = [IDS.first + place % IDS.count for place in range(IDS.grid**2)]
BEFORE = TOKENIZER.encode("a red ")
PICTURE = [IDS.begin, IDS.size, *CODES, IDS.end]
SAID = [*BEFORE, *PICTURE, *TOKENIZER.encode(" circle")]


def speaks(past):
    start = max(place for place, token in enumerate(past) if token == TOKENIZER.special_tokens[MESSAGE])
    place = len(past) - 1 - start
    wanted = SAID[place] if place < len(SAID) else TOKENIZER.special_tokens[END]
    return 30.0 * (np.arange(len(TOKENIZER)) == wanted)


def drawing():
    """A service of this model."""
    backend = FunctionBackend(speaks, len(TOKENIZER), num_blocks=1024, block_size=8)
    return Service(Engine(backend, TOKENIZER), TOKENIZER, "drawer")
