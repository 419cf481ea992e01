"""Sums over single weights of penalties that are steep at zero and flat far away: large weights stay unshrunk."""

from collections.abc import Sequence
from copy import copy
from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor

from engine.layout import Block
from engine.penalties.base import Penalty, Step, selection, smallest
from engine.penalties.effective import LogSum, Mcp, Scad, Thresholding
from engine.shrinking import Parts

MOST_STEPS = 100
ROUNDING = 8
STEEPEST, TINY = 1e-2, 1e-30


@final
class Separable(Penalty):
    """Sum of a scalar penalty over the penalised weights; not convex, so the nearest weights may not be unique.

    The proximal operator is a global minimiser. It jumps where steps are long, so a projection's penalty may be less
    than its radius, and its weights are the nearest of all with a penalty of at most that.

    Parameters
    ----------
    scalar : Thresholding
    blocks : sequence of Block
    parameters : str
        Which parameters are penalised: "all", "weights" (no biases, no norm layers), or comma-separated name patterns.
    """

    def __init__(self, scalar: Thresholding, blocks: Sequence[Block], parameters: str) -> None:
        self._scalar, self.penalised = scalar, selection(blocks, parameters)

    def among(self, parts: Parts) -> Penalty:
        among = copy(self)
        among.penalised = parts.of(self.penalised)
        return among

    def value(self, theta: Tensor) -> Tensor:
        return self._scalar.value(self._sizes(theta)).sum()

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        inverse = torch.as_tensor(step, dtype=theta.dtype, device=theta.device)
        shrunk = theta.sign() * self._scalar.prox(theta.abs(), inverse)
        return torch.where(self._on(theta), shrunk, theta)

    def subgradient(self, theta: Tensor) -> Tensor:
        return self._on(theta) * theta.sign() * self._scalar.slope(theta.abs())

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        return self._on(theta) * (theta != 0) * self._scalar.bend(theta.abs()) * direction

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        inverse = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device)
        zero = torch.zeros_like(theta[0])
        if not self.value(theta) > radius:
            return theta.clone(), zero
        multiplier = self._crossing(theta, radius, inverse)
        return self.prox(theta, multiplier * inverse), multiplier

    def trim(self, theta: Tensor, share: float) -> Tensor:
        dropped = smallest(self._scalar.value(self._sizes(theta)), share) & self._on(theta)
        return theta.masked_fill(dropped, 0.0)

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        if near is None:
            return super().project_(theta, radius, metric)
        multiplier = self._newton(theta, radius, metric, near)
        self.prox_(theta, metric.mul_(multiplier))
        return multiplier

    def _crossing(self, theta: Tensor, radius: float, metric: Tensor) -> Tensor:
        """The least multiplier that brings the penalty to `radius` or below: Newton and bisection in turns."""
        low, high = torch.zeros_like(theta[0]), theta.abs().max() / metric.max()
        while self.value(self.prox(theta, high * metric)) > radius:
            low, high = high, 2 * high
        near = low
        rounding = ROUNDING * torch.finfo(theta.dtype).eps
        for turn in range(MOST_STEPS):
            near = self._newton(theta, radius, metric, near) if turn % 2 else near
            near = near if low < near < high else (low + high) / 2
            excess = self.value(self.prox(theta, near * metric)) - radius
            low, high = (near, high) if excess > 0 else (low, near)
            if excess.abs() <= rounding * radius or high - low <= rounding * high:
                return near if excess <= rounding * radius else high
        return high

    def _newton(self, theta: Tensor, radius: float, metric: Tensor, multiplier: Tensor) -> Tensor:
        """Where the tangent of the penalty's excess over `radius`, as a function of the multiplier, is zero."""
        step = multiplier * metric
        left = torch.where(multiplier > 0, self.prox(theta, step), theta)
        slope, size = self.subgradient(left), left.abs()
        steepness = metric * slope.square() / (1 + step * self._scalar.bend(size)).clamp_min(STEEPEST)
        excess = self.value(left) - radius
        return (multiplier + excess / steepness.sum().clamp_min(TINY)).clamp_min(0.0)

    def _sizes(self, theta: Tensor) -> Tensor:
        return torch.where(self._on(theta), theta.abs(), 0.0)

    def _on(self, theta: Tensor) -> Tensor:
        self.penalised = self.penalised.to(theta.device)
        return self.penalised


def log_sum(blocks: Sequence[Block], *, epsilon: Annotated[float, Gt(0)] = 0.1, parameters: str = "all") -> Penalty:
    """Sum of log(1 + |w| / epsilon): an l1 norm whose pull fades with a weight's size.

    Parameters
    ----------
    epsilon : float
        Size at which the pull is half of what it is at zero.
    parameters : str
        Which parameters are penalised: "all", "weights" (no biases, no norm layers), or comma-separated name patterns.
    """
    return Separable(LogSum(epsilon), blocks, parameters)


def mcp(blocks: Sequence[Block], *, knot: Annotated[float, Gt(0)] = 0.5, parameters: str = "all") -> Penalty:
    """Minimax concave penalty: an l1 norm whose pull falls to nothing at a knot.

    Parameters
    ----------
    knot : float
        Size from which weights are not pulled.
    parameters : str
        Which parameters are penalised: "all", "weights" (no biases, no norm layers), or comma-separated name patterns.
    """
    return Separable(Mcp(knot), blocks, parameters)


def scad(
    blocks: Sequence[Block],
    *,
    knot: Annotated[float, Gt(0)] = 0.2,
    shape: Annotated[float, Gt(2)] = 3.7,
    parameters: str = "all",
) -> Penalty:
    """Smoothly clipped absolute deviation: an l1 norm whose pull falls from a knot on, to nothing at a multiple of it.

    Parameters
    ----------
    knot : float
        Size from which the pull falls.
    shape : float
        Multiple of it from which weights are not pulled.
    parameters : str
        Which parameters are penalised: "all", "weights" (no biases, no norm layers), or comma-separated name patterns.
    """
    return Separable(Scad(shape, knot), blocks, parameters)
