"""Accelerated proximal steps on mini-batches: the work horse far from and along the front."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, batch_size, fell, hold, mini_batches
from engine.losses import Batch, Loss
from engine.penalties.base import Penalty
from engine.problem import Problem, State

FIRST_STEP = 0.1
GROWTH = 1.5
BATCH_SHARE, LARGEST_BATCH = 9, 1024
STEPS_PER_LOOK = 9


@dataclass
class _Run:
    """The last iterate, the point extrapolated from it, the longest safe step, and the momentum's age; both 0-d."""

    theta: Tensor
    ahead: Tensor
    longest: Tensor
    age: Tensor

    def move(self, new: Tensor) -> None:
        """Accept `new` and extrapolate, starting over where momentum points uphill."""
        uphill = (self.ahead - new) @ (new - self.theta) > 0
        age = torch.where(uphill, 0.0, self.age)
        self.ahead = new + age / (age + 3) * (new - self.theta)
        self.theta, self.age = new, age + 1


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
        run = _Run(theta, theta, torch.full_like(theta[0], guess.step or FIRST_STEP), torch.zeros_like(theta[0]))
        size = self._batch or batch_size(problem.loss, BATCH_SHARE, LARGEST_BATCH)
        losses, batches = list[Tensor](), tuple(mini_batches(problem.loss, seed, size, self._epochs, self._steps))
        for i, batch in enumerate(batches):
            kept = partial(self._kept, problem.penalty, keep, i == len(batches) - 1)
            losses.append(self._step(problem, kept, run, batch, i % STEPS_PER_LOOK == 0))
        problem.loss.calibrate(run.theta)
        state = replace(guess, theta=run.theta, buffers=problem.loss.buffers, step=float(run.longest))
        return Correction(state, fell=fell(losses))

    def _kept(self, penalty: Penalty, keep: Hold, exactly: bool, theta: Tensor, step: Tensor) -> Tensor:
        """`theta` brought back after a step of a size, 0-d; held strengths have closed forms for sizes that are one."""
        if self._held == "strength":
            return keep(penalty, theta, step)
        keep.restore_(penalty, theta, step.expand_as(theta).clone(), exactly)
        return theta

    def _step(
        self, problem: Problem, kept: Callable[[Tensor, Tensor], Tensor], run: _Run, batch: Batch, look: bool
    ) -> Tensor:
        """Move on; the mini-batch's loss."""
        value, grad = problem.loss.value_and_grad(run.ahead, batch)
        step = self._rate * run.longest
        new = kept(run.ahead - step * grad, step)
        if look:
            run.longest = _longest(problem.loss, batch, run, new, grad)
        run.move(new)
        return value


def _longest(loss: Loss, batch: Batch, run: _Run, new: Tensor, grad: Tensor) -> Tensor:
    """The inverse of the curvature that one step met; it falls at once and rises slowly."""
    _, ahead = loss.value_and_grad(new, batch)
    moved, turned = (new - run.ahead).norm(), (ahead - grad).norm()
    met = moved / turned
    rising = torch.minimum((met * run.longest).sqrt(), GROWTH * run.longest)
    return torch.where((moved > 0) & (turned > 0), torch.where(met < run.longest, met, rising), run.longest)
