"""The penalties that adaptive dropout amounts to, of a single weight's magnitude.

Dropout with a weight's own variance ``strength / eta`` is a ridge penalty ``w^2 / eta``. A rule that adapts eta to the
weight minimises ``loss + strength * value``, where ``value(w) = 1/2 min over eta of (w^2 / eta + dual(eta))``: the eta
trick. Every penalty here is zero at zero.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor
from torch.nn.functional import softplus

from engine.errors import InvalidSpec

K1, K2, K3 = 0.63576, 1.87320, 1.48695
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
SHUT, OPEN = TEMPERATURE * math.log(-LOW / HIGH), TEMPERATURE * math.log((1 - LOW) / (HIGH - 1))
NODES, GRID, SECTIONS, FARTHEST = 48, 601, 40, 16.0
GOLDEN = (math.sqrt(5) - 1) / 2
BISECTIONS, FARTHEST_LOG = 60, 80.0
TINY = 1e-300


class EffectivePenalty(ABC):
    """A subquadratic penalty of a weight's magnitude: concave in its square.

    References
    ----------
    LeJeune, Javadi, Baraniuk, "The flip side of the reweighted coin: duality of adaptive dropout and regularization",
    NeurIPS 2021.
    """

    @abstractmethod
    def value(self, size: Tensor) -> Tensor:
        """Penalty of magnitudes, at least 0, any shape."""

    @abstractmethod
    def eta(self, size: Tensor) -> Tensor:
        """The minimiser of ``size^2 / eta + dual(eta)``, that is ``size / value'(size)``; infinite where that is 0."""

    @abstractmethod
    def dual(self, eta: Tensor) -> Tensor:
        """``max over sizes of 2 value(size) - size^2 / eta``, for positive `eta`."""


class Invertible(EffectivePenalty):
    """One whose `eta` has an inverse in closed form."""

    @abstractmethod
    def size(self, eta: Tensor) -> Tensor:
        """The magnitude whose `eta` this is; 0 for smaller ones."""

    def dual(self, eta: Tensor) -> Tensor:
        size = self.size(eta)
        return 2 * self.value(size) - size.square() / eta


class Thresholding(Invertible):
    """One with a kink at zero and a proximal operator in closed form."""

    @abstractmethod
    def slope(self, size: Tensor) -> Tensor:
        """Derivative of `value`; at 0 from above."""

    @abstractmethod
    def bend(self, size: Tensor) -> Tensor:
        """Second derivative of `value`, where there is one."""

    @abstractmethod
    def stationary(self, size: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Magnitudes above zero of which one minimises ``(z - size)^2 / (2 step) + value(z)``, unless 0 does.

        Parameters
        ----------
        size : Tensor
            At least 0.
        step : Tensor, 0-d or of the same shape
            Positive.
        """

    def prox(self, size: Tensor, step: Tensor) -> Tensor:
        """The magnitude that minimises ``(z - size)^2 / (2 step) + value(z)`` over all z of at least 0; of two, 0."""
        best, least = torch.zeros_like(size), size.square() / 2
        for place in self.stationary(size, step):
            height = (place - size).square() / 2 + step * self.value(place)
            lower = height < least
            best, least = torch.where(lower, place, best), torch.where(lower, height, least)
        return best


@final
class Power(Invertible):
    """``w^p / p``: lasso for p = 1, ridge in the limit of 2.

    Parameters
    ----------
    p : float
        In (0, 2).
    """

    def __init__(self, p: float) -> None:
        if not 0 < p < 2:
            raise InvalidSpec(f"power {p} must lie between 0 and 2")
        self._p = p

    def value(self, size: Tensor) -> Tensor:
        return size**self._p / self._p

    def eta(self, size: Tensor) -> Tensor:
        return size ** (2 - self._p)

    def size(self, eta: Tensor) -> Tensor:
        return eta ** (1 / (2 - self._p))


@final
class LogSum(Thresholding):
    """``log(1 + w / epsilon)``.

    Parameters
    ----------
    epsilon : float
        Where it bends: nearly l1 for weights far below, hardly any pull on weights far above.

    References
    ----------
    Candes, Wakin, Boyd, "Enhancing sparsity by reweighted l1 minimization", J. Fourier Anal. Appl. 14, 2008.
    """

    def __init__(self, epsilon: float = 2.0) -> None:
        _above("epsilon", epsilon, 0)
        self._epsilon = epsilon

    def value(self, size: Tensor) -> Tensor:
        return (size / self._epsilon).log1p()

    def eta(self, size: Tensor) -> Tensor:
        return size * (size + self._epsilon)

    def size(self, eta: Tensor) -> Tensor:
        return 2 * eta / ((self._epsilon**2 + 4 * eta).sqrt() + self._epsilon)

    def slope(self, size: Tensor) -> Tensor:
        return 1 / (size + self._epsilon)

    def bend(self, size: Tensor) -> Tensor:
        return -1 / (size + self._epsilon).square()

    def stationary(self, size: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        root = ((size + self._epsilon).square() - 4 * step).clamp_min(0.0).sqrt()
        return (((size - self._epsilon + root) / 2).clamp_min(0.0),)


@final
class LogSquareSum(Invertible):
    """``log(1 + w^2 / epsilon)``, the negative log-density of Student's t: shrinks, and makes no exact zeros.

    Parameters
    ----------
    epsilon : float
    """

    def __init__(self, epsilon: float = 1.0) -> None:
        _above("epsilon", epsilon, 0)
        self._epsilon = epsilon

    def value(self, size: Tensor) -> Tensor:
        return (size.square() / self._epsilon).log1p()

    def eta(self, size: Tensor) -> Tensor:
        return (size.square() + self._epsilon) / 2

    def size(self, eta: Tensor) -> Tensor:
        return (2 * eta - self._epsilon).clamp_min(0.0).sqrt()


@final
class Scad(Thresholding):
    """Smoothly clipped absolute deviation: l1 up to `knot`, constant from `shape` times that.

    Parameters
    ----------
    shape : float
        Above 2.
    knot : float

    References
    ----------
    Fan, Li, "Variable selection via nonconcave penalized likelihood and its oracle properties", JASA 96, 2001.
    """

    def __init__(self, shape: float = 3.7, knot: float = 1.0) -> None:
        _above("shape", shape, 2)
        _above("knot", knot, 0)
        self._knot, self._width, self._flat = knot, (shape - 1) * knot, shape * knot

    def value(self, size: Tensor) -> Tensor:
        inner = size.clamp(self._knot, self._flat) - self._knot
        return size.clamp_max(self._knot) + inner - inner.square() / (2 * self._width)

    def eta(self, size: Tensor) -> Tensor:
        return size / self.slope(size)

    def size(self, eta: Tensor) -> Tensor:
        return torch.minimum(eta, self._flat / (self._width / eta + 1))

    def slope(self, size: Tensor) -> Tensor:
        return ((self._flat - size) / self._width).clamp(0.0, 1.0)

    def bend(self, size: Tensor) -> Tensor:
        return torch.where((size > self._knot) & (size < self._flat), -1 / self._width, torch.zeros_like(size))

    def stationary(self, size: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        middle = (self._width * size - self._flat * step) / (self._width - step).clamp_min(1e-30)
        soft = (size - step).clamp(0.0, self._knot)
        return soft, middle.clamp(self._knot, self._flat), size.clamp_min(self._flat)


@final
class Mcp(Thresholding):
    """Minimax concave penalty ``w - w^2 / (2 knot)``, constant from `knot` on.

    Parameters
    ----------
    knot : float

    References
    ----------
    Zhang, "Nearly unbiased variable selection under minimax concave penalty", Annals of Statistics 38, 2010.
    """

    def __init__(self, knot: float = 1.0) -> None:
        _above("knot", knot, 0)
        self._knot = knot

    def value(self, size: Tensor) -> Tensor:
        inner = size.clamp_max(self._knot)
        return inner - inner.square() / (2 * self._knot)

    def eta(self, size: Tensor) -> Tensor:
        return size / self.slope(size)

    def size(self, eta: Tensor) -> Tensor:
        return self._knot / (self._knot / eta + 1)

    def slope(self, size: Tensor) -> Tensor:
        return (1 - size / self._knot).clamp_min(0.0)

    def bend(self, size: Tensor) -> Tensor:
        return torch.where(size < self._knot, -1 / self._knot, torch.zeros_like(size))

    def stationary(self, size: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        middle = self._knot * (size - step) / (self._knot - step).clamp_min(1e-30)
        return middle.clamp(0.0, self._knot), size.clamp_min(self._knot)


@final
class Standout(Invertible):
    """``(1 - (w + 1) exp(-w)) / strength``: standout with keep probability sigmoid(w); bounded, without a kink.

    Parameters
    ----------
    strength : float
        The penalty depends on the strength that it is used with.

    References
    ----------
    Ba, Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013.
    """

    def __init__(self, strength: float = 1.0) -> None:
        _above("strength", strength, 0)
        self._strength = strength

    def value(self, size: Tensor) -> Tensor:
        return (-torch.expm1(-size) - size * (-size).exp()) / self._strength

    def eta(self, size: Tensor) -> Tensor:
        return self._strength * size.exp()

    def size(self, eta: Tensor) -> Tensor:
        return (eta / self._strength).log().clamp_min(0.0)


@final
class VariationalDropout(EffectivePenalty):
    """Half the least ``w^2 / eta + 2 divergence``, where the noise has variance ``1 / eta``; the strength is 1.

    References
    ----------
    Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017, equation 14.
    """

    def value(self, size: Tensor) -> Tensor:
        eta = self.eta(size).clamp_min(TINY)
        return (size.square() / eta + self.dual(eta)) / 2

    def eta(self, size: Tensor) -> Tensor:
        return torch.where(size > 0, _inverse(_log_size, size.clamp_min(TINY).log(), FARTHEST_LOG).exp(), 0.0)

    def dual(self, eta: Tensor) -> Tensor:
        return 2 * divergence(-eta.log())


def divergence(log_alpha: Tensor) -> Tensor:
    """KL divergence of a weight with multiplicative noise of variance alpha from the log-uniform prior, approximated.

    Up to a constant, so that it vanishes for endless noise.

    References
    ----------
    Molchanov, Ashukha, Vetrov, ICML 2017, equation 14.
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + softplus(-log_alpha) / 2


def _log_size(log_eta: Tensor) -> Tensor:
    """Logarithm of the magnitude with this minimiser, ``eta sqrt(dual'(eta))``, in variational dropout."""
    kept = torch.sigmoid(K3 * log_eta - K2)
    slope = K1 * K3 * kept * (1 - kept) + torch.sigmoid(log_eta) / 2
    return (log_eta + (2 * slope).log()) / 2


@final
class HardConcrete(EffectivePenalty):
    """Half the least ``w^2 / eta + P(open)``, where a gate has ``eta = E[gate]^2 / Var[gate]``; the strength is 1.

    The gate is a binary concrete variable, stretched and clipped to [0, 1]; its location decides both.

    References
    ----------
    Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", ICLR 2018, equations 10-12.
    """

    def value(self, size: Tensor) -> Tensor:
        return self._bound(size, self._location(size)) / 2

    def eta(self, size: Tensor) -> Tensor:
        return self._log_eta(self._location(size)).exp()

    def dual(self, eta: Tensor) -> Tensor:
        return self._chance(_inverse(self._log_eta, eta.log(), FARTHEST))

    def _location(self, size: Tensor) -> Tensor:
        """The best location, to about 1e-8: the least of a grid, then golden sections beside it."""
        grid = torch.linspace(-FARTHEST, FARTHEST, GRID, dtype=size.dtype)
        best = grid[self._bound(size[..., None], grid).argmin(dim=-1)]
        low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
        for _ in range(SECTIONS):
            inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            left = self._bound(size, inner) < self._bound(size, outer)
            low, high = torch.where(left, low, inner), torch.where(left, outer, high)
        return (low + high) / 2

    def _bound(self, size: Tensor, location: Tensor) -> Tensor:
        return size.square() * (-self._log_eta(location)).exp() + self._chance(location)

    def _chance(self, location: Tensor) -> Tensor:
        """That the gate is not zero."""
        return torch.sigmoid(location - SHUT)

    def _log_eta(self, location: Tensor) -> Tensor:
        """By Gauss-Legendre quadrature over the logit of the gate's uniform variable."""
        nodes, weights = (torch.as_tensor(x, dtype=location.dtype) for x in leggauss(NODES))
        logit = (OPEN + SHUT) / 2 + (OPEN - SHUT) / 2 * nodes
        gate = torch.sigmoid(logit / TEMPERATURE) * (HIGH - LOW) + LOW
        uniform = torch.sigmoid(logit - location[..., None])
        weights = weights * (OPEN - SHUT) / 2 * uniform * (1 - uniform)
        wide = torch.sigmoid(location - OPEN)
        mean, square = (gate * weights).sum(dim=-1) + wide, (gate.square() * weights).sum(dim=-1) + wide
        return 2 * mean.log() - (square - mean.square()).log()


def _inverse(increasing: Callable[[Tensor], Tensor], value: Tensor, farthest: float) -> Tensor:
    """Where an increasing function has a value, by bisection between minus and plus `farthest`."""
    low, high = torch.full_like(value, -farthest), torch.full_like(value, farthest)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = increasing(middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise InvalidSpec(f"{name} {value} must be above {bound}")
