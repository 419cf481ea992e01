"""Proximal steps in Adam's metric on mini-batches: for networks whose layers have very different scales."""

import math
from dataclasses import replace
from typing import Literal, final

import torch
from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, batch_size, hold, mini_batches
from engine.problem import Problem, State
from engine.stretches import stretches

FIRST_WINDOW, LAST_WINDOW = 10, 50
BETA = 0.999
RECOVERY = 1.3
TRUST = 0.1
WARM_UP = 0.15
BATCH_SHARE, LARGEST_BATCH = 48, 256


@final
class AdaptiveProximal(Corrector):
    """Adam's step followed by the proximal operator or the projection in Adam's own diagonal metric.

    The gradient step and the proximal operator share one step size, bias corrections included, as optimality of the
    pair needs; the metric is floored so that weights without a gradient keep a finite threshold. The gradient's average
    reaches back ten steps at first and fifty in the end.

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
        Highest learning rate; at most a tenth of the mean size of the weights that are not zero, and a lower one that
        the guess brings along is kept and slowly raised again.
    decay : float
        Share of the learning rate that is left at the end of the last pass.
    floor : float
        Least value of the metric.

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
        rate: float = 1e-2,
        decay: float = 0.1,
        floor: float = 3e-3,
        steps: int = 120,
    ) -> None:
        self._held, self._epochs, self._batch, self._steps = held, epochs, batch, steps
        self._rate, self._decay, self._floor = rate, decay, floor

    def correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        keep = hold(self._held, guess)
        theta = problem.loss.lend(keep(problem.penalty, guess.theta, 1.0) if self._held == "penalty" else guess.theta)
        start = min(self._rate, _trusted(theta), RECOVERY * guess.step if guess.step else math.inf)
        self._descend_(problem, keep, theta, start, seed)
        found = theta.clone()
        problem.loss.calibrate(found)
        return Correction(replace(guess, theta=found, buffers=problem.loss.buffers, step=start), False)

    def _descend_(self, problem: Problem, keep: Hold, theta: Tensor, start: float, seed: int) -> None:
        moments = _Moments(theta, self._floor)
        size = self._batch or batch_size(problem.loss, BATCH_SHARE, LARGEST_BATCH)
        batches = list(mini_batches(problem.loss, seed, size, self._epochs, self._steps))
        for done, batch in enumerate(batches, 1):
            begun = (done - 1) / len(batches)
            rate = start * self._schedule(begun, done / len(batches))
            step = moments.descend_(theta, problem.loss.gradient_(theta, batch), 1 / _window(begun), rate)
            keep.restore_(problem.penalty, theta, step, exactly=done == len(batches))

    def _schedule(self, begun: float, done: float) -> float:
        """Share of the learning rate: up from nothing while Adam's averages still follow single batches, then down."""
        return min(1.0, done / WARM_UP) * (1 - (1 - self._decay) * begun)


@final
class _Moments:
    """Adam's averages of the gradient and of its square, which a step updates in place.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
        Like these weights.
    floor : float
        Least value of the metric.
    """

    def __init__(self, theta: Tensor, floor: float) -> None:
        self._mean, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._floor, self._weight, self._done = floor, 0.0, 0

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
        least, scale = self._floor**2 * unbiased, rate * math.sqrt(unbiased)
        for weights, slope, mean, square in stretches(theta, grad, self._mean, self._square):
            mean.lerp_(slope, new)
            square.mul_(BETA).addcmul_(slope, slope, value=1 - BETA)
            torch.clamp_min(square, least, out=slope).rsqrt_().mul_(scale)
            weights.addcmul_(mean, slope, value=-1 / self._weight)
        return grad


def _window(begun: float) -> float:
    """Steps that the gradient is averaged over: ever more, so that noise lets go of weights that belong at zero."""
    return FIRST_WINDOW + (LAST_WINDOW - FIRST_WINDOW) * begun


def _trusted(theta: Tensor) -> float:
    """A tenth of the mean size of the weights that are not zero; no bound where all are."""
    nonzeros = int(theta.count_nonzero())
    return TRUST * float(theta.abs().sum()) / nonzeros if nonzeros else math.inf
