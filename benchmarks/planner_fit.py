"""Fit the planner's few constants of hardware to published step times, and say what the fit is worth.

Each constant has a physical beginning (`Physics()`'s defaults) and a width: how far, as a factor, it may reasonably lie
from there. The fit weighs both: Huber's loss on the logarithm of predicted over published time, and the squared
distance from the beginnings. Cross-validation leaves out one *system* (one publication's machine and software) at a
time, fits on all others and predicts it. Nothing is fitted per row or per publication.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from malmoi.plan.layout import Layout
from malmoi.plan.physics import Physics
from planner_rows import Case

WIDTH = {  # one standard deviation of the logarithm of a constant
    "matrix": 0.08, "fp8": 0.15, "flash": 0.2, "memory": 0.08, "route": 0.7, "depth": 0.5, "wave": 0.3, "traffic": 0.4,
    "intra": 0.15, "inter": 0.1, "hide": 0.1, "kernel": 0.5, "launch": 0.3, "hop": 0.5, "pause": 0.7, "straggle": 0.7,
}  # fmt: skip
FRACTIONS = {"matrix", "fp8", "flash", "memory", "traffic", "intra", "inter", "hide"}
HUBER = 0.04  # of the logarithm: beyond 4 % an error counts linearly
SPREAD = 0.05  # how exact a prediction should be, against which the widths are weighed
ROUNDS, STEP = 25, 1e-3


def _physics(theta: np.ndarray) -> Physics:
    start = asdict(Physics())
    values = {key: start[key] * math.exp(shift) for key, shift in zip(WIDTH, theta, strict=True)}
    return Physics(**{key: min(value, 0.98) if key in FRACTIONS else value for key, value in values.items()})


def errors(cases: Sequence[Case], physics: Physics) -> np.ndarray:
    """Logarithms of predicted over published seconds."""
    return np.array([math.log(case.step(physics)[0].total / case.seconds) for case in cases])


def fit(cases: Sequence[Case]) -> Physics:
    """Damped Gauss and Newton with Huber's weights. What rows leave open is chosen anew before every round."""
    widths = np.array(list(WIDTH.values()))
    theta = np.zeros(len(widths))
    layouts: list[Layout] = []

    def logs(at: np.ndarray) -> np.ndarray:
        physics = _physics(at)
        return np.array(
            [math.log(case.seconds_of(one, physics) / case.seconds) for case, one in zip(cases, layouts, strict=True)]
        )

    def objective(found: np.ndarray, at: np.ndarray) -> float:
        size = np.abs(found)
        loss = np.where(size < HUBER, 0.5 * size**2, HUBER * (size - HUBER / 2)).sum()
        return float(loss / SPREAD**2 + 0.5 * ((at / widths) ** 2).sum())

    damping = 1.0
    for _ in range(ROUNDS):
        layouts = [case.chosen(_physics(theta)) for case in cases]
        now = logs(theta)
        best = objective(now, theta)
        slopes = np.stack([(logs(theta + STEP * unit) - now) / STEP for unit in np.eye(len(theta))], axis=1)
        weights = np.minimum(1, HUBER / np.maximum(np.abs(now), 1e-12)) / SPREAD**2
        gradient = slopes.T @ (weights * now) + theta / widths**2
        curvature = (slopes * weights[:, None]).T @ slopes + np.diag(1 / widths**2)
        step = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
        tried = objective(logs(theta + step), theta + step)
        if tried < best:
            theta, damping = theta + step, damping / 4
            if best - tried < 1e-3 * best:
                break
        else:
            damping *= 4
    return _physics(theta)


def cross_validated(cases: Sequence[Case]) -> dict[str, tuple[Physics, np.ndarray]]:
    """For each system: the constants without it, and the errors of its rows under them."""
    found = {}
    for system in dict.fromkeys(case.system for case in cases):
        own = [case for case in cases if case.system == system]
        physics = fit([case for case in cases if case.system != system])
        found[system] = (physics, errors(own, physics))
    return found
