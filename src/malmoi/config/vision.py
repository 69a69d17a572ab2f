"""The settings of a vision tower: what looks at a picture's patches (`malmoi.vision`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from malmoi.config.frozen import Config, MalmoiError

Triple = tuple[float, float, float]


class VisionConfig(Config):
    """What turns a picture into a row of features: a transformer over its patches, and a projector to the language
    model's width. The default is a small one to be trained; `class_token` and `pre_norm` make it CLIP's, neither makes
    it SigLIP's."""

    image_size: int = Field(default=48, ge=8, le=2048)  # pixels on a side; other sizes are fitted and padded
    patch_size: int = Field(default=6, ge=1, le=512)
    hidden_size: int = Field(default=128, ge=8, le=65_536)
    num_hidden_layers: int = Field(default=2, ge=0, le=1_000)
    num_attention_heads: int = Field(default=4, ge=1, le=1_000)
    intermediate_size: int = Field(default=512, ge=8, le=1_000_000)
    hidden_act: Literal["gelu", "gelu_pytorch_tanh", "quick_gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = Field(default=1e-6, gt=0, lt=1)
    class_token: bool = False  # a token of its own before the patches
    pre_norm: bool = False  # a norm before the first layer
    patch_bias: bool = True
    feature_layers: tuple[int, ...] = Field(default=(-1,), min_length=1)  # after which layers features are taken
    keep_class_token: bool = False  # the class token's feature, too
    projector_act: Literal["gelu", "gelu_pytorch_tanh", "quick_gelu"] = "gelu"
    projector_bias: bool = True
    image_mean: Triple = (0.5, 0.5, 0.5)  # of red, green and blue in 0 to 1
    image_std: Triple = (0.5, 0.5, 0.5)

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def features(self) -> int:
        """How many features a picture has: the places it takes in the language model's context."""
        return self.patches + (self.class_token and self.keep_class_token)

    @model_validator(mode="after")
    def _numbers_fit(self) -> VisionConfig:
        if self.image_size < self.patch_size:
            raise MalmoiError(f"image_size={self.image_size} is smaller than patch_size={self.patch_size}.")
        if self.hidden_size % self.num_attention_heads:
            raise MalmoiError(
                f"hidden_size={self.hidden_size} does not divide into num_attention_heads={self.num_attention_heads}."
            )
        depth = self.num_hidden_layers
        for layer in self.feature_layers:
            if not -depth - 1 <= layer <= depth:
                raise MalmoiError(f"feature_layers names layer {layer}; there are {depth} (0: before the first).")
        if min(self.image_std) <= 0:
            raise MalmoiError(f"image_std={list(self.image_std)} must be above 0.")
        return self
