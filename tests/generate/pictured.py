"""A tokenizer with pictures and a small random model for both, for the tests of what is drawn."""

from speakers import CORPUS, build

from malmoi.config import ImageTokenizerConfig
from malmoi.tokens import vocabulary
from malmoi.tokens.image import ImageTokenizer
from malmoi.tokens.interleave import with_images

IMAGES = ImageTokenizer(ImageTokenizerConfig(image_size=32, levels=(4, 3), hidden_channels=8, num_blocks=0)).eval()
BOTH = with_images(vocabulary.learn(CORPUS, 300), IMAGES)


def build_both(**changes):
    return build(len(BOTH), **{"max_position_embeddings": 256, **changes})
