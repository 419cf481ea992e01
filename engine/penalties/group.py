"""Sums of a charge for each group of weights: what projects any of them on a level set."""

import math
from abc import abstractmethod
from copy import copy

import torch
from torch import Tensor

from engine.penalties.base import Penalty, Step, smallest
from engine.penalties.groups import Partition
from engine.shrinking import Parts

SEARCH_STEPS, HALVINGS = 100, 40
NEAR = 1e-3
GROWTH = 10.0
UNTRIED = -1.0


class GroupPenalty(Penalty):
    """A sum of what each group of weights is charged.

    Parameters
    ----------
    groups : Partition
    """

    joint = True

    def __init__(self, groups: Partition) -> None:
        self._divide(groups)

    def _divide(self, groups: Partition) -> None:
        self._groups, self.penalised = groups, groups.member

    def among(self, parts: Parts) -> Penalty:
        among = copy(self)
        among._divide(self._groups.among(parts))
        return among

    @abstractmethod
    def charges(self, theta: Tensor) -> Tensor:
        """What each group adds to the penalty at `theta`, shape (n_params,); shape (n_groups,)."""

    @abstractmethod
    def fall(self, moved: Tensor, multiplier: float, step: Tensor) -> Tensor:
        """How fast the penalty of ``moved = prox(theta, multiplier * step)`` falls as the multiplier grows, 0-d.

        Parameters
        ----------
        moved, step : Tensor, shape (n_params,)
        """

    def value(self, theta: Tensor) -> Tensor:
        return self.charges(theta).sum()

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        step = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device).expand_as(theta)
        return self._search(theta, radius, step, 0.0, _rounding(theta))

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        start, tolerance = (0.0, _rounding(theta)) if near is None else (float(near), NEAR)
        moved, multiplier = self._search(theta, radius, metric, start, tolerance)
        theta.copy_(moved)
        return multiplier

    def trim(self, theta: Tensor, share: float) -> Tensor:
        """See `Penalty.trim`; in each layer by itself, since charges of different layers do not compare."""
        layers = torch.split(self.charges(theta), self._groups.layers)
        dropped = torch.cat([smallest(charges, share) for charges in layers])
        return theta.masked_fill(self._groups.spread(dropped, False), 0.0)

    def _search(self, theta: Tensor, radius: float, step: Tensor, at: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """The least multiplier whose prox has the penalty `radius`, and that prox: Newton's method in a bracket.

        The penalty of the prox falls as the multiplier grows. That of a convex penalty is convex here or nearly so,
        and Newton's iteration converges from any start. Where the penalty jumps past `radius`, halving finds the jump.

        Parameters
        ----------
        at : float
            The multiplier to try first.
        tolerance : float
            How close to come, as a share of `radius`, or at a jump as a share of the multiplier.
        """
        low, high = UNTRIED, math.inf
        for _ in range(SEARCH_STEPS):
            moved = self._moved(theta, at, step)
            excess = float(self.value(moved)) - radius
            low, high = (at, high) if excess > 0 else (low, at)
            if abs(excess) <= tolerance * radius or (excess <= 0 and at == 0) or math.isnan(excess):
                break
            if low >= 0 and high - low <= tolerance * high < math.inf:
                moved = self._across(self._moved(theta, low, step), self._moved(theta, high, step), radius)
                break
            ahead = max(0.0, at + excess / max(float(self.fall(moved, at, step)), 1e-300))
            at = _inside(ahead, low, high, float(theta.abs().max() / step.max()))
        return moved, torch.full_like(theta[0], at)

    def _moved(self, theta: Tensor, multiplier: float, step: Tensor) -> Tensor:
        return self.prox(theta, multiplier * step) if multiplier > 0 else theta.clone()

    def _across(self, denser: Tensor, sparser: Tensor, radius: float) -> Tensor:
        """The weights with the penalty `radius` on the way between the two sides of a jump."""
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            above = bool(self.value(denser.lerp(sparser, share)) > radius)
            low, high = (share, high) if above else (low, share)
        return denser.lerp(sparser, high)


def _inside(ahead: float, low: float, high: float, scale: float) -> float:
    """The multiplier `ahead` where it is between what was tried and not far beyond; otherwise one halfway or larger."""
    furthest = GROWTH * max(low, scale)
    if high < math.inf:
        return ahead if low < ahead < high else (max(low, 0.0) + high) / 2
    return ahead if low < ahead < furthest else furthest


def _rounding(theta: Tensor) -> float:
    return 4 * torch.finfo(theta.dtype).eps
