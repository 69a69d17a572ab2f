"""An independent judge of drawings: a small convolutional network that has seen real pictures alone.

It knows nothing of the model, its image tokenizer or its samples: it learns classes from pictures of a data set,
moved, scaled, blurred and with a little noise, so that a drawing in soft strokes is no surprise to it. How well it does
on real pictures that it never saw is measured beside what it says of drawings; more nobody may ask of it.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Judge(nn.Module):
    """Pixels (B, 3, S, S) in [-1, 1] to scores (B, classes)."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in itertools.pairwise(sizes)
            )
        )
        self.head = nn.Linear(4 * width * 4, classes)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(self.layers(x), 2)
        return self.head(self.drop(x.flatten(1)))


def learn(pixels: np.ndarray, labels: np.ndarray, *, seconds: float, seed: int = 0, batch: int = 64) -> Judge:
    """A judge that learned from pictures (N, S, S, 3) uint8 with labels (N,) for so many seconds."""
    torch.manual_seed(seed)
    judge = Judge(int(labels.max()) + 1)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
    begin = time.perf_counter()
    order, place = torch.randperm(len(x)), 0
    judge.train()
    while (spent := time.perf_counter() - begin) < seconds:
        if place + batch > len(x):
            order, place = torch.randperm(len(x)), 0
        chosen = order[place : place + batch]
        place += batch
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - spent / seconds) + 1e-5
        loss = F.cross_entropy(judge(_varied(x[chosen].float() / 127.5 - 1)), y[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


def _varied(x: torch.Tensor) -> torch.Tensor:
    """Turned and scaled a little, moved, half of them blurred, all with noise; white comes in from outside."""
    B = len(x)
    angle = (torch.rand(B) - 0.5) * 0.4
    scale = 1 + (torch.rand(B, 2) - 0.5) * 0.25
    rows = [torch.cos(angle) * scale[:, 0], -torch.sin(angle), torch.sin(angle), torch.cos(angle) * scale[:, 1]]
    shift = (torch.rand(B, 2) - 0.5) * 0.2
    theta = torch.stack(
        [torch.stack([rows[0], rows[1], shift[:, 0]], 1), torch.stack([rows[2], rows[3], shift[:, 1]], 1)], 1
    )
    x = F.grid_sample(x - 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False) + 1
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    some = (torch.rand(B, 1, 1, 1) < 0.5).float() * torch.rand(B, 1, 1, 1)
    x = x * (1 - some) + soft * some
    return x + torch.randn_like(x) * 0.08 * torch.rand(B, 1, 1, 1)


@torch.inference_mode()
def scores(judge: Judge, pixels: np.ndarray) -> np.ndarray:
    """Scores (N, classes) of pictures (N, S, S, 3) uint8."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([judge(part) for part in x.split(128)]).numpy()
