"""Floating-point operations for a token, under every convention that published numbers use.

Training costs three forward passes: one forward, two backward. A product of N weights costs 2 N operations for a token,
so 6 N in training; N leaves out the input table, which is only read. Attention adds 2 x 2 x heads x head size for each
position that a token looks at. Whether that is the whole row ("full", Megatron's MFU) or the half that a causal model
needs ("causal", PaLM's and newer papers') is a convention; so is counting work that is done twice (HFU).
"""

from __future__ import annotations

from dataclasses import dataclass

from malmoi.plan.layout import Recompute
from malmoi.plan.work import Work

TRAINING = 3.0  # forward passes' worth


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of training for one token."""

    model_full: float
    model_causal: float
    hardware: float  # with what is recomputed; attention full, as the publications of HFU have it


def attention(work: Work, sequence: int, causal: bool) -> float:
    """Forward, one token, all layers."""
    return sum(layer.attention_flops(sequence, causal) * number for layer, number in work.layers)


def forward(work: Work, sequence: int, causal: bool = True) -> float:
    """Forward, one token."""
    return 2.0 * work.counted.active_without_input_embedding + attention(work, sequence, causal)


def recomputed(work: Work, sequence: int, how: Recompute, causal: bool = False) -> float:
    """What is computed a second time: all layers ("full"), the scores ("selective")."""
    if how == "none":
        return 0.0
    if how == "selective":
        return attention(work, sequence, causal)
    return forward(work, sequence, causal) - 2.0 * work.table  # the output table stands outside the layers


def training_flops(work: Work, sequence: int, recompute: Recompute = "none") -> Flops:
    full, causal = (TRAINING * forward(work, sequence, flag) for flag in (False, True))
    return Flops(full, causal, full + recomputed(work, sequence, recompute))
