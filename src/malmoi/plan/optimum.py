"""How much text a model of a size should read, and the loss to expect: the published laws, with how sure they are.

The default law is Besiroglu et al. (arXiv 2404.10102), which fitted Chinchilla's runs again; Hoffmann et al.'s own
numbers (arXiv 2203.15556), with all digits, stand beside it. Besiroglu's standard errors are wide for A and B only
because these are the prices of a model with one parameter and a text of one token, far outside the runs: each exponent
moves with its coefficient, so that the price in the middle of the runs stays. The samples here are drawn that way: the
spread of log A over the logarithm of a usual size is the spread of alpha. The interval says how well Chinchilla's runs
pin the law down; another text, tokenizer or architecture has another E, A and B.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np

from malmoi.config import MalmoiError
from malmoi.plan.scaling import BESIROGLU_2024, FLOPS, HOFFMANN_2022, Optimum, ScalingLaw

SMALLEST = 44e6  # parameters of the smallest of Chinchilla's runs; below it the law is only continued
MIDDLE = (1e9, 2e10)  # parameters and tokens in the middle of Chinchilla's runs
RELATIVE_ERROR = (124.58 / 482.01, 1293.23 / 2085.43)  # standard errors of A and B (arXiv 2404.10102, table 1)
ERROR_E = 0.03  # of E, from the same table
SAMPLES, SEED, LEVEL = 400, 0, 0.9
LAWS: dict[str, ScalingLaw] = {"besiroglu-2024": BESIROGLU_2024, "hoffmann-2022": HOFFMANN_2022}


@functools.cache
def law() -> ScalingLaw:
    """Besiroglu's law with samples of what else the same runs allow."""
    drawn = np.random.default_rng(SEED).normal(size=(SAMPLES, 3))
    samples = []
    for e, a, b in drawn:
        alpha = BESIROGLU_2024.alpha + a * RELATIVE_ERROR[0] / math.log(MIDDLE[0])
        beta = BESIROGLU_2024.beta + b * RELATIVE_ERROR[1] / math.log(MIDDLE[1])
        samples.append(
            ScalingLaw(
                BESIROGLU_2024.E + e * ERROR_E,
                BESIROGLU_2024.A * MIDDLE[0] ** (alpha - BESIROGLU_2024.alpha),
                BESIROGLU_2024.B * MIDDLE[1] ** (beta - BESIROGLU_2024.beta),
                alpha,
                beta,
            )
        )
    return replace(BESIROGLU_2024, samples=tuple(samples))


def optimal_tokens(parameters: float, under: ScalingLaw) -> float:
    """The text with which a model of this size is the best use of its own training's cost."""
    if not parameters > 0:
        raise MalmoiError("A model without parameters needs no text.")
    both = under.alpha + under.beta
    balance = (under.alpha * under.A / (under.beta * under.B)) ** (1 / both)
    return (parameters / balance) ** (both / under.beta) / parameters


def advice(parameters: float) -> dict[str, object]:
    """Compute-optimal tokens under both laws, with the 90 % interval of the default one."""
    default = law()
    low, high = default.interval(lambda each: optimal_tokens(parameters, each), LEVEL)
    return {
        "tokens": optimal_tokens(parameters, default),
        "low": low,
        "high": high,
        "hoffmann_unrounded": optimal_tokens(parameters, HOFFMANN_2022),
        "law": BESIROGLU_2024.source,
    }


def expected_loss(parameters: float, tokens: float) -> dict[str, float | bool]:
    """Nats for a token of Chinchilla's text, with the 90 % interval; `beyond`: smaller than all runs of the law."""
    low, high = law().interval(lambda each: each.loss(parameters, tokens), LEVEL)
    return {"value": law().loss(parameters, tokens), "low": low, "high": high, "beyond": parameters < SMALLEST}


def best_split(flops: float) -> tuple[Optimum, tuple[float, float], tuple[float, float]]:
    """A budget's best model: (the optimum, interval of its parameters, interval of its loss)."""
    sizes = law().interval(lambda each: each.optimal(flops).parameters, LEVEL)
    losses = law().interval(lambda each: each.optimal(flops).loss, LEVEL)
    return law().optimal(flops), sizes, losses


def cost_of(parameters: float, tokens: float) -> float:
    """FLOPs of training, 6 N D."""
    return FLOPS * parameters * tokens
