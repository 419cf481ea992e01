"""The reference paper's continuation, as released: its steps, its order, and its deviations from the paper's text."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from benchmarks.rivals.adam import Adam
from benchmarks.rivals.base import Network, Rival, Setup, Task, stored
from engine.losses import Batch, Loss

BISECTIONS = 10
SEEDS_APART = 10**6


@final
@dataclass(frozen=True, slots=True)
class Stochastic:
    """Hyper-parameters of the released experiments with mini-batches.

    Parameters
    ----------
    step, shrink : float
        Step size h of a correction, threshold s_r of a shrinkage.
    batches : int
        Mini-batches per pass: the released batch sizes in proportion to the data.
    first : int
        Passes to the first point.
    denser, sparser : int
        Points in each direction.
    corrector : int
        Passes per correction.
    rate, decay : float
        Learning rate and weight decay of the predictor's Adam.
    shrinks : int
        Shrinkages per prediction.
    predictor : int
        Passes of Adam per prediction.
    """

    step: float
    shrink: float
    batches: int
    first: int
    denser: int
    sparser: int
    corrector: int
    rate: float
    decay: float
    shrinks: int
    predictor: int = 7

    def shortened(self, share: float) -> "Stochastic":
        """With this share of the passes and points, at least one of each."""
        named = ("first", "denser", "sparser", "corrector", "predictor")
        return replace(self, **{name: _share(getattr(self, name), share) for name in named})


@final
@dataclass(frozen=True, slots=True)
class Deterministic:
    """Hyper-parameters of the deterministic experiment: full gradients, no acceleration."""

    step: float = 5e-2
    shrink: float = 5e-3
    shrinks: int = 10_000
    first: int = 10_000
    denser: int = 40
    sparser: int = 2
    corrector: int = 200
    predictor: int = 10_000
    rate: float = 5e-2
    most_growth: float = 1.0
    most_fall: float = 0.1
    tolerance: float = 1e-2

    def shortened(self, share: float) -> "Deterministic":
        """With this share of the steps and points, at least one of each."""
        named = ("first", "denser", "sparser", "corrector", "predictor")
        return replace(self, **{name: _share(getattr(self, name), share) for name in named})


def _share(count: int, share: float) -> int:
    return max(1, round(share * count))


IRIS = Deterministic()
MNIST = Stochastic(1e-1, 5e-4, 10, 500, 25, 18, 20, 1e-3, 0.0, 7)
CIFAR = Stochastic(1e-3, 5e-3, 64, 2000, 10, 10, 25, 3e-4, 1e-8, 2)
SETUPS: dict[Setup, Deterministic | Stochastic] = {"iris": IRIS, "mnist": MNIST, "cifar": CIFAR}


def multiobjective_step(theta: Tensor, grad: Tensor, step: float) -> Tensor:
    """One multiobjective proximal gradient step, its trade-off found in ten bisections.

    Parameters
    ----------
    theta, grad : Tensor, shape (n_params,)
    step : float
        Step size h.

    References
    ----------
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025, Algorithm 1 (released code: the schedule).
    """
    alpha, before = 0.5, float(grad @ theta - torch.linalg.vector_norm(theta, 1))
    moved = torch.empty_like(theta)
    for j in range(BISECTIONS):
        y = _shifted(theta, grad, step, alpha, moved)
        slope = float(grad @ y - torch.linalg.vector_norm(y, 1)) - before
        alpha += 2.0 ** -(j + 2) if slope > 0 else -(2.0 ** -(j + 2))
    return _shifted(theta, grad, step, alpha, moved)


def _shifted(theta: Tensor, grad: Tensor, step: float, alpha: float, moved: Tensor) -> Tensor:
    torch.add(theta, grad, alpha=-step * alpha, out=moved)
    return softshrink(moved, step * (1 - alpha))


@final
class Momentum:
    """The released extrapolation: it remembers its own last extrapolation and restarts when that raises the l1 norm.

    Parameters
    ----------
    constant : float
        The released code's ``alpha``.

    References
    ----------
    Amakor, Sonntag, Peitz, released code (github.com/aamakor/continuation-method, e182d70).
    """

    def __init__(self, constant: float = 2.0) -> None:
        self._constant = constant
        self._age, self._before = 0, torch.empty(0)

    def ahead(self, theta: Tensor) -> Tensor:
        """Where the next gradient is taken; of the first call the weights themselves."""
        before = self._before if len(self._before) else theta
        extrapolated = torch.lerp(theta, before, -(self._age - 1) / (self._age + self._constant))
        if torch.linalg.vector_norm(extrapolated, 1) > torch.linalg.vector_norm(theta, 1):
            self._before, self._age = theta, 0
            return theta
        self._before, self._age = extrapolated, self._age + 1
        return extrapolated


@final
class Amakor(Rival):
    """First point, then towards lower loss by Adam and correction, then back to it and sparser by shrinkage.

    References
    ----------
    Amakor, Sonntag, Peitz, "A multiobjective continuation method to compute the regularization path of deep neural
    networks", Machine Learning with Applications 19, 2025, Algorithm 2.
    """

    shrinks = True

    def __init__(self, shorter: float = 1.0) -> None:
        self._shorter = shorter

    def networks(self, task: Task) -> Iterator[Network]:
        setup = SETUPS[task.setup].shortened(self._shorter)
        if isinstance(setup, Deterministic):
            return points_of_iris(task.loss, setup)
        return _Run(task.loss, setup, task.seed).networks()


@final
class _Run:
    def __init__(self, loss: Loss, setup: Stochastic, seed: int) -> None:
        self._loss, self._setup, self._seed = loss, setup, seed
        self._momentum, self._epoch = Momentum(), 0

    def networks(self) -> Iterator[Network]:
        theta = self._loss.initial()
        adam = Adam(theta)
        first = theta = self._corrected(theta, self._setup.first)
        yield stored(self._loss, first)
        for _ in range(self._setup.denser):
            theta = self._corrected(self._denser(theta, adam), self._setup.corrector)
            yield stored(self._loss, theta)
        theta = first
        for _ in range(self._setup.sparser):
            shrunk = softshrink(theta, self._setup.shrinks * self._setup.shrink)
            theta = self._corrected(shrunk, self._setup.corrector)
            yield stored(self._loss, theta)

    def _corrected(self, theta: Tensor, epochs: int) -> Tensor:
        for batch in self._batches(epochs):
            theta = self._momentum.ahead(theta)
            _, grad = self._loss.value_and_grad(theta, batch)
            theta = multiobjective_step(theta, grad, self._setup.step)
        return theta

    def _denser(self, theta: Tensor, adam: Adam) -> Tensor:
        for batch in self._batches(self._setup.predictor):
            _, grad = self._loss.value_and_grad(theta, batch)
            theta = theta - adam.step(grad.add(theta, alpha=self._setup.decay), self._setup.rate)[0]
        return theta

    def _batches(self, epochs: int) -> Iterator[Batch]:
        for _ in range(epochs):
            self._epoch += 1
            size = max(1, round(self._loss.n_samples / self._setup.batches))
            yield from self._loss.batches(self._seed * SEEDS_APART + self._epoch, size)


def points_of_iris(loss: Loss, setup: Deterministic) -> Iterator[Network]:
    first = _descended(loss, loss.initial(), setup.first, setup)
    yield stored(loss, first)
    theta = first
    for _ in range(setup.denser):
        theta = _descended(loss, _gradient_predicted(loss, theta, setup), setup.corrector, setup)
        yield stored(loss, theta)
    theta = first
    for _ in range(setup.sparser):
        theta = _descended(loss, softshrink(theta, setup.shrinks * setup.shrink), setup.corrector, setup)
        yield stored(loss, theta)


def _descended(loss: Loss, theta: Tensor, steps: int, setup: Deterministic) -> Tensor:
    for _ in range(steps):
        theta = multiobjective_step(theta, loss.value_and_grad(theta)[1], setup.step)
        if torch.linalg.vector_norm(theta) < setup.tolerance:
            break
    return theta


def _gradient_predicted(loss: Loss, theta: Tensor, setup: Deterministic) -> Tensor:
    """Gradient steps, until one after the loss has fallen, or the l1 norm has grown, by as much as a prediction may."""
    value, grad = loss.value_and_grad(theta)
    least, most = float(value) - setup.most_fall, float(torch.linalg.vector_norm(theta, 1)) + setup.most_growth
    for _ in range(setup.predictor):
        enough = value < least or torch.linalg.vector_norm(theta, 1) > most
        theta = theta - setup.rate * grad
        if enough:
            break
        value, grad = loss.value_and_grad(theta)
    return theta
