"""What tracers that store one network after another share: seeds of their own for every purpose, and waypoints."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from engine.front import Front, ParetoPoint, Waypoint
from engine.problem import Problem, State
from engine.tracers.base import Clock, measured


@dataclass(frozen=True, slots=True)
class Measured:
    """Weights with the loss and the gradient there, on all data."""

    at: State
    loss: float
    grad: Tensor

    def merit(self, problem: Problem) -> float:
        """Loss plus the state's strength times penalty; a loss that is no number has the worst."""
        value = self.loss + self.at.lam * float(problem.penalty.value(self.at.theta))
        return value if math.isfinite(value) else math.inf


def known(problem: Problem, at: State) -> Measured:
    """Loss and gradient at a state, with its buffers in place."""
    problem.loss.load_buffers(at.buffers)
    value, grad = problem.loss.value_and_grad(at.theta)
    return Measured(at, float(value), grad)


def draw(seed: int, what: str) -> int:
    """A seed of its own for every purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{what}".encode()).digest()[:4], "big")


def recorded(problem: Problem, clock: Clock, found: Measured, lam: float | None, **where: Any) -> Waypoint:
    """The waypoint of a network.

    Parameters
    ----------
    lam : float or None
        The strength that was held; the multiplier of the weights if None.
    **where
        Fields of its point, such as ``index`` and ``parent``; ``memory`` is the waypoint's own, as a mapping to arrays.
    """
    memory: Mapping[str, Any] = where.pop("memory", {})
    problem.loss.load_buffers(found.at.buffers)
    waypoint = measured(problem, clock, found.at, lam, (found.loss, found.grad))
    arrays = {name: np.asarray(value) for name, value in memory.items()}
    return replace(waypoint, point=replace(waypoint.point, **where), memory=arrays)


def reached(points: Sequence[ParetoPoint]) -> str:
    """How far a trace came, as a sentence."""
    front, sparsest = Front(tuple(points)).non_dominated(), max(p.sparsity for p in points)
    return f"The front has {len(front)} points, down to a sparsity of {sparsest:.4g}."
