"""The l1 norm: sum of magnitudes."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from engine.losses import Block
from engine.penalties.base import Penalty, Step, selection


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
        self.penalised = selection(blocks, parameters)
        self._weight = None if bool(self.penalised.all()) else self.penalised

    def value(self, theta: Tensor) -> Tensor:
        return self._weigh(theta.abs()).sum()

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        if self._weight is None:
            return soft(theta, step)
        return soft(theta, self._weigh(torch.as_tensor(step, dtype=theta.dtype, device=theta.device)))

    def subgradient(self, theta: Tensor) -> Tensor:
        return self._weigh(theta.sign())

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        """Newton's iteration on the multiplier: finite, since the excess is piecewise linear and convex.

        References
        ----------
        Michelot, "A finite algorithm for finding the projection onto the canonical simplex", JOTA 50, 1986.
        """
        magnitude = self._weigh(theta.abs())
        inverse = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device)
        multiplier = _crossing(magnitude, self._weigh(inverse.expand_as(theta)), radius)
        return self.prox(theta, multiplier * inverse), multiplier

    def _weigh(self, values: Tensor) -> Tensor:
        if self._weight is None:
            return values
        self._weight = self._weight.to(values.device)
        return values * self._weight


def soft(theta: Tensor, threshold: Step) -> Tensor:
    """Soft-thresholding ``sign(theta) max(|theta| - threshold, 0)``, elementwise."""
    bound = torch.as_tensor(threshold, dtype=theta.dtype, device=theta.device)
    return theta - theta.clamp(-bound, bound)


def _crossing(magnitude: Tensor, inverse: Tensor, radius: float) -> Tensor:
    """The least t >= 0 with ``sum(max(magnitude - t * inverse, 0)) <= radius``."""
    t = torch.zeros((), dtype=magnitude.dtype, device=magnitude.device)
    for _ in range(100):
        active = magnitude > t * inverse
        excess = (magnitude * active).sum() - radius
        following = (excess / (inverse * active).sum().clamp_min(1e-30)).clamp_min(0.0)
        if not following > t:
            break
        t = following
    return t
