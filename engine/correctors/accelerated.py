"""Accelerated proximal steps on mini-batches: the work horse far from and along the front."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, batch_size, fell, hold, mini_batches
from engine.losses import Batch, Loss
from engine.problem import Problem, State

FIRST_STEP = 0.1
GROWTH = 1.5
BATCH_SHARE, LARGEST_BATCH = 9, 1024
STEPS_PER_LOOK = 9


@dataclass
class _Run:
    """The running state: the last iterate, the point extrapolated from it, and the longest safe step."""

    theta: Tensor
    ahead: Tensor
    longest: float
    age: int = 0

    def move(self, new: Tensor) -> None:
        """Accept `new` and extrapolate, starting over where momentum points uphill."""
        uphill = (self.ahead - new) @ (new - self.theta) > 0
        self.age = 0 if bool(uphill) else self.age
        self.ahead = new + self.age / (self.age + 3) * (new - self.theta)
        self.theta, self.age = new, self.age + 1


@final
class Accelerated(Corrector):
    """Nesterov's steps on mini-batches with gradient restarts; the step size follows the curvature that it meets.

    Parameters
    ----------
    held : str
        "strength" or "penalty".
    epochs : int, optional
        Passes over the data; as many as make up `steps` if None.
    steps : int
        Steps where `epochs` is not given; more where the samples are few.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    rate : float
        Step size as a share of the longest one that the curvature along a step allows.

    References
    ----------
    Nesterov, "Gradient methods for minimizing composite functions", Math. Programming 140, 2013.
    O'Donoghue, Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.
    """

    def __init__(
        self,
        held: Literal["strength", "penalty"] = "penalty",
        epochs: int | None = None,
        batch: int | None = None,
        rate: float = 0.5,
        steps: int = 54,
    ) -> None:
        self._held, self._epochs, self._batch, self._rate, self._steps = held, epochs, batch, rate, steps

    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        keep = hold(self._held, guess)
        theta = keep(problem.penalty, guess.theta, 1.0) if self._held == "penalty" else guess.theta
        run = _Run(theta, theta, guess.step or FIRST_STEP)
        size = self._batch or batch_size(problem.loss, BATCH_SHARE, LARGEST_BATCH)
        losses = []
        for i, batch in enumerate(mini_batches(problem.loss, seed, size, self._epochs, self._steps)):
            losses.append(self._step(problem, keep, run, batch, i % STEPS_PER_LOOK == 0))
        problem.loss.calibrate(run.theta)
        state = replace(guess, theta=run.theta, buffers=problem.loss.buffers, step=run.longest)
        return Correction(state, fell=fell(losses))

    def _step(self, problem: Problem, keep: Hold, run: _Run, batch: Batch, look: bool) -> Tensor:
        """Move on; the mini-batch's loss."""
        value, grad = problem.loss.value_and_grad(run.ahead, batch)
        step = self._rate * run.longest
        new = keep(problem.penalty, run.ahead - step * grad, step)
        if look:
            run.longest = _longest(problem.loss, batch, run, new, grad)
        run.move(new)
        return value


def _longest(loss: Loss, batch: Batch, run: _Run, new: Tensor, grad: Tensor) -> float:
    """The inverse of the curvature that one step met; it falls at once and rises slowly."""
    _, ahead = loss.value_and_grad(new, batch)
    moved, turned = float((new - run.ahead).norm()), float((ahead - grad).norm())
    if not moved > 0 or not turned > 0:
        return run.longest
    met = moved / turned
    return met if met < run.longest else min(math.sqrt(met * run.longest), GROWTH * run.longest)
