"""The l1 norm: sum of magnitudes."""

from collections.abc import Sequence
from copy import copy
from functools import reduce
from typing import final

import torch
from torch import Tensor

from engine.layout import Block
from engine.penalties.base import Penalty, Step, selection, smallest
from engine.shrinking import Parts
from engine.stretches import stretches

MOST_ITERATIONS = 100
TINY = 1e-30


@final
class L1(Penalty):
    """Sum of the magnitudes of the penalised weights: single weights become zero.

    Parameters
    ----------
    blocks : sequence of Block
    parameters : str
        Which parameters are penalised: "all", "weights" (no biases, no norm layers), or comma-separated name patterns.

    References
    ----------
    Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B 58, 1996.
    """

    def __init__(self, blocks: Sequence[Block], *, parameters: str = "all") -> None:
        self._choose(selection(blocks, parameters))

    def among(self, parts: Parts) -> Penalty:
        among = copy(self)
        among._choose(parts.of(self.penalised))
        return among

    def _choose(self, penalised: Tensor) -> None:
        self.penalised = penalised
        self._weight = None if bool(penalised.all()) else penalised

    def value(self, theta: Tensor) -> Tensor:
        return self._weigh(theta.abs()).sum()

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        if self._weight is None:
            return soft(theta, step)
        return soft(theta, self._weigh(torch.as_tensor(step, dtype=theta.dtype, device=theta.device)))

    def subgradient(self, theta: Tensor) -> Tensor:
        return self._weigh(theta.sign())

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        inverse = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device)
        multiplier = _crossing(self._weigh(theta), radius, inverse.expand_as(theta).contiguous())
        return self.prox(theta, multiplier * inverse), multiplier

    def trim(self, theta: Tensor, share: float) -> Tensor:
        dropped = smallest(self._weigh(theta.abs()), share) & self.penalised.to(theta.device)
        return theta.masked_fill(dropped, 0.0)

    def prox_(self, theta: Tensor, step: Tensor) -> None:
        for weights, bound in stretches(theta, self._weigh(step)):
            weights.sub_(torch.clamp(weights, -bound, bound, out=bound))

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        charged = self._weigh(theta)
        multiplier = _crossing(charged, radius, metric) if near is None else _newton(charged, radius, metric, near)
        self.prox_(theta, metric.mul_(multiplier))
        return multiplier

    def _weigh(self, values: Tensor) -> Tensor:
        if self._weight is None:
            return values
        self._weight = self._weight.to(values.device)
        return values * self._weight


def soft(theta: Tensor, threshold: Step) -> Tensor:
    """Soft-thresholding ``sign(theta) max(|theta| - threshold, 0)``, elementwise."""
    bound = torch.as_tensor(threshold, dtype=theta.dtype, device=theta.device)
    return theta - theta.clamp(-bound, bound)


def _crossing(theta: Tensor, radius: float, inverse: Tensor) -> Tensor:
    """The least multiplier t >= 0 with ``value(prox(theta, t * inverse)) <= radius``.

    Newton's iteration on it is finite, since the excess is piecewise linear and convex.

    References
    ----------
    Michelot, "A finite algorithm for finding the projection onto the canonical simplex", JOTA 50, 1986.
    """
    multiplier = torch.zeros((), dtype=theta.dtype, device=theta.device)
    for _ in range(MOST_ITERATIONS):
        following = _newton(theta, radius, inverse, multiplier)
        if not following > multiplier:
            break
        multiplier = following
    return multiplier


def _newton(theta: Tensor, radius: float, inverse: Tensor, multiplier: Tensor) -> Tensor:
    """One of Newton's iterations: where the tangent of the excess of the penalty over `radius` is zero, at least 0."""
    parts = stretches(theta, inverse)
    totals, slopes = zip(*(_left(weights, scale, multiplier) for weights, scale in parts), strict=True)
    excess, slope = reduce(torch.add, totals) - radius, reduce(torch.add, slopes)
    return torch.addcdiv(multiplier, excess, slope.clamp_min_(TINY)).clamp_min_(0.0)


def _left(theta: Tensor, inverse: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
    """The l1 norm that soft-thresholding at ``multiplier * inverse`` leaves, and how fast it falls; both 0-d."""
    left = theta.abs().addcmul_(inverse, multiplier, value=-1).relu_()
    return left.sum(), torch.dot(left.sign_(), inverse)
