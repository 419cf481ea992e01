"""Projections for group penalties that are searched for the multiplier, since no line bounds what a prox leaves."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from engine.penalties.norms import GroupNorms
from engine.penalties.tangents import NEAR
from engine.penalties.widths import TINY
from engine.waiting import waits

SEARCH_STEPS, HALVINGS, BLIND_STEPS = 100, 40, 3
GROWTH = 10.0
UNTRIED = -1.0


class Trial(ABC):
    """What a prox makes of given weights in a given metric, one multiplier after another."""

    @abstractmethod
    def at(self, multiplier: Tensor) -> Tensor:
        """The penalty after the prox with a multiplier, both 0-d."""

    @abstractmethod
    def fall(self) -> Tensor:
        """How fast it falls as the last multiplier grows, 0-d."""

    @abstractmethod
    def moved(self) -> Tensor:
        """What the prox with the last multiplier makes of the weights, shape (n_params,)."""


class SearchedNorms(GroupNorms):
    """Newton's method for the multiplier."""

    @abstractmethod
    def _trial(self, theta: Tensor, step: Tensor) -> Trial:
        """Of the prox at `theta`; `step`, the inverse of the metric, is not changed. Both of shape (n_params,)."""

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        trial, furthest = self._trial(theta, metric), theta.abs().max() / metric.max()
        if near is not None and waits(theta):
            moved, multiplier = _followed(trial, radius, near, furthest)
        else:
            start, tolerance = (0.0, _rounding(theta)) if near is None else (float(near), NEAR)
            moved, at = self._search(trial, radius, (start, float(furthest)), tolerance)
            multiplier = torch.full_like(theta[0], at)
        theta.copy_(moved)
        return multiplier

    def _search(
        self, trial: Trial, radius: float, begin: tuple[float, float], tolerance: float
    ) -> tuple[Tensor, float]:
        """What the prox with the least multiplier leaves that leaves `radius`, and the multiplier: Newton in a bracket.

        The penalty after the prox falls as the multiplier grows. That of a convex penalty is convex here or nearly so,
        and Newton's iteration converges from any start. Where the penalty jumps past `radius`, halving finds the jump.

        Parameters
        ----------
        begin : (float, float)
            The multiplier to try first, and the scale of multipliers.
        tolerance : float
            How close to come, as a share of `radius`, or at a jump as a share of the multiplier.
        """
        (at, scale), low, high = begin, UNTRIED, math.inf
        for _ in range(SEARCH_STEPS):
            excess = float(trial.at(_number(at))) - radius
            low, high = (at, high) if excess > 0 else (low, at)
            if abs(excess) <= tolerance * radius or (excess <= 0 and at == 0) or math.isnan(excess):
                break
            if low >= 0 and high - low <= tolerance * high < math.inf:
                return self._across(trial, low, high, radius), at
            ahead = max(0.0, at + excess / max(float(trial.fall()), TINY))
            at = _inside(ahead, low, high, scale)
        return trial.moved(), at

    def _across(self, trial: Trial, low: float, high: float, radius: float) -> Tensor:
        """The weights with the penalty `radius` on the way between the two sides of a jump."""
        denser, sparser = (_tried(trial, side) for side in (low, high))
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            share = (low + high) / 2
            above = bool(self.value(denser.lerp(sparser, share)) > radius)
            low, high = (share, high) if above else (low, share)
        return denser.lerp(sparser, high)


def _followed(trial: Trial, radius: float, near: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A few of Newton's steps from a multiplier nearby, for devices that the processor would wait for."""
    excess = trial.at(near) - radius
    for _ in range(BLIND_STEPS):
        ahead = near + excess / trial.fall().clamp_min(TINY)
        closer = torch.minimum(ahead, GROWTH * torch.maximum(near, scale)).clamp_min(0.0).to(near.dtype)
        near = torch.where(excess.abs() <= NEAR * radius, near, closer)
        excess = trial.at(near) - radius
    return trial.moved(), near


def _tried(trial: Trial, multiplier: float) -> Tensor:
    trial.at(_number(multiplier))
    return trial.moved()


def _number(multiplier: float) -> Tensor:
    return torch.tensor(multiplier, dtype=torch.float64)


def _inside(ahead: float, low: float, high: float, scale: float) -> float:
    """The multiplier `ahead` where it is between what was tried and not far beyond; otherwise one halfway or larger."""
    furthest = GROWTH * max(low, scale)
    if high < math.inf:
        return ahead if low < ahead < high else (max(low, 0.0) + high) / 2
    return ahead if low < ahead < furthest else furthest


def _rounding(theta: Tensor) -> float:
    return 4 * torch.finfo(theta.dtype).eps
