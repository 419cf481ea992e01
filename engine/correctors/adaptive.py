"""Proximal steps in Adam's metric on mini-batches: for networks whose layers have very different scales."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, final

import torch
from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, batch_size, fell, hold, mini_batches
from engine.layout import Block
from engine.losses import Batch, Loss
from engine.penalties.base import Penalty
from engine.problem import Problem, State
from engine.shrinking import Parts
from engine.stretches import STRETCH, stretches

FIRST_WINDOW = 10
BETA = 0.99
RECOVERY = 1.3
WARM_UP = 0.1
STRENGTH_EASED, LEVEL_EASED = 0.9, 0.3
BATCH_SHARE, LARGEST_BATCH, MOST_FINER = 60, 256, 4
FLOOR = 3e-3
LEGS = 8
TRIM = 0.02


@final
@dataclass(frozen=True, slots=True)
class Fineness:
    """What smaller mini-batches change, where a sample takes more work than a step's passes over the weights.

    There a step costs what its samples cost, so batches are up to four times smaller (docs/decisions/0034). Each of
    these is the power of how many times smaller they are that something changes by.

    Parameters
    ----------
    steps : float
        By which there are more steps.
    rate : float
        By which the first rates are lower, since a gradient is noisier; they rise from network to network.
    pressure : float
        By which a pace's pressure is lower.
    """

    steps: float
    rate: float = 1 / 2
    pressure: float = 1 / 4


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
        Highest learning rate of a layer as a share of the mean size of its weights that are not zero.
    decay : float
        Share of the learning rate that is left at the end.
    window : float
        Steps that the gradient is averaged over in the end; ten at first.
    pressure : float
        How many times the strength is held at first; it eases to the strength itself over nine tenths of the steps.
    fineness : Fineness, optional
        What smaller mini-batches change; batches are never made smaller if None.
    """

    rate: float = 0.1
    trust: float = 0.15
    decay: float = 0.1
    window: float = 50
    pressure: float = 1.0
    fineness: Fineness | None = None

    def refined(self, finer: float, steps: int) -> tuple["Pace", int, float]:
        """The pace, the number of steps and the first share of the rates for so many times smaller mini-batches."""
        if self.fineness is None:
            return self, steps, 1.0
        pressure = max(1.0, self.pressure / finer**self.fineness.pressure)
        return replace(self, pressure=pressure), round(steps * finer**self.fineness.steps), finer**-self.fineness.rate

    def first(self, theta: Tensor, layout: Sequence[Block]) -> "Rates":
        """Learning rates for these weights.

        References
        ----------
        You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (LAMB), ICLR 2020: rates
        in proportion to a layer's weights, so that rescaled layers take the same path.
        """
        usual = mean_size(theta)
        sizes = [(span, mean_size(theta[span]) or usual) for span in _spans(layout)]
        rates = [(span, min(self.rate, self.trust * size) if size else self.rate) for span, size in sizes]
        return Rates(rates, _spread(rates, theta) if len(theta) <= STRETCH else None)

    def share(self, begun: float, done: float) -> float:
        """Share of the learning rate: up from nothing while Adam's averages still follow single batches, then down."""
        return min(1.0, done / WARM_UP) * (1 - (1 - self.decay) * begun)

    def averaged(self, begun: float) -> float:
        """Steps that the gradient is averaged over: ever more, so that noise lets go of weights that belong at zero."""
        return FIRST_WINDOW + (self.window - FIRST_WINDOW) * begun


@final
class Rates:
    """A learning rate for each layer.

    Parameters
    ----------
    of_layers : sequence of (slice, float)
        Stretches of the flat weights, in order, and their rates.
    spread : Tensor, shape (n_params,), optional
        The same for every weight: where the weights are few, one product takes less time than one for each layer.
    """

    def __init__(self, of_layers: Sequence[tuple[slice, float]], spread: Tensor | None = None) -> None:
        self._of_layers, self._spread = of_layers, spread

    def among(self, parts: Parts) -> "Rates":
        """Those of some of the weights."""
        rates = [rate for _, rate in self._of_layers]
        of_layers = list(zip(_spans(parts.layout), rates, strict=True))
        return Rates(of_layers, None if self._spread is None else parts.of(self._spread))

    def scale_(self, steps: Tensor, start: int, factor: float) -> None:
        """Multiply by them and a factor `steps`, the stretch of a flat vector that begins at `start`."""
        if self._spread is not None:
            steps.mul_(self._spread).mul_(factor)
            return
        for span, rate in self._of_layers:
            part = steps[max(span.start - start, 0) : max(span.stop - start, 0)]
            if len(part):
                part.mul_(rate * factor)


@final
@dataclass(frozen=True, slots=True)
class _Eased:
    """What is held in the course of a correction: more than asked at first, then less and less.

    Parameters
    ----------
    keep : Hold
    pressure : float
        How many times it is held at first.
    over : float
        Share of the steps after which it is held as it is.
    """

    keep: Hold
    pressure: float
    over: float

    def restore_(self, penalty: Penalty, theta: Tensor, step: Tensor, begun: float, exactly: bool) -> None:
        """Bring `theta` back in place after a step that begins with a share of the correction behind it."""
        self.keep.ease(math.pow(self.pressure, max(0.0, 1 - begun / self.over)))
        self.keep.restore_(penalty, theta, step, exactly)

    def after(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """The losses of the mini-batches from when nothing is eased any more."""
        return losses[math.ceil(self.over * len(losses)) :] if self.pressure > 1 else losses


@final
@dataclass(frozen=True, slots=True)
class _Course:
    """The mini-batches of a correction, its pace, and which share of the pace's rates is used."""

    pace: Pace
    share: float
    batches: tuple[Batch, ...]


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
        Nothing is taken where mini-batches hold all samples.
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

    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        course, trim = self._course(problem.loss, guess.step, seed), self._trimmed(problem.loss)
        held = self._eased(problem, guess, course.pace.pressure, guess.level / (1 - trim))
        theta, losses = self._descended(problem, guess.theta, held, course)
        found = problem.penalty.trim(theta, trim)
        if self._held == "penalty":
            problem.penalty.project_(found, guess.level, torch.ones_like(found))
        problem.loss.calibrate(found)
        state = replace(guess, theta=found, buffers=problem.loss.buffers, step=course.share)
        return Correction(state, fell=fell(held.after(losses)))

    def _course(self, loss: Loss, step: float | None, seed: int) -> _Course:
        ordinary, size = self._sizes(loss)
        pace, steps, first = self._pace.refined(min(max(ordinary / size, 1.0), MOST_FINER), self._steps)
        batches = tuple(mini_batches(loss, seed, size, self._epochs, steps))
        return _Course(pace, min(1.0, RECOVERY * step) if step else first, batches)

    def _sizes(self, loss: Loss) -> tuple[int, int]:
        """Samples in a mini-batch, where steps are cheap and here."""
        ordinary = batch_size(loss, BATCH_SHARE, LARGEST_BATCH)
        if self._batch or self._pace.fineness is None:
            return ordinary, self._batch or ordinary
        finer = min(max(loss.reuse, 1.0), MOST_FINER)
        return ordinary, batch_size(loss, round(BATCH_SHARE * finer), LARGEST_BATCH)

    def _trimmed(self, loss: Loss) -> float:
        """Share of the penalty to be trimmed; none where every step sees all samples."""
        return self._trim if self._sizes(loss)[1] < loss.n_samples else 0.0

    def _eased(self, problem: Problem, guess: State, pressure: float, level: float) -> _Eased:
        """From the penalty that the guess has to the level; from the pace's pressure to the strength."""
        keep = hold(self._held, replace(guess, level=level))
        if self._held == "strength":
            return _Eased(keep, pressure, STRENGTH_EASED)
        excess = float(problem.penalty.value(guess.theta)) / guess.level if guess.level > 0 else 1.0
        return _Eased(keep, max(1.0, excess), LEVEL_EASED)

    def _descended(self, problem: Problem, start: Tensor, held: _Eased, course: _Course) -> tuple[Tensor, list[Tensor]]:
        """Where the steps end, and the mini-batches' losses; Adam's averages are let go before anything is trimmed."""
        descent = _Descent(problem, start, course.pace)
        losses = self._descend_(descent, held, course)
        return descent.end(), losses

    def _descend_(self, descent: "_Descent", held: _Eased, course: _Course) -> list[Tensor]:
        """Take the steps; the mini-batches' losses."""
        losses, batches = list[Tensor](), course.batches
        for leg in torch.arange(len(batches)).tensor_split(LEGS):
            if losses:
                descent.shrink()
            with descent.problem.loss.stepping(batches[0].shape[0]):
                for done in leg.tolist():
                    begun = done / len(batches)
                    rate = course.share * course.pace.share(begun, (done + 1) / len(batches))
                    value, step = descent.step_(batches[done], 1 / course.pace.averaged(begun), rate)
                    losses.append(value)
                    exactly = done == len(batches) - 1
                    held.restore_(descent.problem.penalty, descent.theta, step, begun, exactly)
        return losses


@final
class _Descent:
    """Weights on their way, with what belongs to them; units that are cut off on the way are left behind.

    Parameters
    ----------
    problem : Problem
    start : Tensor, shape (n_params,)
    pace : Pace

    Attributes
    ----------
    problem : Problem
        Of the weights that are left.
    theta : Tensor, shape (n_left,)
    """

    def __init__(self, problem: Problem, start: Tensor, pace: Pace) -> None:
        self.problem, self.theta = problem, problem.loss.lend(start)
        self._moments, self._rates = _Moments(self.theta), pace.first(self.theta, problem.loss.layout)
        self._whole, self._left = problem, list[Parts]()

    def step_(self, batch: Batch, new: float, share: float) -> tuple[Tensor, Tensor]:
        """Take a gradient step; the loss before it and the step sizes."""
        value, grad = self.problem.loss.value_and_grad_(self.theta, batch)
        return value, self._moments.descend_(self.theta, grad, new, self._rates, share)

    def shrink(self) -> None:
        """Go on without the units that have been cut off, where they are many."""
        smaller = self.problem.shrunk(self.theta)
        if smaller is None:
            return
        left, parts = smaller.problem.loss, smaller.parts
        left.effort, left.limit = self.problem.loss.effort, self.problem.loss.limit
        self._moments, self._rates = self._moments.among(parts), self._rates.among(parts)
        self.problem, self.theta = smaller.problem, left.lend(parts.of(self.theta))
        self._left.append(parts)

    def end(self) -> Tensor:
        """All weights, shape (n_params,); the effort is charged to the whole problem."""
        self._whole.loss.effort = self.problem.loss.effort
        theta = self.theta
        for parts in reversed(self._left):
            theta = parts.whole(theta)
        return theta


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

    def among(self, parts: Parts) -> "_Moments":
        """Those of some of the weights."""
        among = copy(self)
        among._mean, among._square = parts.of(self._mean), parts.of(self._square)
        return among

    def descend_(self, theta: Tensor, grad: Tensor, new: float, rates: Rates, share: float) -> Tensor:
        """Gradient step on `theta` in place; the step sizes of the weights are written over `grad`.

        Parameters
        ----------
        new : float
            Share of this gradient in the average.
        share : float
            Of the rates.
        """
        self._done += 1
        self._weight += new * (1 - self._weight)
        unbiased, start = 1 - BETA**self._done, 0
        factor = share * math.sqrt(unbiased)
        for weights, slope, mean, square in stretches(theta, grad, self._mean, self._square):
            mean.lerp_(slope, new)
            square.mul_(BETA).addcmul_(slope, slope, value=1 - BETA)
            rates.scale_(torch.clamp_min(square, FLOOR**2 * unbiased, out=slope).rsqrt_(), start, factor)
            weights.addcmul_(mean, slope, value=-1 / self._weight)
            start += slope.shape[0]
        return grad


def _spans(layout: Sequence[Block]) -> Iterator[slice]:
    """Where the parameters of each module stand in the flat weights."""
    for _, blocks in groupby(layout, lambda block: block.name.rpartition(".")[0]):
        own = list(blocks)
        yield slice(own[0].start, own[-1].stop)


def _spread(rates: Sequence[tuple[slice, float]], theta: Tensor) -> Tensor:
    """Layers' rates as one for every weight."""
    return torch.cat([theta.new_full((span.stop - span.start,), rate) for span, rate in rates])


def mean_size(theta: Tensor) -> float:
    """Mean magnitude of the weights that are not zero; 0 where all are."""
    return float(torch.linalg.vector_norm(theta, 1)) / max(int(theta.count_nonzero()), 1)
