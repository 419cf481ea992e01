"""What users write by hand: proximal Adam on a logarithmic grid of strengths."""

from collections.abc import Iterator
from itertools import count, islice
from typing import Literal, final

import numpy as np
from torch import Tensor

from benchmarks.rivals.adam import Adam
from benchmarks.rivals.base import Network, Rival, Task, stored
from engine.losses import Batch, Loss
from engine.penalties.l1 import soft

SHARE, SMALLEST, LARGEST = 48, 32, 256
DECAY = 0.9
FLOOR = 3e-3


@final
class LambdaGrid(Rival):
    """Minimise ``loss + lam l1`` for each strength of a grid.

    Parameters
    ----------
    start : str
        "warm": from weak to strong, each from where the one before ended; "cold": each from the first weights.
    steps, first : int
        Steps per strength, and for those that start from the first weights.
    rate : float
        Adam's learning rate, which falls to a tenth in the course of the steps.

    References
    ----------
    Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate descent", JSS 33,
    2010, section 2.5 (warm starts); Yun, Lozano, Yang, "Adaptive proximal gradient methods for structured neural
    networks", NeurIPS 2021 (the step).
    """

    shrinks = True

    def __init__(
        self, start: Literal["warm", "cold"] = "warm", steps: int = 120, first: int = 480, rate: float = 1e-2
    ) -> None:
        self._start, self._steps, self._first, self._rate = start, steps, first, rate

    def networks(self, task: Task) -> Iterator[Network]:
        theta = task.loss.initial()
        for i, lam in enumerate(np.geomspace(*task.strengths, task.points)):
            cold = i == 0 or self._start == "cold"
            steps = self._first if cold else self._steps
            start = task.loss.initial() if cold else theta
            theta = self._minimised(task.loss, start, float(lam), list(batches(task.loss, task.seed * 1000 + i, steps)))
            yield stored(task.loss, theta)

    def _minimised(self, loss: Loss, theta: Tensor, lam: float, order: list[Batch]) -> Tensor:
        adam = Adam(theta, FLOOR)
        for done, batch in enumerate(order):
            rate = self._rate * (1 - DECAY * done / len(order))
            step, size = adam.step(loss.value_and_grad(theta, batch)[1], rate)
            theta = soft(theta - step, lam * size)
        return theta


def batches(loss: Loss, seed: int, steps: int) -> Iterator[Batch]:
    """So many mini-batches of a 48th of the data, of 32 to 256 samples."""
    size = min(max(round(loss.n_samples / SHARE), SMALLEST), LARGEST)
    passes = (loss.batches(seed + 7919 * epoch, size) for epoch in count())
    return islice((batch for one in passes for batch in one), steps)
