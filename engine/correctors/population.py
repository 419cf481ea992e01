"""Proximal steps in Adam's metric for many members at once, each with a constraint of its own."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from engine.correctors.base import batch_size, mini_batches
from engine.penalties.rows import Rows
from engine.population import PopulationLoss

FIRST_WINDOW, LAST_WINDOW = 10, 50
BETA = 0.999
WARM_UP, DECAY = 0.15, 0.05
FLOOR = 1e-3
REACHED = 0.5
STEPS_PER_LOOK = 10
BATCH_SHARE, LARGEST_BATCH = 48, 256


class PopulationHold(ABC):
    """What each member holds still while its loss falls; approached in the first half of a descent."""

    @abstractmethod
    def __call__(self, thetas: Tensor, step: Tensor, done: float) -> Tensor:
        """Members after their gradient steps, brought back.

        Parameters
        ----------
        thetas, step : Tensor, shape (n_members, n_params)
        done : float
            Share of the descent that is behind, in [0, 1].
        """


@final
class Strengths(PopulationHold):
    """Hold each member's strength; it grows from a hundredth, since strong penalties end fresh networks at zero.

    Parameters
    ----------
    rows : Rows
    strengths : Tensor, shape (n_members, 1)
    """

    RELAXED = 1e-2

    def __init__(self, rows: Rows, strengths: Tensor) -> None:
        self._rows, self._strengths = rows, strengths

    def __call__(self, thetas: Tensor, step: Tensor, done: float) -> Tensor:
        return self._rows.prox(thetas, step * self._strengths * self.RELAXED ** (1 - _approached(done)))


@final
class Balls(PopulationHold):
    """Hold each member in its own ball of the penalty, which shrinks around it from the size it starts with.

    Parameters
    ----------
    rows : Rows
    radii : Tensor, shape (n_members, 1)
        Above 0.
    thetas : Tensor, shape (n_members, n_params)
        Where the members start.
    """

    def __init__(self, rows: Rows, radii: Tensor, thetas: Tensor) -> None:
        self._rows, self._radii = rows, radii
        self._stretch = (rows.value(thetas).unsqueeze(1) / radii).clamp_min(1.0)
        self._multipliers = torch.zeros_like(radii)

    def __call__(self, thetas: Tensor, step: Tensor, done: float) -> Tensor:
        radii = self._radii * self._stretch ** (1 - _approached(done))
        held, self._multipliers = self._rows.project(thetas, radii, step, self._multipliers)
        return held


@final
class PopulationDescent:
    """What `AdaptiveProximal` does for one member, for all of them on shared mini-batches.

    A member's learning rate is a share of the mean size of its weights that are not zero. Nothing waits for the device.

    Parameters
    ----------
    epochs : int, optional
        Passes over the data; as many as make up `steps` if None.
    steps : int
        Steps where `epochs` is not given; more where the samples are few.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    rate : float
        Learning rate as a share of a member's mean nonzero weight.

    References
    ----------
    Yun, Lozano, Yang, "Adaptive proximal gradient methods for structured neural networks" (ProxGEN), NeurIPS 2021.
    """

    def __init__(
        self, epochs: int | None = None, steps: int = 120, batch: int | None = None, rate: float = 0.1
    ) -> None:
        self._epochs, self._steps, self._batch, self._rate = epochs, steps, batch, rate

    def descend(self, loss: PopulationLoss, hold: PopulationHold, thetas: Tensor, seed: int) -> Tensor:
        """The members, shape (n_members, n_params), after all steps; `seed` decides the mini-batches."""
        mean, square, weight = torch.zeros_like(thetas), torch.zeros_like(thetas), 0.0
        size = self._batch or batch_size(loss.loss, BATCH_SHARE, LARGEST_BATCH)
        batches = list(mini_batches(loss.loss, seed, size, self._epochs, self._steps))
        sizes = _mean_size(thetas)
        for i, batch in enumerate(batches):
            begun, done = i / len(batches), (i + 1) / len(batches)
            _, grads = loss.value_and_grad(thetas, batch)
            new = 1 / (FIRST_WINDOW + (LAST_WINDOW - FIRST_WINDOW) * begun)
            weight += new * (1 - weight)
            mean.lerp_(grads, new)
            square.lerp_(grads.square(), 1 - BETA)
            if i % STEPS_PER_LOOK == 0:
                sizes = _mean_size(thetas)
            metric = (square / (1 - BETA ** (i + 1))).sqrt_().clamp_min_(FLOOR)
            step = self._rate * _schedule(begun, done) * sizes / metric
            thetas = hold(thetas - step * mean / weight, step, done)
        return thetas


def _schedule(begun: float, done: float) -> float:
    """Share of the learning rate: up from nothing while Adam's averages still follow single batches, then down."""
    return min(1.0, done / WARM_UP) * (1 - (1 - DECAY) * begun)


def _approached(done: float) -> float:
    return min(1.0, done / REACHED)


def _mean_size(thetas: Tensor) -> Tensor:
    """Mean magnitude of each row's nonzero weights, shape (n_rows, 1); 1 where all are zero."""
    count = thetas.count_nonzero(dim=1).unsqueeze(1)
    return torch.where(count > 0, thetas.abs().sum(dim=1, keepdim=True) / count.clamp_min(1), 1.0)
