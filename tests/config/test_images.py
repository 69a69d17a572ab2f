"""An image tokenizer's settings: cells are whole pixels, codes fit a vocabulary."""

import pytest

from malmoi.config import ImageTokenizerConfig, MalmoiError


def test_cells_are_whole():
    assert ImageTokenizerConfig(image_size=32, grid=8).image_size == 32
    with pytest.raises(MalmoiError, match=r"image_size=50 does not divide into grid=8 cells.*48"):
        ImageTokenizerConfig(image_size=50, grid=8)


def test_the_codebook_is_bounded():
    with pytest.raises(MalmoiError, match="262,144 codes"):
        ImageTokenizerConfig(levels=(64, 64, 64))


@pytest.mark.parametrize("wrong", [{"image_size": 31}, {"image_size": 512}, {"grid": 4}, {"levels": (1, 5)}])
def test_bounds(wrong):
    with pytest.raises(MalmoiError):
        ImageTokenizerConfig(**wrong)
