"""A vision tower's settings: patches, features, layers that exist."""

import pytest

from malmoi.config import MalmoiError
from malmoi.config.vision import VisionConfig


def test_features_are_patches_and_perhaps_the_class_token():
    assert VisionConfig(image_size=48, patch_size=6).features == 64
    clip = {"image_size": 25, "patch_size": 8, "class_token": True}  # a rest of a patch is not seen
    assert VisionConfig(**clip).features == 9
    assert VisionConfig(**clip, keep_class_token=True).features == 10


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patch_size": 60}, "smaller than patch_size=60"),
        ({"num_attention_heads": 3}, "does not divide into num_attention_heads=3"),
        ({"feature_layers": (3,)}, "names layer 3; there are 2"),
        ({"image_std": (0.5, 0.0, 0.5)}, "must be above 0"),
        ({"hidden_act": "swish"}, "hidden_act"),
    ],
)
def test_what_does_not_fit_is_said(wrong, words):
    with pytest.raises(MalmoiError, match=words):
        VisionConfig(**wrong)
