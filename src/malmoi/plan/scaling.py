"""Scaling laws: what a larger model or more text would buy, read off small runs.

The loss of a language model falls smoothly with its size and with the text it reads. Hoffmann et al. (2022, "Approach
3") write that as three parts,

    L(N, D) = E + A / N^alpha + B / D^beta        N parameters, D tokens

E is what no model of any size could save (the text's own surprise, as far as this family can see), A / N^alpha is the
price of a model that is too small, B / D^beta the price of text that is too short. Five numbers, fitted to some twenty
small runs, then answer questions about runs that nobody has paid for yet.

The loss may be in any unit (nats per token, bits per byte); E, A, B and every answer are in the same one. Points are
compared by the logarithm of their losses, with Huber's loss, so that one odd run does not bend the law. Fits start from
many places at once and are polished by Levenberg and Marquardt's method, all in numpy. Intervals come from fitting the
law again and again to losses that were disturbed by the law's own errors (a residual bootstrap): they say how well the
runs pin the law down, not whether the law is true far away from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from malmoi.config import MalmoiError

FLOPS = 6.0  # additions and multiplications of training, for each parameter and token: 2 forward, 4 backward
HUBER = 1e-3  # of log-loss: beyond it an error counts linearly (Hoffmann et al. 2022, appendix D.3)
USUAL = 1.345  # ... or beyond so many standard deviations, where runs scatter more (Huber 1981: 95 % efficient)
DEVIATION = 1.4826  # standard deviations in a median absolute error, for normal errors
START_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.8, 1.2)
LOWEST, HIGHEST = (-40.0, -40.0, -40.0, 1e-3, 1e-3), (40.0, 40.0, 40.0, 4.0, 4.0)  # of e, a, b, alpha, beta
ITERATIONS = 300
KEPT_STARTS = 3  # of the first fit's, with which each fit of the bootstrap begins


@dataclass(frozen=True, slots=True)
class Point:
    """One finished run: parameters, tokens it learned from, held-out loss at its end."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best use of a budget of `flops`: how large a model, how much text, and the loss that comes out."""

    flops: float
    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta. `samples` are the laws of the bootstrap, `points` what was fitted."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""
    points: tuple[Point, ...] = ()
    samples: tuple[ScalingLaw, ...] = field(default=(), repr=False)

    def loss(self, parameters: float, tokens: float) -> float:
        """The loss of a model with so many parameters that learned from so many tokens."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimal(self, flops: float) -> Optimum:
        """How to split a budget of training FLOPs between size and text (6 FLOPs for each parameter and token).

        Along N x D = flops / 6 the loss is least where the two prices fall equally fast (Hoffmann et al. 2022,
        equation 4).
        """
        if not flops > 0:
            raise MalmoiError(f"A budget of {flops:g} FLOPs trains nothing; it must be above 0.")
        both = self.alpha + self.beta
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = balance * (flops / FLOPS) ** (self.beta / both)
        tokens = flops / FLOPS / parameters
        return Optimum(flops, parameters, tokens, self.loss(parameters, tokens))

    def interval(self, quantity: Callable[[ScalingLaw], float], level: float = 0.9) -> tuple[float, float]:
        """Between which values `quantity(law)` lies, as far as the runs can tell: `law.interval(lambda l: l.alpha)`.

        Raises `MalmoiError` for a law without samples: a published one is five numbers and no runs.
        """
        if not self.samples:
            raise MalmoiError("This law has no interval: it was not fitted here, so there are no runs to resample.")
        values = [quantity(sample) for sample in self.samples]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def beyond(self, parameters: float, tokens: float) -> float:
        """How many times further out a question lies than the largest run: 1 inside, 8 at eight times its compute."""
        if not self.points:
            return math.nan
        known = max(point.parameters * point.tokens for point in self.points)
        widest = max(point.parameters for point in self.points), max(point.tokens for point in self.points)
        return max(1.0, parameters * tokens / known, parameters / widest[0], tokens / widest[1])


# Hoffmann et al. 2022, section 3.3, as printed; and with the digits that the paper's own TeX source holds. The printed
# ones are too coarse to compute with: at Gopher's budget they ask for half as much again of tokens per parameter.
HOFFMANN_2022_ROUNDED = ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28, "arXiv 2203.15556, equation 10, rounded")
HOFFMANN_2022 = ScalingLaw(1.6934, 406.4, 410.7, 0.3392, 0.2849, "arXiv 2203.15556, TeX source")
# The same runs, read off the paper's figure and fitted again: about 20 tokens per parameter, as Chinchilla itself had.
BESIROGLU_2024 = ScalingLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658, "arXiv 2404.10102")
PUBLISHED: dict[str, ScalingLaw] = {
    "besiroglu-2024": BESIROGLU_2024,
    "hoffmann-2022": HOFFMANN_2022,
    "hoffmann-2022-rounded": HOFFMANN_2022_ROUNDED,
}


def fit(points: Iterable[Point], *, delta: float | None = None, bootstraps: int = 300, seed: int = 0) -> ScalingLaw:
    """The law that fits `points` best, with `bootstraps` samples of what else it could be.

    `delta` is where Huber's loss becomes linear. None: Hoffmann's 0.001, or 1.345 of the standard deviations by which
    these runs scatter, where that is more: small runs are noisier than large ones.

    Raises `MalmoiError` where the runs cannot tell the five numbers apart: fewer than six, or fewer than three sizes
    or token counts, or a loss that is not a positive number.
    """
    given = tuple(sorted(points, key=lambda point: (point.parameters, point.tokens)))  # whoever lists them how
    _check(given)
    parameters, tokens, losses = (
        np.array([getattr(point, name) for point in given], dtype=np.float64)
        for name in ("parameters", "tokens", "loss")
    )
    # Around the middle of the runs the coefficients and the exponents are nearly independent; far from it, not at all.
    middle = float(np.log(parameters).mean()), float(np.log(tokens).mean())
    where = np.stack([np.log(parameters) - middle[0], np.log(tokens) - middle[1]])  # (2, n)
    observed = np.log(losses)
    spread = math.sqrt(
        len(given) / (len(given) - 5)
    )  # a fit with five free numbers is nearer its points than the truth
    found, objective = _descend(_starts(where, losses), where, observed[None], delta or HUBER)
    if delta is None:
        scatter = float(np.median(np.abs(_predict(found[[objective.argmin()]], where)[0] - observed)))
        delta = max(HUBER, USUAL * DEVIATION * scatter * spread)
        found, objective = _descend(found, where, observed[None], delta)
    order = np.argsort(objective, kind="stable")
    best = found[order[0]]
    law = replace(_law(best, middle), points=given)
    if not bootstraps:
        return law
    kept = found[order[:KEPT_STARTS]]
    predicted = _predict(best[None], where)[0]
    errors = observed - predicted
    # Their spread is itself known only from few runs: Student's distribution, to first order, at the level of 90 %.
    errors = (errors - errors.mean()) * spread * (1 + (1.645**2 + 1) / (4 * (len(given) - 5)))
    drawn = np.random.default_rng(seed).choice(errors, size=(bootstraps, len(given)))
    again = np.repeat(predicted + drawn, len(kept), axis=0)
    tried, objective = _descend(np.tile(kept, (bootstraps, 1)), where, again, delta)
    winners = objective.reshape(bootstraps, len(kept)).argmin(axis=1) + np.arange(bootstraps) * len(kept)
    return replace(law, samples=tuple(_law(tried[winner], middle) for winner in winners))


def foretold(points: Sequence[Point]) -> tuple[float, Point] | None:
    """A test of the law on these runs: what it says of the run with the most compute when that run is kept from it.

    Returns the foretold loss and the run; None where too few runs are left without it.
    """
    largest = max(points, key=lambda point: point.parameters * point.tokens)
    rest = [point for point in points if point is not largest]
    try:
        law = fit(rest, bootstraps=0)
    except MalmoiError:
        return None
    return law.loss(largest.parameters, largest.tokens), largest


def _check(points: Sequence[Point]) -> None:
    sizes, lengths = ({getattr(point, name) for point in points} for name in ("parameters", "tokens"))
    if len(points) < 6 or len(sizes) < 3 or len(lengths) < 3:
        raise MalmoiError(
            f"A scaling law has five numbers: it needs at least six finished runs of three sizes and three lengths "
            f"(here: {len(points)} runs, {len(sizes)} sizes, {len(lengths)} lengths). Add runs."
        )
    for point in points:
        values = (point.parameters, point.tokens, point.loss)
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise MalmoiError(f"{point} cannot be fitted: parameters, tokens and loss must be numbers above 0.")


# ---- the fit itself: theta = (log E, log a, log b, alpha, beta), where a and b are the prices in the middle ----------


def _law(theta: np.ndarray, middle: tuple[float, float]) -> ScalingLaw:
    e, a, b, alpha, beta = (float(value) for value in theta)
    return ScalingLaw(math.exp(e), math.exp(a + alpha * middle[0]), math.exp(b + beta * middle[1]), alpha, beta)


def _starts(where: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """(S, 5) beginnings: for fixed exponents the law is linear in E, A and B, and least squares gives them."""
    starts = []
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            columns = np.stack([np.ones_like(losses), np.exp(-alpha * where[0]), np.exp(-beta * where[1])], axis=1)
            solved = np.linalg.lstsq(columns / losses[:, None], np.ones_like(losses), rcond=None)[0]
            solved = np.maximum(solved, 0.01 * losses.min())
            starts.append([*np.log(solved), alpha, beta])
    return np.array(starts)


def _terms(theta: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(S, n, 3): the logarithms of the three parts of the loss."""
    e, a, b, alpha, beta = (theta[:, i, None] for i in range(5))
    return np.stack([e + 0 * where[:1], a - alpha * where[:1], b - beta * where[1:]], axis=-1)


def _predict(theta: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(S, n): the logarithm of the loss."""
    return np.logaddexp.reduce(_terms(theta, where), axis=-1)


def _huber(errors: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(errors)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=1)


def _descend(start: np.ndarray, where: np.ndarray, observed: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg and Marquardt's method on all S problems at once.

    start (S, 5), where (2, n), observed (S, n) or (1, n) for all. Returns the thetas (S, 5) and their objectives (S,).
    """
    theta = np.clip(start, LOWEST, HIGHEST)
    observed = np.broadcast_to(observed, (len(theta), observed.shape[1]))
    objective = _huber(_predict(theta, where) - observed, delta)
    damping = np.full(len(theta), 1e-2)
    quiet = np.zeros(len(theta), dtype=int)  # steps in a row that gained next to nothing
    for _ in range(ITERATIONS):
        going = np.flatnonzero((quiet < 4) & (damping < 1e9))
        if not len(going):
            break
        now, aim = theta[going], observed[going]
        tried = np.clip(now + _step(now, where, aim, damping[going], delta), LOWEST, HIGHEST)
        reached = _huber(_predict(tried, where) - aim, delta)
        better = reached < objective[going]
        little = objective[going] - reached < 1e-9 * objective[going]
        quiet[going] = np.where(better & ~little, 0, quiet[going] + better)
        damping[going] = np.where(better, np.maximum(damping[going] / 3, 1e-12), damping[going] * 4)
        theta[going[better]], objective[going[better]] = tried[better], reached[better]
    return theta, objective


def _step(theta: np.ndarray, where: np.ndarray, observed: np.ndarray, damping: np.ndarray, delta: float) -> np.ndarray:
    """(S, 5): one damped Gauss-Newton step, errors beyond `delta` weighed down as Huber's loss does."""
    terms = _terms(theta, where)
    log_loss = np.logaddexp.reduce(terms, axis=-1)
    share = np.exp(terms - log_loss[..., None])  # of each part in the loss: the derivative by its logarithm
    slopes = np.concatenate([share, -share[..., 1:] * where.T], axis=-1)  # (S, n, 5)
    errors = log_loss - observed
    weights = np.minimum(1.0, delta / np.maximum(np.abs(errors), 1e-300))
    weighted = slopes * weights[..., None]
    gradient = np.einsum("snk,sn->sk", weighted, errors)
    curvature = np.einsum("snk,snl->skl", weighted, slopes)
    diagonal = np.einsum("skk->sk", curvature)
    floor = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-300
    curvature = curvature + np.eye(5) * (damping[:, None] * (diagonal + floor) + 1e-3 * floor)[:, None, :]
    return -np.linalg.solve(curvature, gradient[..., None])[..., 0]
