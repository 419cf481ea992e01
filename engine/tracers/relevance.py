"""Relevance: weights that the loss does not react to are pulled to zero, and the smallest are pruned for good.

A network is trained, a share of its weights is pruned, what is left is trained again, and so on; the networks before
each pruning are the path, from dense to sparse.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, final

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from engine.correctors.adaptive import mean_size
from engine.correctors.base import batch_size, mini_batches
from engine.errors import Diverged, InvalidSpec
from engine.front import Waypoint
from engine.losses import Batch, Loss
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer, measured
from engine.tracers.refit import pruned

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]

ANCHOR_STEPS, STEPS = 720, 80
FIRST_SHARE = 0.3
BATCH_SHARE, LARGEST_BATCH = 48, 256
TRUST = 0.1
LEAST_RATE = 0.1
MOST_TYPICAL = 4096
PREFIX = "validation_"


@final
@dataclass(frozen=True, slots=True)
class Irrelevance:
    """The regulariser ``gamma * sum(I(w) * w**2)``, where ``I(w) = exp(-|dL/dw| / a)`` is held constant.

    Parameters
    ----------
    gamma : float
        Its strength right after a pruning.
    quantile : float
        The share of the remaining weights whose gradient is at most the scale a, in (0, 1]; of more than 4,096 evenly
        spread ones stand for all.
    scale : float, optional
        The scale a itself; the gradient's quantile if None.
    decay : bool
        Whether the strength falls to zero over the first pass over the data after a pruning; it stays if not.
    """

    gamma: float = 1e-2
    quantile: float = 0.5
    scale: float | None = None
    decay: bool = False

    def coefficients(self, grad: Tensor, typical: Tensor) -> Tensor:
        """I(w) of all weights, in [0, 1], shape (n_params,): 1 where the gradient is zero.

        Parameters
        ----------
        grad : Tensor, shape (n_params,)
            Of the mini-batch's mean loss.
        typical : Tensor of int64, shape (n_typical,)
            Places of the weights of whose gradients the quantile is taken.
        """
        sizes = grad.abs()
        scale = self._quantile_of(sizes[typical]) if self.scale is None else self.scale
        return sizes.div_(-scale).exp_()

    def strength(self, begun: float) -> float:
        """What gamma has become after so many passes over the data since a pruning."""
        return self.gamma * max(0.0, 1 - begun) if self.decay else self.gamma

    def _quantile_of(self, sizes: Tensor) -> Tensor:
        """The quantile; the least positive number where it is zero, so that only zero gradients are irrelevant."""
        least = torch.finfo(sizes.dtype).tiny
        if not len(sizes):
            return sizes.new_tensor(least)
        return sizes.kthvalue(max(1, math.ceil(self.quantile * len(sizes)))).values.clamp_min(least)


@final
@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast networks are trained.

    Parameters
    ----------
    epochs, anchor_epochs : int, optional
        Passes over the data between two evaluations, and for the first network; as many as make up `STEPS` and
        `ANCHOR_STEPS` mini-batch steps if None.
    batch : int, optional
        Samples in a mini-batch; a size fit for the data if None.
    rate : float
        Adam's highest learning rate; as everywhere it is at most a tenth of the mean size of the nonzero weights. It
        falls to a tenth between two evaluations.
    """

    epochs: int | None = None
    anchor_epochs: int | None = None
    batch: int | None = None
    rate: float = 1e-2

    def size(self, loss: Loss) -> int:
        """Samples in a mini-batch of this loss's data."""
        return self.batch or batch_size(loss, BATCH_SHARE, LARGEST_BATCH)


@final
@dataclass(frozen=True, slots=True)
class Pruning:
    """How much is pruned, and when.

    Parameters
    ----------
    points : int
        Networks on the path, at least 2.
    end : float
        Sparsity at which the path ends, in (0, 1].
    fraction : float, optional
        Share of the remaining weights that a pruning removes, rounded down but at least one weight; as much as leads
        to `end` in equal shares if None.
    drop : float
        Share of the first network's validation accuracy that others may lose before they are pruned; of the loss where
        there is no accuracy.
    patience : int
        Evaluations after which a network is pruned though it lost more.
    strict : bool
        Whether the path ends there instead.
    """

    points: int = 40
    end: float = 0.99
    fraction: float | None = None
    drop: float = 0.015
    patience: int = 3
    strict: bool = False

    def kept(self, n_nonzero: int, n_params: int, n_found: int) -> int:
        """Weights that are left after the next pruning, fewer than now.

        Parameters
        ----------
        n_found : int
            Networks on the path so far.
        """
        last = self.fewest(n_params)
        if self.fraction is not None:
            return n_nonzero - max(1, math.floor(self.fraction * n_nonzero))
        left = self.points - n_found
        shared = last if left == 1 else math.floor(n_nonzero * (max(last, 1) / n_nonzero) ** (1 / left))
        return min(shared, n_nonzero - 1)

    def fewest(self, n_params: int) -> int:
        """Weights at which the path ends."""
        return math.floor((1 - self.end) * n_params + 1e-9)

    def bound(self, first: float) -> float:
        """What the quality of a network has to be for it to be pruned, by that of the first one."""
        return first - self.drop * abs(first)


@final
class Relevance(Tracer):
    """Train with the irrelevance regulariser, store, prune the smallest of the remaining weights, and so on.

    The first network is trained plainly. The mask of a network is the support of the one before it, pruned; masked
    weights stay zero. Adam's moments start anew after each pruning. What is pruned and regularised is what the
    problem's penalty acts on; under a group penalty whole groups go. Where there are no validation data there is no
    bound, and every network is evaluated once. Points have no strength and no certificate.

    From the authors' code this departs where that is at odds with the method (docs/decisions/0015): the scale a
    follows the gradient, since with a = 1 and mean losses I is 1 for nearly all weights and R the plain l2 penalty; the
    irrelevance is the exponential one, not 1 / (1 - a|g|), which has a pole; one backward pass gives both gradients;
    the bound is held on validation data, never on test data; patience ends the work on a network, not one epoch's loop;
    and every network before a pruning is kept, not the best of all in accuracy, which is nearly always dense.

    Parameters
    ----------
    irrelevance : Irrelevance
    training : Training
    pruning : Pruning
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether networks are cleaned before they are stored; pruning goes on from the clean ones.

    References
    ----------
    Bonetta, Ribero, Cancelliere, "Regularization-based pruning of irrelevant weights in deep neural architectures",
    Applied Intelligence, 2023.
    """

    def __init__(
        self,
        irrelevance: Irrelevance,
        training: Training,
        pruning: Pruning,
        seed: int = 0,
        budget: Budget | None = None,
        *,
        cleanup: bool = True,
    ) -> None:
        self._irrelevance, self._training, self._pruning = irrelevance, training, pruning
        self._seed, self._budget, self.cleanup = seed, budget or Budget(), cleanup
        self.expected = pruning.points

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        clock, found = Clock(problem, trail), list(trail)
        if not found:
            clock.allow(self._budget, FIRST_SHARE)
            found.append(self._first(problem, clock))
            yield found[0]
        while not (self._finished(found) or clock.exhausted(self._budget)):
            waypoint = self._next(problem, clock, found)
            if waypoint is None:
                self.ended = f"No network beyond a sparsity of {found[-1].point.sparsity:.4g} is as good as asked."
                return
            found.append(waypoint)
            yield waypoint
        self.ended = self._finished(found) or clock.exhausted(self._budget)

    def _finished(self, found: Sequence[Waypoint]) -> str:
        """Why there is nothing left to prune, as a sentence; empty where there is."""
        last = found[-1].point
        if len(found) < self._pruning.points and last.n_nonzero > self._pruning.fewest(last.n_params):
            return ""
        return f"The path has {len(found)} points, down to a sparsity of {last.sparsity:.4g}."

    def _first(self, problem: Problem, clock: Clock) -> Waypoint:
        start = State(problem.loss.initial(), 0.0, 0.0, problem.loss.buffers)
        everything = torch.ones_like(start.theta, dtype=torch.bool)
        run = _Run(problem, start, everything, self._training, replace(self._irrelevance, gamma=0.0))
        run.go(self._draw(0, 0), self._training.anchor_epochs, ANCHOR_STEPS)
        return self._waypoint(problem, clock, run.state(), 0)

    def _next(self, problem: Problem, clock: Clock, found: Sequence[Waypoint]) -> Waypoint | None:
        """The next network, pruned and trained until it is good enough; None where the path ends instead."""
        last, index = found[-1].point, len(found)
        kept = self._pruning.kept(last.n_nonzero, last.n_params, index)
        start = state(problem, found[-1])
        start = replace(start, theta=pruned(problem.penalty, start.theta, kept))
        remaining = (start.theta != 0) | ~problem.penalty.penalised.to(start.theta.device)
        run = _Run(problem, start, remaining, self._training, self._irrelevance)
        good = self._trained(problem, run, found[0], index)
        return self._waypoint(problem, clock, run.state(), index) if good or not self._pruning.strict else None

    def _trained(self, problem: Problem, run: "_Run", first: Waypoint, index: int) -> bool:
        """Train until the quality is within bounds, patience is over or the budget used up; whether it was."""
        quality = _quality(_validation(first.point.metrics))
        for attempt in range(self._pruning.patience):
            run.go(self._draw(index, attempt), self._training.epochs, STEPS)
            reached = _quality(problem.loss.validation(run.state().theta))
            if quality is None or reached is None or reached > self._pruning.bound(quality):
                return True
            if problem.loss.effort >= problem.loss.limit:
                break
        return False

    def _waypoint(self, problem: Problem, clock: Clock, at: State, index: int) -> Waypoint:
        at = problem.cleaned(at)
        value, grad = problem.loss.value_and_grad(at.theta)
        if not math.isfinite(value):
            raise Diverged(f"The loss became {float(value)}; check the data's scale, or lower the method's 'rate'.")
        found = measured(problem, clock, at, 0.0, (float(value), grad))
        parent = index - 1 if index else None
        return replace(found, point=replace(found.point, index=index, parent=parent, lam=None, residual=None))

    def _draw(self, index: int, attempt: int) -> int:
        """A seed of its own for every stretch of training."""
        digest = hashlib.sha256(f"{self._seed}/relevance/{index}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@final
class _Run:
    """Adam on the remaining weights of one network, from one pruning to the next.

    Parameters
    ----------
    problem : Problem
    start : State
    remaining : Tensor of bool, shape (n_params,)
        The mask; other weights stay as they are.
    training : Training
    irrelevance : Irrelevance
    """

    def __init__(
        self, problem: Problem, start: State, remaining: Tensor, training: Training, irrelevance: Irrelevance
    ) -> None:
        problem.loss.load_buffers(start.buffers)
        self._problem, self._start, self._training, self._irrelevance = problem, start, training, irrelevance
        self._theta, self._remaining = start.theta.clone(), remaining
        self._typical = _evenly(remaining.nonzero().flatten(), MOST_TYPICAL)
        self._pulled = remaining & problem.penalty.penalised.to(remaining.device)
        self._adam = torch.optim.Adam([self._theta])
        self._rate = min(training.rate, TRUST * mean_size(self._theta) or training.rate)
        self._passes = 0.0

    def go(self, seed: int, epochs: int | None, steps: int) -> None:
        """Train for so many passes over the data, or steps; then compute the buffers anew."""
        loss, size = self._problem.loss, self._training.size(self._problem.loss)
        batches = list(mini_batches(loss, seed, size, epochs, steps))
        for done, batch in enumerate(batches):
            self._adam.param_groups[0]["lr"] = self._rate * (1 - (1 - LEAST_RATE) * done / len(batches))
            self._step(batch)
        loss.calibrate(self._theta)

    def state(self) -> State:
        """The network as it is now."""
        return replace(self._start, theta=self._theta.clone(), buffers=self._problem.loss.buffers, step=None)

    def _step(self, batch: Batch) -> None:
        _, grad = self._problem.loss.value_and_grad_(self._theta, batch)
        pull = self._irrelevance.coefficients(grad, self._typical).mul_(self._pulled)
        grad.addcmul_(pull, self._theta, value=2 * self._irrelevance.strength(self._passes))
        self._theta.grad = grad.mul_(self._remaining)
        self._adam.step()
        self._passes += len(batch) / self._problem.loss.n_samples


def _evenly(places: Tensor, most: int) -> Tensor:
    """So many of them at most, evenly spread."""
    return places[:: max(1, math.ceil(len(places) / most))]


def _validation(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the validation data, by their names alone."""
    return {name.removeprefix(PREFIX): value for name, value in metrics.items() if name.startswith(PREFIX)}


def _quality(validation: Mapping[str, float]) -> float | None:
    """The larger the better: the accuracy, else the negative loss; None where nothing was measured."""
    return validation.get("accuracy", -validation["loss"]) if validation else None


def relevance(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    gamma: Annotated[float, Ge(0)] = 1e-2,
    quantile: Share = 0.5,
    scale: Annotated[float, Gt(0)] | None = None,
    decay: bool = False,
    end: Share = 0.99,
    fraction: Share | None = None,
    drop: Annotated[float, Ge(0)] = 0.015,
    patience: Count = 3,
    strict: bool = False,
    epochs: Count | None = None,
    anchor_epochs: Count | None = None,
    batch: Count | None = None,
    rate: Annotated[float, Gt(0)] = 1e-2,
    cleanup: bool = True,
) -> Tracer:
    """Pull weights to zero that the loss does not react to, prune the smallest for good, train on, and so on.

    Parameters
    ----------
    gamma : float
        Strength of the pull on weights without a gradient.
    quantile : float
        Share of the remaining weights that count as irrelevant, more or less: those whose gradient is below this
        quantile are pulled with more than 37 % of the strength, those far above it not at all.
    scale : float
        Size of the gradient at which the pull is 37 %, in place of the quantile.
    decay : bool
        Whether the pull falls to zero over the first pass over the data after a pruning.
    end : float
        Sparsity at which the path ends; 1 is the zero network.
    fraction : float
        Share of the remaining weights that a pruning removes; by default as much as leads to `end` in equal shares.
    drop : float
        Share of the first network's validation accuracy (of the loss where there is none) that others may lose before
        they are pruned.
    patience : int
        How many times as long as usual a network that lost more is trained at most.
    strict : bool
        Whether the path ends at the first network that loses more; otherwise it is pruned all the same.
    epochs : int
        Passes over the training data between two evaluations of a network; by default as many as make up 80 mini-batch
        steps, more where there are fewer than 1,000 samples.
    anchor_epochs : int
        Passes over the training data for the first network; by default as many as make up 720 mini-batch steps.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Adam's highest learning rate; between two evaluations it falls to a tenth.
    cleanup : bool
        Whether stored networks are rid of what adds to the penalty and changes no answer.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")

    irrelevance = Irrelevance(gamma, quantile, scale, decay)
    training = Training(epochs, anchor_epochs, batch, rate)
    pruning = Pruning(points, end, fraction, drop, patience, strict)
    return Relevance(irrelevance, training, pruning, seed, budget, cleanup=cleanup)
