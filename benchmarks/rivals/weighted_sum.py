"""The reference paper's baseline, as released: Adam on a weighted sum of loss and l1 norm, without a proximal step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from torch import Tensor

from benchmarks.rivals.adam import Adam
from benchmarks.rivals.base import Network, Rival, Setup, Task, stored


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Hyper-parameters of the released baseline.

    Parameters
    ----------
    points : int
        Weights of the loss, evenly from 0 to 1.
    scale : float
        What the l1 norm is divided by.
    epochs, batches : int
        Passes per weight, mini-batches per pass.
    decay : float
        Weight decay.
    again : bool
        Whether every weight starts from the first weights, else from where the one before ended.
    """

    points: int
    scale: float
    epochs: int
    batches: int
    decay: float = 0.0
    again: bool = False


RATE = 1e-3
MNIST = Settings(44, 44.0, 200, 10)
CIFAR = Settings(20, 8.156767845, 118, 64, 1e-4, again=True)
SETTINGS: dict[Setup, Settings] = {"iris": MNIST, "mnist": MNIST, "cifar": CIFAR}


@final
class WeightedSum(Rival):
    """Minimise ``w loss + (1 - w) l1 / scale`` for each w, by its gradient.

    References
    ----------
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025 (released code of the comparison).
    """

    def __init__(self, shorter: float = 1.0) -> None:
        self._shorter = shorter

    def networks(self, task: Task) -> Iterator[Network]:
        settings = _shortened(SETTINGS[task.setup], self._shorter)
        theta = task.loss.initial()
        for i, weight in enumerate(np.linspace(0, 1, settings.points)):
            start = task.loss.initial() if settings.again else theta
            theta = _trained(task, start, float(weight), settings, task.seed * 1000 + i)
            yield stored(task.loss, theta)


def _shortened(settings: Settings, share: float) -> Settings:
    fewer = {name: max(1, round(share * getattr(settings, name))) for name in ("points", "epochs")}
    return replace(settings, **fewer)


def _trained(task: Task, theta: Tensor, weight: float, settings: Settings, seed: int) -> Tensor:
    adam, size = Adam(theta), max(1, round(task.loss.n_samples / settings.batches))
    for epoch in range(settings.epochs):
        for batch in task.loss.batches(seed * 1000 + epoch, size):
            grad = weight * task.loss.value_and_grad(theta, batch)[1]
            grad += (1 - weight) / settings.scale * task.problem.penalty.subgradient(theta) + settings.decay * theta
            theta = theta - adam.step(grad, RATE)[0]
    return theta
