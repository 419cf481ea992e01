"""What every corrector promises, and the two things it can hold still."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import final

import torch
from torch import Tensor

from engine.losses import Batch, Loss, charging
from engine.penalties.base import Penalty, Step
from engine.problem import Problem, State

FIRST_STEP = 1.0
LONGEST_STEP = 1e3
SHORTEST_STEP = 1e-12
FEW_SAMPLES = 1000
SMALLEST_BATCH = 32


@dataclass(frozen=True, slots=True)
class Correction:
    """Where a corrector ended.

    Parameters
    ----------
    state : State
        Its `lam` and `level` are the guess's; what was not held still is for the caller to measure.
    converged : bool
        Whether the corrector met its own tolerance; not converging is an answer, not an error.
    fell : bool
        Whether the loss of the last mini-batches was below that of the first, as far as a corrector goes by batches.
    """

    state: State
    converged: bool = False
    fell: bool = True


class Corrector(ABC):
    """From a guess back to the set of Pareto critical points."""

    @final
    def correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        """Improve the guess, holding still what this corrector holds; units that are cut off are left out meanwhile.

        Parameters
        ----------
        seed : int
            Decides the mini-batches, if there are any.
        """
        smaller = problem.shrunk(guess.theta)
        if smaller is None:
            return self._correct(problem, guess, seed)
        with charging(smaller.problem.loss, problem.loss):
            found = self._correct(smaller.problem, smaller.part(guess), seed)
        return replace(found, state=smaller.whole(found.state))

    @abstractmethod
    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        """Improve the guess, all of whose weights may change."""


class Hold(ABC):
    """The constraint half of a proximal step: what is held still while the loss falls."""

    @abstractmethod
    def __call__(self, penalty: Penalty, theta: Tensor, step: Step) -> Tensor:
        """`theta` after its gradient step, brought back; `step` (float or shape (n_params,)) is that step's size."""

    @abstractmethod
    def restore_(self, penalty: Penalty, theta: Tensor, step: Tensor, exactly: bool) -> None:
        """Bring `theta` back in place, step after step of one correction; `step`, shape (n_params,), is used up.

        Parameters
        ----------
        exactly : bool
            Where this is false, the penalty may stay off its level by an error of second order in what a step changes.
        """

    @abstractmethod
    def ease(self, pressure: float) -> None:
        """Hold `pressure` times what was asked for from now on."""


@final
class Strength(Hold):
    """Hold the strength: the proximal operator of ``step * lam * penalty``."""

    def __init__(self, lam: float) -> None:
        self._lam, self._pressure = lam, 1.0

    def __call__(self, penalty: Penalty, theta: Tensor, step: Step) -> Tensor:
        return penalty.prox(theta, step * self._lam * self._pressure)

    def restore_(self, penalty: Penalty, theta: Tensor, step: Tensor, exactly: bool) -> None:
        penalty.prox_(theta, step.mul_(self._lam * self._pressure))

    def ease(self, pressure: float) -> None:
        self._pressure = pressure


@final
class Level(Hold):
    """Hold the penalty: the projection onto its ball in the step's metric, whose multiplier is the strength.

    References
    ----------
    Haimes, Lasdon, Wismer, "On a bicriterion formulation ...", IEEE Trans. SMC 1, 1971 (the epsilon-constraint method).
    """

    def __init__(self, level: float) -> None:
        self._level, self._pressure = level, 1.0
        self._multiplier: Tensor | None = None

    def __call__(self, penalty: Penalty, theta: Tensor, step: Step) -> Tensor:
        return penalty.project(theta, self._level * self._pressure, step)[0]

    def restore_(self, penalty: Penalty, theta: Tensor, step: Tensor, exactly: bool) -> None:
        near = None if exactly else self._multiplier
        self._multiplier = penalty.project_(theta, self._level * self._pressure, step, near)

    def ease(self, pressure: float) -> None:
        self._pressure = pressure


def hold(what: str, guess: State) -> Hold:
    """The guess's ``strength`` or its ``penalty``."""
    return Strength(guess.lam) if what == "strength" else Level(guess.level)


def fell(losses: Sequence[Tensor]) -> bool:
    """Whether the last tenth of the mini-batches' losses, 0-d, has a lower mean than the first; false for NaN."""
    if not losses:
        return True
    tenth = math.ceil(len(losses) / 10)
    values = torch.stack(list(losses))
    return bool(values[-tenth:].mean() < values[:tenth].mean())


def longest_step(loss: Loss, theta: Tensor, step: float | None, batch: Batch | None) -> float:
    """The longest gradient step, within a factor of two, that the curvature along the gradient allows.

    Parameters
    ----------
    step : float or None
        Where to start looking; a step that worked nearby saves evaluations.

    References
    ----------
    Beck, Teboulle, SIAM J. Imaging Sciences 2, 2009, Lemma 2.3 (the descent lemma as a test).
    """
    value, grad = loss.value_and_grad(theta, batch)
    square = float(grad @ grad)

    def allowed(length: float) -> bool:
        lower, _ = loss.value_and_grad(theta - length * grad, batch)
        return math.isfinite(lower) and float(value - lower) >= length * square / 2

    length = step or FIRST_STEP
    if square == 0.0:
        return length
    if allowed(length):
        return 2 * length if length < LONGEST_STEP and allowed(2 * length) else length
    while length > SHORTEST_STEP and not allowed(length):
        length /= 2
    return length


def batch_size(loss: Loss, share: int, largest: int) -> int:
    """One `share`-th of the data, as far as that is a fit size for a mini-batch (docs/decisions/0005)."""
    return min(max(round(loss.n_samples / share), SMALLEST_BATCH), largest)


def mini_batches(loss: Loss, seed: int, size: int, epochs: int | None, steps: int) -> Iterator[Batch]:
    """The batches of `epochs` passes over the data, or of `steps` steps; more where samples are few and steps cheap.

    They are fewer, but one at least, where the loss's limit is near.
    """
    enough = math.ceil(steps * max(1.0, math.sqrt(FEW_SAMPLES / loss.n_samples)))
    each = (loss.batches(seed + 7919 * epoch, size) for epoch in (count() if epochs is None else range(epochs)))
    wanted = islice((batch for epoch in each for batch in epoch), enough if epochs is None else None)
    left = (loss.limit - loss.effort) * loss.n_samples / size
    yield from wanted if math.isinf(left) else islice(wanted, max(1, math.floor(left)) if steps else 0)
