"""PICTURES -> IMAGE TOKENIZER: how `malmoi.tokens.image` learns, and how well it paints.

    for step in learn(tokenizer, pixels, folder="runs/pictures"):
        print(step.step, step.loss)
    print(report(tokenizer, held_out))

The network paints each picture from its codes and is told by how much every pixel is wrong: the mean absolute and
squared difference. No adversary and no perceptual network judge it: those make photographs look sharper and small
drawings false. Each update sees pictures flipped, moved by a few pixels and with their colours exchanged, all drawn
from (seed, step), so that a run that was interrupted goes on to the same bits.

B pictures, S their side in pixels, N all pictures
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from malmoi import randomness
from malmoi.config import ImageTokenizerConfig, MalmoiError
from malmoi.tokens import folder as files
from malmoi.tokens.image import ImageTokenizer, to_network
from malmoi.tokens.interleave import FOLDER

STATE = "training.safetensors"  # of an unfinished run, beside what it will become
SAVE_STEPS = 200
_WARMUP = 100  # updates
_SHIFT = 2  # pixels that a picture is moved by at most


@dataclass(frozen=True, slots=True)
class ImageStep:
    """One update: its number, of how many, its loss, and the seconds since this session began."""

    step: int
    max_steps: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """How pictures come back: PSNR in decibels and SSIM (1: the same), means over pictures; how many of the codes were
    used at all, and by how many equally frequent ones the use could be explained (its perplexity)."""

    pictures: int
    psnr: float
    ssim: float
    codes_used: int
    codebook_size: int
    perplexity: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def split(pixels: np.ndarray, config: ImageTokenizerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, S, S, 3) to learn from, and those kept aside: the same pixels always fall on the same side."""
    aside = np.array([_share(picture) < config.held_out for picture in pixels], dtype=bool)
    if aside.all() and len(pixels):
        aside[:] = False
    return pixels[~aside], pixels[aside]


def _share(picture: np.ndarray) -> float:
    return int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:8], "little") / 2**64


def learn(
    tokenizer: ImageTokenizer, pixels: np.ndarray, *, folder: Path | str | None = None, resume: bool = False
) -> Iterator[ImageStep]:
    """Train in place on pictures (N, S, S, 3) uint8, an update at a time, as `tokenizer.config` says.

    With a `folder` the state is saved there every `SAVE_STEPS` updates, and removed when the tokenizer itself is
    written at the end; `resume` goes on from it. Raises `MalmoiError` for no pictures, for a state of other settings or
    pictures, and where the loss is no number any more.
    """
    config = tokenizer.config
    if not len(pixels):
        raise MalmoiError("There is no picture to learn from: the data hold none.")
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    place = Path(folder) / FOLDER / STATE if folder is not None else None
    mark = _mark(config, pixels)
    first = _load(tokenizer, optimizer, place, mark) if resume and place is not None and place.is_file() else 0
    return _steps(tokenizer, pixels, optimizer, place, mark, first)


def _steps(
    tokenizer: ImageTokenizer,
    pixels: np.ndarray,
    optimizer: torch.optim.AdamW,
    place: Path | None,
    mark: str,
    first: int,
) -> Iterator[ImageStep]:
    config, began = tokenizer.config, time.perf_counter()
    tokenizer.train()
    for step in range(first, config.max_steps):
        x = to_network(batch(pixels, config, step))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config.max_steps)
        painted = tokenizer(x)
        loss = F.l1_loss(painted, x) + F.mse_loss(painted, x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        if not math.isfinite(loss.item()):
            raise MalmoiError(f"The image tokenizer's loss is {loss.item()} at step {step + 1}. Lower learning_rate.")
        optimizer.step()
        done = step + 1
        if place is not None and (done % SAVE_STEPS == 0 and done < config.max_steps):
            _save(tokenizer, optimizer, place, mark, done)
        if done == config.max_steps:
            tokenizer.eval()
            if place is not None:
                tokenizer.save_pretrained(place.parent.parent)
                place.unlink(missing_ok=True)
        yield ImageStep(done, config.max_steps, loss.item(), time.perf_counter() - began)


def batch(pixels: np.ndarray, config: ImageTokenizerConfig, step: int) -> np.ndarray:
    """The pictures (B, S, S, 3) of one update, varied: a function of the pictures, the seed and the step."""
    draw = randomness.generator(config.seed, "image tokenizer batch", step)
    chosen = pixels[draw.integers(0, len(pixels), config.batch_size)]
    made = np.empty_like(chosen)
    for number, picture in enumerate(chosen):
        if draw.random() < 0.5:
            picture = picture[:, ::-1]
        down, right = draw.integers(0, 2 * _SHIFT + 1, 2)
        padded = np.pad(picture, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
        moved = padded[down : down + len(picture), right : right + len(picture)]
        made[number] = moved[..., draw.permutation(3)] if draw.random() < 0.3 else moved
    return made


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / min(_WARMUP, max(1, steps // 10)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


# ---- going on where a run stopped


def _mark(config: ImageTokenizerConfig, pixels: np.ndarray) -> str:
    """What a run must not change on the way."""
    return json.dumps(
        {"config": config.model_dump(mode="json"), "pictures": hashlib.sha256(pixels.tobytes()).hexdigest()}
    )


def _save(tokenizer: ImageTokenizer, optimizer: torch.optim.AdamW, place: Path, mark: str, step: int) -> None:
    tensors = {f"weight.{name}": tensor.detach().contiguous() for name, tensor in tokenizer.named_parameters()}
    for name, parameter in tokenizer.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(place, safetensors.torch.save(tensors, {"run": mark, "step": str(step)}))


def _load(tokenizer: ImageTokenizer, optimizer: torch.optim.AdamW, place: Path, mark: str) -> int:
    try:
        with safetensors.safe_open(place, "pt") as stored:
            said = stored.metadata() or {}
            if said.get("run") != mark:
                raise MalmoiError(
                    f"{place}: belongs to a run with other settings or pictures. Take those again, or delete the file."
                )
            step = int(said["step"])
            with torch.no_grad():
                for name, parameter in tokenizer.named_parameters():
                    parameter.copy_(stored.get_tensor(f"weight.{name}"))
                    moments = {moment: stored.get_tensor(f"{moment}.{name}") for moment in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, MalmoiError):
            raise
        raise MalmoiError(f"{place}: is damaged ({error}). Delete it and begin again.") from None
    return step


# ---- measuring


def report(tokenizer: ImageTokenizer, pixels: np.ndarray) -> Report:
    """Measure pictures (N, S, S, 3) uint8 against what comes back of them."""
    if not len(pixels):
        raise MalmoiError("There is no picture to measure on.")
    ids = tokenizer.encode_pixels(pixels)
    painted = tokenizer.decode_pixels(ids)
    counts = np.bincount(ids.ravel(), minlength=tokenizer.codebook_size)
    shares = counts[counts > 0] / counts.sum()
    return Report(
        pictures=len(pixels),
        psnr=float(np.mean([psnr(a, b) for a, b in zip(pixels, painted, strict=True)])),
        ssim=float(ssim(pixels, painted).mean()),
        codes_used=int((counts > 0).sum()),
        codebook_size=tokenizer.codebook_size,
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in decibels; at most 60, which is less than one wrong level in
    a hundred pixels, so that equal pictures do not make a mean infinite."""
    error = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    return min(60.0, 10 * math.log10(255**2 / error)) if error else 60.0


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of pictures (N, S, S, 3) uint8, one number a picture: Wang et al., "Image Quality
    Assessment", 2004, with its Gaussian window of 11 pixels and sigma 1.5, the mean over the three colours."""
    distance = torch.arange(11, dtype=torch.float64) - 5
    bell = torch.exp(-distance.square() / (2 * 1.5**2))
    window = (bell[:, None] * bell)[None, None] / bell.sum() ** 2

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, window)

    N, S = a.shape[:2]
    x, y = (torch.from_numpy(each).double().movedim(-1, 1).reshape(N * 3, 1, S, S) for each in (a, b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    found = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return found.mean((1, 2, 3)).reshape(N, 3).mean(1).numpy()
