"""The settings of an image tokenizer: what turns pictures into tokens (`malmoi.tokens.image`)."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from malmoi.config.frozen import Config, MalmoiError


class ImageTokenizerConfig(Config):
    """What turns pictures into tokens: how large pictures are, how many codes there are, how long it learns."""

    image_size: int = Field(default=48, ge=32, le=256)  # pixels on a side; other sizes are fitted and padded
    grid: int = Field(default=8, ge=8, le=64)  # cells on a side: a picture is grid * grid tokens
    levels: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field(default=(8, 5, 5, 5), min_length=1, max_length=8)
    hidden_channels: int = Field(default=48, ge=8, le=1024)
    num_blocks: int = Field(default=2, ge=0, le=16)
    max_steps: int = Field(default=3_000, ge=1)
    batch_size: int = Field(default=32, ge=1, le=65_536)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    held_out: float = Field(default=0.05, ge=0, le=0.5)  # share of pictures, chosen by their pixels' hash
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _cells_are_whole(self) -> ImageTokenizerConfig:
        if self.image_size % self.grid:
            raise MalmoiError(
                f"image_size={self.image_size} does not divide into grid={self.grid} cells. Choose a multiple, such as "
                f"{max(round(self.image_size / self.grid), 32 // self.grid + 1) * self.grid}."
            )
        codes = math.prod(self.levels)
        if codes > 65_536:
            raise MalmoiError(f"levels={list(self.levels)} make {codes:,} codes, each a token; at most 65,536 go.")
        return self
