"""A language model that sees: features of pictures stand where placeholders stand, and everything learns together.

The language model knows only that some positions bring their own embeddings (`image_features`); where those come from
is this file's business. A document with pictures is its texts' ids with `features` placeholders for each picture. Text
alone goes the same way as in the language model by itself, to the same bits.

`SeeingModel` has what the training loop and the loss ask of a model, so that loop trains it as it is:

    batches = SeeingBatches(documents, tokenizer, ...)      # malmoi.vision.batches
    seeing.album = batches.album
    for step in train(seeing, batches, TrainConfig(...)): ...

B rows, T tokens, D width, N features
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from malmoi.config import MalmoiError
from malmoi.config.vision import VisionConfig
from malmoi.model.cache import Cache
from malmoi.model.gpt import CausalLMOutput, GPT4LMHeadModel
from malmoi.tokens.picture import Picture
from malmoi.vision.batches import Album
from malmoi.vision.tower import Vision, normalised


class SeeingModel(nn.Module):
    """A language model and the vision that it reads through. `language.config.image_token_id` marks the places."""

    def __init__(self, language: GPT4LMHeadModel, vision: Vision) -> None:
        super().__init__()
        if language.config.image_token_id is None:
            raise MalmoiError(
                "A model that sees needs image_token_id in its ModelConfig, to mark where features stand."
            )
        self.language_model, self.vision = language, vision
        self.album: Album | None = None  # the pictures that ids above the vocabulary name; no part of the weights

    @staticmethod
    def new(language: GPT4LMHeadModel, config: VisionConfig, seed: int = 0) -> SeeingModel:
        """The language model with a vision of fresh weights."""
        vision = Vision(config, language.config.hidden_size)
        vision.initialize(seed)
        return SeeingModel(language, vision)

    @property
    def config(self) -> Any:
        """The language model's configuration; the tower's is `vision.config`."""
        return self.language_model.config

    @property
    def lm_head(self) -> nn.Linear:
        return self.language_model.lm_head

    def auxiliary_loss(self) -> torch.Tensor | None:
        """See `GPT4LMHeadModel.auxiliary_loss`."""
        return self.language_model.auxiliary_loss()

    def hidden_states(
        self, input_ids: torch.Tensor, *, pixel_values: torch.Tensor | None = None, **more: Any
    ) -> torch.Tensor:
        """Ids (B, T), and the pictures of their placeholders (B', 3, S, S) in order, to (B, T, D)."""
        if pixel_values is None and self.album is not None:
            input_ids, features = self._looked_up(input_ids, self.album)
        else:
            features = self._features(pixel_values)
        return self.language_model.hidden_states(input_ids, image_features=features, **more)

    def forward(
        self, input_ids: torch.Tensor, *, pixel_values: torch.Tensor | None = None, **more: Any
    ) -> CausalLMOutput:
        """Ids (B, T), and the pictures of their placeholders, to logits; `more` as in `GPT4LMHeadModel`."""
        return self.language_model(input_ids, image_features=self._features(pixel_values), **more)

    def _features(self, pixel_values: torch.Tensor | None) -> torch.Tensor | None:
        return None if pixel_values is None or not len(pixel_values) else self.vision(pixel_values)

    def _looked_up(self, input_ids: torch.Tensor, album: Album) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ids with placeholders in the stead of an album's places, and the features (N, D) that belong there."""
        places = input_ids >= album.first
        if not bool(places.any()):
            return input_ids, None
        named = input_ids[places] - album.first  # (N,)
        pictures, which = torch.unique(named // album.features, return_inverse=True)
        pixels = normalised(album.pixels[pictures.cpu().numpy()], self.vision.config)
        features = self.vision(pixels)[which * album.features + named % album.features]
        return input_ids.masked_fill(places, int(self.config.image_token_id)), features

    def encode(self, tokenizer: Any, parts: Sequence[str | Picture]) -> tuple[list[list[int]], torch.Tensor]:
        """The ids of each part, pictures as placeholders, and the pictures' pixels in order."""
        pictures = [part for part in parts if isinstance(part, Picture)]
        texts = iter(tokenizer.encode_batch([p for p in parts if isinstance(p, str)], add_special_tokens=False))
        places = [int(self.config.image_token_id)] * self.vision.config.features
        ids = [next(texts) if isinstance(part, str) else list(places) for part in parts]
        size = self.vision.config.image_size
        return ids, self.vision.pixels_of(pictures) if pictures else torch.zeros(0, 3, size, size)

    @torch.inference_mode()
    def describe(
        self, tokenizer: Any, parts: Sequence[str | Picture], max_new_tokens: int = 64, stop: str | None = "\n"
    ) -> str:
        """What the model says after texts and pictures, greedily: up to the end of its text, or to `stop`."""
        ids, pixels = self.encode(tokenizer, parts)
        read = torch.tensor([[index for part in ids for index in part]], device=self.language_model.device)
        cache, said = Cache(), []
        room = self.config.max_position_embeddings - read.shape[1]
        logits = self(read, pixel_values=pixels, cache=cache, logits_to_keep=1).logits
        for _ in range(min(max_new_tokens, room)):
            logits[..., int(self.config.image_token_id)] = -torch.inf  # a placeholder is nothing to say
            token = int(logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            said.append(token)
            text = tokenizer.decode(said, skip_special_tokens=True)
            if stop is not None and stop in text:
                return text.partition(stop)[0]
            logits = self(torch.tensor([[token]], device=read.device), cache=cache).logits
        return tokenizer.decode(said, skip_special_tokens=True)
