"""Proximal steps in Adam's metric on mini-batches: for networks whose layers have very different scales."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, batch_size, fell, hold, mini_batches
from engine.problem import Problem, State
from engine.stretches import stretches

FIRST_WINDOW = 10
BETA = 0.99
RECOVERY = 1.3
WARM_UP, EASED = 0.1, 0.9
BATCH_SHARE, LARGEST_BATCH = 48, 256
FLOOR = 3e-3
TRIM = 0.02


@final
@dataclass(frozen=True, slots=True)
class Pace:
    """How long steps are, and how much of the past goes into them.

    Parameters
    ----------
    rate : float
        Highest learning rate. A guess may bring along which share of it is to be used; that share is slowly raised
        again.
    trust : float
        Highest learning rate as a share of the mean size of the weights that are not zero.
    decay : float
        Share of the learning rate that is left at the end.
    window : float
        Steps that the gradient is averaged over in the end; ten at first.
    pressure : float
        How many times the strength is held at first; it eases to the strength itself over nine tenths of the steps.
    """

    rate: float = 3e-2
    trust: float = 0.1
    decay: float = 0.1
    window: float = 50
    pressure: float = 1.0

    def first(self, theta: Tensor) -> float:
        """Learning rate for these weights."""
        nonzeros = int(theta.count_nonzero())
        return min(self.rate, self.trust * float(theta.abs().sum()) / nonzeros) if nonzeros else self.rate

    def share(self, begun: float, done: float) -> float:
        """Share of the learning rate: up from nothing while Adam's averages still follow single batches, then down."""
        return min(1.0, done / WARM_UP) * (1 - (1 - self.decay) * begun)

    def averaged(self, begun: float) -> float:
        """Steps that the gradient is averaged over: ever more, so that noise lets go of weights that belong at zero."""
        return FIRST_WINDOW + (self.window - FIRST_WINDOW) * begun

    def pressed(self, begun: float) -> float:
        """How many times the strength is held: more at first, for weights leave a dense network slowly."""
        return math.pow(self.pressure, max(0.0, 1 - begun / EASED))


USUAL = Pace()


@final
class AdaptiveProximal(Corrector):
    """Adam's step followed by the proximal operator or the projection in Adam's own diagonal metric.

    The gradient step and the proximal operator share one step size, bias corrections included, as optimality of the
    pair needs; the metric is floored so that weights without a gradient keep a finite threshold.

    Parameters
    ----------
    held : str
        "strength" or "penalty".
    epochs : int, optional
        Passes over the data; as many as make up `steps` if None.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    pace : Pace
    trim : float
        Share of the penalty that is taken from the smallest weights after the last step: what noise keeps from zero.
    steps : int
        Steps where `epochs` is not given; more where the samples are few.

    References
    ----------
    Yun, Lozano, Yang, "Adaptive proximal gradient methods for structured neural networks" (ProxGEN), NeurIPS 2021.
    Deleu, Bengio, arXiv 2102.03869, 2021, Algorithm 1.
    """

    def __init__(
        self,
        held: Literal["strength", "penalty"] = "strength",
        epochs: int | None = None,
        batch: int | None = None,
        pace: Pace = USUAL,
        trim: float = TRIM,
        steps: int = 120,
    ) -> None:
        self._held, self._epochs, self._batch, self._steps = held, epochs, batch, steps
        self._pace, self._trim = pace, trim

    def correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        keep = hold(self._held, replace(guess, level=guess.level / (1 - self._trim)))
        theta = problem.loss.lend(keep(problem.penalty, guess.theta, 1.0) if self._held == "penalty" else guess.theta)
        share = min(1.0, RECOVERY * (guess.step or 1.0))
        start = share * self._pace.first(theta)
        losses = self._descend_(problem, keep, theta, start, seed)
        found = problem.penalty.trim(theta.clone(), self._trim)
        if self._held == "penalty":
            found, _ = problem.penalty.project(found, guess.level)
        problem.loss.calibrate(found)
        state = replace(guess, theta=found, buffers=problem.loss.buffers, step=share)
        return Correction(state, fell=fell(losses))

    def _descend_(self, problem: Problem, keep: Hold, theta: Tensor, start: float, seed: int) -> list[Tensor]:
        """Step on `theta` in place; the mini-batches' losses."""
        losses, moments = [], _Moments(theta)
        size = self._batch or batch_size(problem.loss, BATCH_SHARE, LARGEST_BATCH)
        batches = list(mini_batches(problem.loss, seed, size, self._epochs, self._steps))
        for done, batch in enumerate(batches, 1):
            begun = (done - 1) / len(batches)
            rate = start * self._pace.share(begun, done / len(batches))
            value, grad = problem.loss.value_and_grad_(theta, batch)
            losses.append(value)
            step = moments.descend_(theta, grad, 1 / self._pace.averaged(begun), rate)
            keep.ease(self._pace.pressed(begun))
            keep.restore_(problem.penalty, theta, step, exactly=done == len(batches))
        return losses


@final
class _Moments:
    """Adam's averages of the gradient and of its square, which a step updates in place.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
        Like these weights.
    """

    def __init__(self, theta: Tensor) -> None:
        self._mean, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._weight, self._done = 0.0, 0

    def descend_(self, theta: Tensor, grad: Tensor, new: float, rate: float) -> Tensor:
        """Gradient step on `theta` in place; the step sizes of the weights are written over `grad`.

        Parameters
        ----------
        new : float
            Share of this gradient in the average.
        """
        self._done += 1
        self._weight += new * (1 - self._weight)
        unbiased = 1 - BETA**self._done
        least, scale = FLOOR**2 * unbiased, rate * math.sqrt(unbiased)
        for weights, slope, mean, square in stretches(theta, grad, self._mean, self._square):
            mean.lerp_(slope, new)
            square.mul_(BETA).addcmul_(slope, slope, value=1 - BETA)
            torch.clamp_min(square, least, out=slope).rsqrt_().mul_(scale)
            weights.addcmul_(mean, slope, value=-1 / self._weight)
        return grad
