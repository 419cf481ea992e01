"""Adam on a flat vector, as every textbook has it: the rivals' optimiser, independent of the product's correctors."""

from typing import final

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@final
class Adam:
    """Direction and metric of Adam's steps.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
        Gives shape, type and device.
    floor : float
        Least value of the metric: weights without a gradient keep a finite step size.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1.
    """

    def __init__(self, theta: Tensor, floor: float = EPSILON) -> None:
        self._mean, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._done, self._floor = 0, floor

    def step(self, grad: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """What to subtract from the weights, and each weight's step size, both of shape (n_params,)."""
        self._done += 1
        self._mean.lerp_(grad, 1 - BETA_1)
        self._square.mul_(BETA_2).addcmul_(grad, grad, value=1 - BETA_2)
        size = (self._square / (1 - BETA_2**self._done)).sqrt_().clamp_min_(self._floor).reciprocal_().mul_(rate)
        return size * self._mean / (1 - BETA_1**self._done), size
