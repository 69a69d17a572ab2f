"""Pictures to a grid of token ids and back.

A small convolutional autoencoder squeezes a square picture into a grid of cells (8 x 8 at least); each cell is rounded
to one of a few thousand codes, and the decoder paints the picture from the codes alone. What it must leave out of so
few codes is the fine detail; what it keeps is learned from pictures (`malmoi.train.image_tokenizer`).

The rounding is finite scalar quantisation (Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", 2023,
section 3): a cell is a vector of four or five numbers, each squashed into a range and rounded to one of `levels`
values. A code is the tuple of them, so the codebook is the product of the levels (8 x 5 x 5 x 5 = 1000) and is never
learned: nothing in it can die. Gradients pass through the rounding as if it were not there.

A picture of any shape comes in: it is fitted into the square and padded with white (`picture.fit`). In a tokenizer's
folder all this is `image_tokenizer/config.json` and `image_tokenizer/model.safetensors`.

B pictures, S their side in pixels, G cells of the grid's side, C channels, L numbers of a cell's vector
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from malmoi import randomness
from malmoi.config import ImageTokenizerConfig, MalmoiError
from malmoi.tokens import folder as files
from malmoi.tokens.interleave import FOLDER
from malmoi.tokens.picture import Picture, fit, open_picture, to_picture

if TYPE_CHECKING:
    from PIL import Image

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_TOGETHER = 64  # pictures in one pass
_REMEMBERED = 50_000  # pictures whose codes are kept: documents often show one picture several times


class Quantizer(nn.Module):
    """Vectors (..., L) to the nearest code, and codes to their ids: mixed-radix numbers of their levels."""

    levels: torch.Tensor
    basis: torch.Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = np.cumprod([1, *levels[:-1]]).astype(np.int64)
        self.register_buffer("basis", torch.from_numpy(basis), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """The codes as numbers in [-1, 1]; the gradient is that of the squashing alone."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels % 2 == 0) * 0.5  # an even number of levels has none at zero
        bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

    def ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (..., L) to ids (...)."""
        digits = (codes * (self.levels // 2)).round().long() + self.levels // 2
        return (digits * self.basis).sum(-1)

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (...) to codes (..., L)."""
        digits = ids[..., None] // self.basis % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class Residual(nn.Module):
    """x + two convolutions of it; without normalisation, which such a shallow network does not need."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _network(config: ImageTokenizerConfig) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder (B, 3, S, S) -> (B, L, G, G) and decoder back, each in two steps of resolution."""
    patch = config.image_size // config.grid
    coarse = 2 if patch % 2 == 0 else 1
    fine, width, wide, size = patch // coarse, config.hidden_channels, 2 * config.hidden_channels, len(config.levels)

    def residuals(channels: int) -> list[nn.Module]:
        return [Residual(channels) for _ in range(config.num_blocks)]

    encoder = nn.Sequential(
        nn.PixelUnshuffle(fine),
        nn.Conv2d(3 * fine**2, width, 3, padding=1),
        *residuals(width),
        nn.PixelUnshuffle(coarse),
        nn.Conv2d(width * coarse**2, wide, 1),
        *residuals(wide),
        nn.Conv2d(wide, size, 1),
    )
    decoder = nn.Sequential(
        nn.Conv2d(size, wide, 3, padding=1),
        *residuals(wide),
        nn.Conv2d(wide, width * coarse**2, 1),
        nn.PixelShuffle(coarse),
        *residuals(width),
        nn.Conv2d(width, 3 * fine**2, 3, padding=1),
        nn.PixelShuffle(fine),
    )
    return encoder, decoder


def _shapes(config: ImageTokenizerConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all weights, without making any."""
    with torch.device("meta"):
        halves = zip(("encoder", "decoder"), _network(config), strict=True)
        return {
            f"{half}.{name}": tuple(tensor.shape) for half, net in halves for name, tensor in net.state_dict().items()
        }


class ImageTokenizer(nn.Module):
    """Pictures <-> grids of ids in `range(codebook_size)`. A new one has random weights: train it, or
    `ImageTokenizer.from_pretrained(folder)`."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _network(config)
        self.quantizer = Quantizer(config.levels)
        self._known: dict[str, np.ndarray] = {}  # digest of a picture's file -> its grid
        self.initialize(config.seed)

    @property
    def grid(self) -> int:
        """Cells on a side of the grid."""
        return self.config.grid

    @property
    def codebook_size(self) -> int:
        """How many different codes there are."""
        return int(np.prod(self.config.levels))

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew, from the seed and each parameter's name; residual branches begin at a tenth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.zero_()
                continue
            generator = torch.Generator().manual_seed(randomness.key(seed, f"image tokenizer {name}"))
            scale = (parameter[0].numel()) ** -0.5 * (0.1 if name.endswith("second.weight") else 1.0)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, S, S) in [-1, 1], as they look after encoding and decoding: what training compares."""
        codes = self.quantizer(self.encoder(x).movedim(1, -1))
        return self.decoder(codes.movedim(-1, 1))

    # ---- files

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageTokenizer:
        """Read one from a folder that holds `image_tokenizer/`, or from that folder itself.

        Raises `MalmoiError` for a missing or damaged file, naming it.
        """
        place = Path(folder).expanduser()
        place = place / FOLDER if (place / FOLDER).is_dir() else place
        if not (place / CONFIG).is_file() or not (place / WEIGHTS).is_file():
            raise MalmoiError(f"{place}: holds no image tokenizer ({CONFIG} and {WEIGHTS}).")
        try:
            config = ImageTokenizerConfig(**files.read_json(place / CONFIG))
        except MalmoiError as error:
            raise MalmoiError(f"{place / CONFIG}: is not an image tokenizer's: {error}") from None
        try:
            with safetensors.safe_open(place / WEIGHTS, "pt") as stored:
                shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
            if shapes != _shapes(config):  # before a network of a size that the file only claims is made
                raise RuntimeError("tensors of other names or shapes")
            made = cls(config)
            made.load_state_dict(safetensors.torch.load_file(place / WEIGHTS), strict=True)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise MalmoiError(f"{place / WEIGHTS}: does not fit {CONFIG} or is damaged ({reason:.120}).") from None
        if not all(bool(parameter.isfinite().all()) for parameter in made.parameters()):
            raise MalmoiError(f"{place / WEIGHTS}: holds numbers that are not finite.")
        return made.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `folder`/image_tokenizer/, its configuration last."""
        place = Path(folder) / FOLDER
        said = json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n"
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MalmoiError(f"{place}: cannot be made: {error.strerror or error}.") from None
        files.write_bytes(place / WEIGHTS, safetensors.torch.save(tensors))
        files.write_text(place / CONFIG, said)

    # ---- pictures <-> ids

    def encode(self, picture: Picture | Image.Image | str | Path | bytes) -> np.ndarray:
        """The grid of ids (G, G) of one picture: a Pillow image, a file, or a file's bytes."""
        if isinstance(picture, (str, Path, bytes)):
            picture = open_picture(picture)
        if isinstance(picture, Picture):
            return self.encode_pictures([picture])[0]
        return self.encode_pixels(fit(picture, self.config.image_size).pixels[None])[0]

    def encode_pictures(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        """The grids (G, G) of many pictures; one that was met before is not computed again."""
        digests = [picture.digest() for picture in pictures]
        new = {digest: picture for digest, picture in zip(digests, pictures, strict=True) if digest not in self._known}
        if len(self._known) + len(new) > _REMEMBERED:
            self._known = {digest: self._known[digest] for digest in digests if digest in self._known}
        waiting = list(new.items())
        for start in range(0, len(waiting), _TOGETHER):
            part = waiting[start : start + _TOGETHER]
            pixels = np.stack([fit(picture.open(), self.config.image_size).pixels for _, picture in part])
            self._known.update(zip((digest for digest, _ in part), self.encode_pixels(pixels), strict=True))
        return [self._known[digest] for digest in digests]

    def decode(self, ids: Any) -> Image.Image:
        """The picture of a grid of ids, (G, G) or row by row (G * G): RGB, S x S."""
        return to_picture(self.decode_pixels(np.asarray(ids).reshape(1, -1))[0])

    @torch.inference_mode()
    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (B, S, S, 3) uint8 to ids (B, G, G) int64."""
        S = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (S, S, 3) or pixels.dtype != np.uint8:
            raise MalmoiError(f"Pixels are uint8 of shape (pictures, {S}, {S}, 3), not {pixels.dtype} {pixels.shape}.")
        found = []
        for start in range(0, len(pixels), _TOGETHER):
            z = self.encoder(to_network(pixels[start : start + _TOGETHER]))
            found.append(self.quantizer.ids(self.quantizer(z.movedim(1, -1))).numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def decode_pixels(self, ids: np.ndarray) -> np.ndarray:
        """Ids (B, G, G) or (B, G * G) to pixels (B, S, S, 3) uint8. Raises `MalmoiError` for ids that are no codes."""
        ids = np.asarray(ids, dtype=np.int64)
        G = self.grid
        if ids.size != len(ids) * G * G:
            raise MalmoiError(f"A picture has {G} x {G} = {G * G} image tokens, but {ids.size // len(ids)} were given.")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.codebook_size:
            raise MalmoiError(f"Image tokens are 0 to {self.codebook_size - 1}, but {ids.min()} to {ids.max()} came.")
        codes = self.quantizer.codes(torch.from_numpy(ids.reshape(-1, G, G)))
        return np.concatenate([from_network(self.decoder(part.movedim(-1, 1))) for part in codes.split(_TOGETHER)])


def to_network(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (B, S, S, 3) uint8 as the network takes them: (B, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def from_network(x: torch.Tensor) -> np.ndarray:
    """The network's (B, 3, S, S) as pixels (B, S, S, 3) uint8."""
    return ((x.movedim(1, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
