"""Projections for group penalties that are searched for the multiplier, since no line bounds what a prox leaves."""

import math

import torch
from torch import Tensor

from engine.penalties.base import Step
from engine.penalties.norms import GroupNorms
from engine.waiting import waits

SEARCH_STEPS, HALVINGS, BLIND_STEPS = 100, 40, 3
NEAR = 1e-3
GROWTH = 10.0
UNTRIED = -1.0
TINY = 1e-300


class SearchedNorms(GroupNorms):
    """Newton's method for the multiplier, with the prox computed anew for each."""

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        if near is not None and waits(theta):
            moved, multiplier = self._newton(theta, radius, metric, near)
        else:
            start, tolerance = (0.0, _rounding(theta)) if near is None else (float(near), NEAR)
            moved, multiplier = self._search(theta, radius, metric, start, tolerance)
        theta.copy_(moved)
        return multiplier

    def fall(self, moved: Tensor, multiplier: Step, step: Tensor) -> Tensor:
        """How fast the penalty of ``moved = prox(theta, multiplier * step)`` falls as the multiplier grows, 0-d.

        That is ``s' (D + t H)^-1 s`` with the subgradient s and its derivative H on the support; H is diagonal plus a
        matrix of rank one in each group, which the Sherman-Morrison formula inverts.

        Parameters
        ----------
        moved, step : Tensor, shape (n_params,)
        """
        z, s = moved.double(), self.subgradient(moved).double()
        slope, along = self._slopes(self._norms(z), self._levels(z))
        inverse = 1 / (1 / step.double() + multiplier * self._groups.spread(slope, 0.0))
        squares, mixed, own = (self._groups.sums(a * b * inverse) for a, b in ((s, s), (z, s), (z, z)))
        rank = multiplier * along
        return (squares - rank * mixed.square() / (1 + rank * own).clamp_min(TINY)).sum()

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
            ahead = max(0.0, at + excess / max(float(self.fall(moved, at, step)), TINY))
            at = _inside(ahead, low, high, float(theta.abs().max() / step.max()))
        return moved, torch.full_like(theta[0], at)

    def _newton(self, theta: Tensor, radius: float, step: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """A few of Newton's steps from a multiplier nearby, for devices that the processor would wait for."""
        furthest, moved = theta.abs().max() / step.max(), self._moved(theta, near, step)
        for _ in range(BLIND_STEPS):
            excess = self.value(moved) - radius
            ahead = near + excess / self.fall(moved, near, step).clamp_min(TINY)
            closer = torch.minimum(ahead, GROWTH * torch.maximum(near, furthest)).clamp_min(0.0).to(theta.dtype)
            near = torch.where(excess.abs() <= NEAR * radius, near, closer)
            moved = self._moved(theta, near, step)
        return moved, near

    def _moved(self, theta: Tensor, multiplier: Step, step: Tensor) -> Tensor:
        if isinstance(multiplier, Tensor):
            return torch.where(multiplier > 0, self.prox(theta, multiplier * step), theta)
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
