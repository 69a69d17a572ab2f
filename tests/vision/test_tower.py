"""Pictures to features: shapes, scaling, seeds. (Equality with transformers: tests/formats/test_llava.py.)"""

import numpy as np
import pytest
import torch

from malmoi.config import MalmoiError
from malmoi.config.vision import VisionConfig
from malmoi.tokens.picture import Picture
from malmoi.vision.tower import Vision, normalised

SMALL = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.mark.parametrize("more", [{}, {"class_token": True}, {"class_token": True, "keep_class_token": True}])
@pytest.mark.parametrize("layers", [(-1,), (-2,), (0, 2)])
def test_a_picture_has_as_many_features_as_it_says(more, layers):
    config = VisionConfig(**SMALL, **more, feature_layers=layers)
    assert Vision(config, 12)(torch.randn(3, 3, 16, 16)).shape == (3 * config.features, 12)


def test_only_layers_that_are_needed_exist():
    assert len(Vision(VisionConfig(**SMALL, feature_layers=(-2,)), 12).vision_tower.encoder.layers) == 1


def test_features_of_one_picture_do_not_depend_on_the_others():
    vision, pixels = Vision(VisionConfig(**SMALL), 12), torch.randn(2, 3, 16, 16)
    together = vision(pixels)
    torch.testing.assert_close(together[4:], vision(pixels[1:]), atol=1e-6, rtol=1e-5)


def test_white_is_one_and_black_minus_one_by_default():
    made = normalised(np.stack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)]), VisionConfig())
    assert made[0].unique().tolist() == [-1.0]
    assert made[1].unique().tolist() == [1.0]


def test_pictures_of_any_shape_are_fitted():
    wide = Picture.of(np.zeros((4, 32, 3), np.uint8))
    pixels = Vision(VisionConfig(**SMALL), 12).pixels_of([wide])
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels[0, 0, 0, 0] == 1  # padded with white
    assert pixels[0, 0, 8, 8] == -1


def test_weights_are_a_function_of_the_seed():
    one, same, other = (Vision(VisionConfig(**SMALL), 12) for _ in range(3))
    other.initialize(5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.multi_modal_projector.linear_1.weight, other.multi_modal_projector.linear_1.weight)


def test_pixels_of_another_size_are_refused():
    with pytest.raises(MalmoiError, match=r"\(pictures, 3, 16, 16\), not \(1, 3, 20, 20\)"):
        Vision(VisionConfig(**SMALL), 12)(torch.zeros(1, 3, 20, 20))
