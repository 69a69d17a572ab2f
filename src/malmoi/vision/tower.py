"""Pictures -> features: a transformer over patches (Dosovitskiy et al., 2021), as in CLIP and SigLIP, and a projector.

A picture is cut into patches; each becomes a vector, to which its place adds a learned one; layers of attention, in
which every patch sees every other, turn them into features; two linear layers bring these to the language model's width
(Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023). Parameter names are those of transformers'
`CLIPVisionModel`, `SiglipVisionModel` and `LlavaForConditionalGeneration`.

B pictures, S side in pixels, P patches (and the class token), W the tower's width, D the language model's, N = B * P
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from malmoi import randomness
from malmoi.config import MalmoiError
from malmoi.config.vision import VisionConfig
from malmoi.tokens.picture import fit

if TYPE_CHECKING:
    from malmoi.tokens.picture import Picture

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # OpenAI's CLIP
}


class Embeddings(nn.Module):
    """Pixels to patch vectors with their places (and the class token before them)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        W, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(W)) if config.class_token else None
        self.patch_size = patch
        # theirs is a convolution whose steps are as long as its kernel: the same numbers, one matrix for a patch
        self.patch_embedding = nn.Linear(3 * patch**2, W, bias=config.patch_bias)
        self.position_embedding = nn.Embedding(config.patches + config.class_token, W)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = F.unfold(pixel_values, self.patch_size, stride=self.patch_size).transpose(1, 2)  # (B, P, 3 * patch^2)
        x = self.patch_embedding(patches)  # (B, P, W)
        if self.class_embedding is not None:
            x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), dim=1)
        return x + self.position_embedding.weight.to(x.dtype)  # a table stays float32 where the rest is rounded


class SelfAttention(nn.Module):
    """Attention in which every patch sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, P, W / heads)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and added to what was there."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        W, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(W, eps), nn.LayerNorm(W, eps)
        self.self_attn = SelfAttention(W, config.num_attention_heads)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, up to the last one that features are taken after."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        depth = config.num_hidden_layers
        self.taken = [layer % (depth + 1) for layer in config.feature_layers]
        self.layers = nn.ModuleList(Layer(config) for _ in range(max(self.taken)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(seen[-1]))
        return torch.cat([seen[layer] for layer in self.taken], dim=-1)


class Tower(nn.Module):
    """Pixels (B, 3, S, S) to features (B, P, W), after the layers that the configuration names."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.pre_norm else None
        self.encoder = Encoder(config)
        self.without_class_token = config.class_token and not config.keep_class_token

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(pixel_values)
        x = self.encoder(x if self.pre_layrnorm is None else self.pre_layrnorm(x))
        return x[:, 1:] if self.without_class_token else x


class Projector(nn.Module):
    """The tower's features at the language model's width."""

    def __init__(self, config: VisionConfig, width: int) -> None:
        super().__init__()
        wide = config.hidden_size * len(config.feature_layers)
        self.linear_1 = nn.Linear(wide, width, bias=config.projector_bias)
        self.linear_2 = nn.Linear(width, width, bias=config.projector_bias)
        self.act = ACTIVATIONS[config.projector_act]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class Vision(nn.Module):
    """Tower and projector: pictures to what stands in a language model's context in their place.

    A new one is initialised from seed 0; `initialize(seed)` draws other weights.
    """

    def __init__(self, config: VisionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = Tower(config)
        self.multi_modal_projector = Projector(config, width)
        if self.multi_modal_projector.linear_1.weight.device.type != "meta":
            self.initialize(0)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew, from the seed and each parameter's name: a matrix by the width of what it reads."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            generator = torch.Generator().manual_seed(randomness.key(seed, f"vision {name}"))
            scale = 0.02 if "embedding." in name and "patch" not in name else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, S, S), as `pixels_of` makes them, to features (B * P, D), picture after picture."""
        size = self.config.image_size
        if pixel_values.dim() != 4 or pixel_values.shape[1:] != (3, size, size):
            raise MalmoiError(f"Pixels are (pictures, 3, {size}, {size}), not {tuple(pixel_values.shape)}.")
        weight = self.multi_modal_projector.linear_1.weight
        return self.multi_modal_projector(self.vision_tower(pixel_values.to(weight.device, weight.dtype))).flatten(0, 1)

    def pixels_of(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Pictures as the tower takes them: fitted into its square, padded with white, scaled (B, 3, S, S)."""
        size = self.config.image_size
        return normalised(np.stack([fit(picture.open(), size).pixels for picture in pictures]), self.config)


def normalised(pixels: np.ndarray, config: VisionConfig) -> torch.Tensor:
    """Pixels (B, S, S, 3) uint8 as numbers around 0: (B, 3, S, S)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.image_mean, config.image_std))
    return (torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255 - mean) / std
