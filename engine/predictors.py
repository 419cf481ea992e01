"""From a point on the path to a guess at the next: weights *and* the trade-off they are meant for.

The step is the fraction of the improved objective to shed: positive for a smaller penalty, negative for a lower loss.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from engine.conjugate_gradients import minimise_on
from engine.front import Array, Waypoint
from engine.problem import Problem, State
from engine.registry import extend

LARGEST_GROWTH = 1.6
LARGEST_STRETCH = 1.5


class Predictor(ABC):
    """A guess at the next point of the path."""

    @abstractmethod
    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        """Guess the next state.

        Parameters
        ----------
        problem : Problem
        trail : sequence of Waypoint
            At least one; the last is where the path stands, the one before it came before on the same path.
        step : float
            ``abs(step)`` is the fraction of the improved objective to shed, below 1: of the penalty where positive
            (sparser), of the loss where negative (denser).
        seed : int
            For predictors that sample.
        """


@final
class WarmStart(Predictor):
    """Leave the weights where they are and move the trade-off alone."""

    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        lam, level = trade_off(trail, step)
        return replace(state(problem, trail[-1]), lam=lam, level=level)


@final
class Shrinkage(Predictor):
    """Shrink all weights by one threshold until the penalty is met; towards lower loss, expand those that are not zero.

    References
    ----------
    Amakor, Sonntag, Peitz, "A multiobjective continuation method to compute the regularization path of deep neural
    networks", Machine Learning with Applications 19, 2025 (repeated soft-thresholding is additive).
    """

    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        guess = WarmStart().predict(problem, trail, step, seed)
        if step > 0:
            return replace(guess, theta=problem.penalty.project(guess.theta, guess.level)[0])
        return replace(guess, theta=_expanded(problem, guess))


@final
class Gradient(Predictor):
    """Towards lower loss, descend along the gradient until the share of the loss is shed; towards sparser, shrink.

    Parameters
    ----------
    rate : float
        Length of the first gradient step; halved as long as the loss does not fall.
    limit : int
        Most gradient steps of one prediction.

    References
    ----------
    Amakor, Sonntag, Peitz, "A multiobjective continuation method to compute the regularization path of deep neural
    networks", Machine Learning with Applications 19, 2025, Algorithm 2.
    """

    def __init__(self, rate: float = 0.1, limit: int = 20) -> None:
        self._rate, self._limit = rate, limit

    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        if step > 0:
            return Shrinkage().predict(problem, trail, step, seed)
        guess = WarmStart().predict(problem, trail, step, seed)
        theta = self._descend(problem, guess.theta, trail[-1].point.loss * (1 + step), guess.level)
        return replace(guess, theta=theta, level=max(float(problem.penalty.value(theta)), trail[-1].point.penalty))

    def _descend(self, problem: Problem, theta: Tensor, loss: float, level: float) -> Tensor:
        value, grad = problem.loss.value_and_grad(theta)
        rate = self._rate
        for _ in range(self._limit):
            trial = theta - rate * grad
            lower, slope = problem.loss.value_and_grad(trial)
            if not lower < value:
                rate /= 2
                continue
            theta, value, grad = trial, lower, slope
            if value <= loss or problem.penalty.value(theta) > LARGEST_GROWTH * level:
                break
        return theta


@final
class Secant(Predictor):
    """Go on along the line through the last two points, until the penalty is met; weights stop at zero.

    References
    ----------
    Allgower, Georg, "Introduction to numerical continuation methods", SIAM, 2003, chapter 2.
    """

    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        guess = WarmStart().predict(problem, trail, step, seed)
        if len(trail) < 2 or trail[-2].point.penalty == trail[-1].point.penalty:
            return guess
        before, now = trail[-2].point.penalty, trail[-1].point.penalty
        stretch = min(max((guess.level - now) / (now - before), 0.0), LARGEST_STRETCH)
        past = torch.from_numpy(trail[-2].theta).to(guess.theta)
        ahead = guess.theta + stretch * (guess.theta - past)
        return replace(guess, theta=torch.where(ahead * guess.theta > 0, ahead, 0.0))


@final
class Tangent(Predictor):
    """Go along the tangent of the path, by the second derivatives on the support, until the penalty is met.

    Weights stop at zero. Where the loss does not curve upwards along the front, shrink instead.

    Parameters
    ----------
    tolerance : float
        Where conjugate gradients stop, relative to their start.
    limit : int
        Most Hessian-vector products for the direction.

    References
    ----------
    Bieker, Gebken, Peitz, "On the treatment of optimization problems with L1 penalty terms via multiobjective
    continuation", IEEE TPAMI 44, 2022: the kernel of ``[H_AA, s_A]``, found as the step of least loss for its change
    of the penalty, which exists on nonconvex stretches of the front, too.
    """

    def __init__(self, tolerance: float = 1e-3, limit: int = 30) -> None:
        self._tolerance, self._limit = tolerance, limit

    def predict(self, problem: Problem, trail: Sequence[Waypoint], step: float, seed: int) -> State:
        here, shrunk = state(problem, trail[-1]), Shrinkage().predict(problem, trail, step, seed)
        slope = problem.penalty.subgradient(here.theta)
        found = self._ahead(problem, here, slope, shrunk.level) if bool(slope.any()) else None
        if found is None:
            return shrunk
        ahead, strength = found
        theta = torch.where(ahead * slope < 0, 0.0, ahead)
        if step > 0:
            theta = problem.penalty.project(theta, shrunk.level)[0]
        turned = (strength - here.lam) * step <= 0
        return replace(shrunk, theta=theta, lam=shrunk.lam if turned else strength)

    def _ahead(self, problem: Problem, here: State, slope: Tensor, level: float) -> tuple[Tensor, float] | None:
        """Weights and strength where the tangent meets the level; None where there is no tangent."""
        support = here.theta.nonzero()[:, 0]
        problem.loss.load_buffers(here.buffers)
        product, normal = problem.hvp(here.theta, support, here.lam), slope[support]
        missing = level - float(problem.penalty.value(here.theta))
        begun = missing / float(normal @ normal) * product(normal)
        found = minimise_on((normal, 0.0), product, begun, self._tolerance * float(begun.norm()), self._limit)
        if not found.curved:
            return None
        move = missing / float(normal @ normal) * normal + found.at
        gained = float(normal @ product(move)) / float(normal @ normal)
        return here.theta.index_add(0, support, move), here.lam - gained


PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "warm_start": WarmStart,
    "shrinkage": Shrinkage,
    "gradient": Gradient,
    "secant": Secant,
    "tangent": Tangent,
}
extend(PREDICTORS, "paretopath.predictors")


def state(problem: Problem, waypoint: Waypoint) -> State:
    """The waypoint as a state of the problem, on its device."""
    device = problem.loss.device
    return State(
        theta=torch.from_numpy(waypoint.theta.copy()).to(device),
        lam=waypoint.point.lam or 0.0,
        level=waypoint.point.penalty,
        buffers={name: torch.from_numpy(array.copy()).to(device) for name, array in waypoint.buffers.items()},
        step=_known(waypoint.memory.get("step")),
    )


def _known(step: Array | None) -> float | None:
    return None if step is None or np.isnan(step) else float(step)


def trade_off(trail: Sequence[Waypoint], step: float) -> tuple[float, float]:
    """Strength and penalty of the next point: along the front the loss falls by ``lam`` per unit of penalty."""
    here = trail[-1].point
    lam = here.lam or 0.0
    if step > 0:
        ratio = 1 - step
    else:
        growth = -step * here.loss / (lam * here.penalty) if lam * here.penalty > 0 else math.inf
        ratio = 1 + min(growth, LARGEST_GROWTH - 1)
    return lam * ratio ** (-1 / _elasticity(trail)), here.penalty * ratio


def _elasticity(trail: Sequence[Waypoint]) -> float:
    """By how many percent the penalty falls per percent of strength, from the last two points, within [1/3, 3]."""
    here, before = trail[-1].point, trail[-2].point if len(trail) > 1 else trail[-1].point
    values = (here.lam, before.lam, here.penalty, before.penalty)
    if not all(values) or here.lam == before.lam:
        return 1.0
    change = math.log((here.lam or 1) / (before.lam or 1))
    return min(max(-math.log(here.penalty / before.penalty) / change, 1 / 3), 3.0)


def _expanded(problem: Problem, guess: State) -> Tensor:
    slope = problem.penalty.subgradient(guess.theta)
    missing = guess.level - float(problem.penalty.value(guess.theta))
    expanded: Tensor = guess.theta + missing / float((slope @ slope).clamp_min(1e-30)) * slope
    return expanded
