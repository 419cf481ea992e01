"""Newton steps on the support: the exact corrector for linear models and other smooth, nearly convex problems."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from engine.conjugate_gradients import Product, minimise, minimise_on
from engine.correctors.base import FIRST_STEP, SHORTEST_STEP, Correction, Corrector, hold
from engine.problem import Problem, State

FEWEST_ADDED, ADDED_SHARE = 4, 8
LOOSEST = 0.1
MOST_PRODUCTS = 100
HALVINGS = 4
ROUNDS = 5
SUFFICIENT = 1e-4
GROWTH = 1.5


@final
class ActiveSetNewton(Corrector):
    """Newton steps by conjugate gradients on the support, proximal steps where zeros want to move more than the rest.

    A weight that would change sign stops at zero. A step that does not lower the objective is halved, and in the end
    replaced by a proximal gradient step, so the objective never rises.

    Parameters
    ----------
    held : str
        "strength" or "penalty".
    passes : float
        Most effort, in full passes over the data.
    tolerance : float
        Stop when the residual ``||theta - prox(theta - step * grad)|| / step`` is at most this share of the gradient's
        norm.

    References
    ----------
    Byrd, Chin, Nocedal, Oztoprak, "A family of second-order methods for convex l1-regularized optimization", Math.
    Programming 159, 2016 (proximal steps choose the face, Newton steps minimise on it).
    Dostál, "Box constrained quadratic programming with proportioning and projections", SIAM J. Optimization 7, 1997
    (when to leave a face).
    """

    def __init__(
        self, held: Literal["strength", "penalty"] = "strength", passes: float = 100.0, tolerance: float = 1e-6
    ) -> None:
        self._held, self._passes, self._tolerance = held, passes, tolerance

    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        descent = _Descent(problem, guess, self._held)
        at, converged = descent.start(), False
        stop = min(problem.loss.effort + self._passes, problem.loss.limit) - 1
        while problem.loss.effort < stop and math.isfinite(at.merit):
            ahead = descent.ahead(at)
            converged = descent.residual(at, ahead) <= self._tolerance * float(at.grad.norm())
            following = None if converged else descent.newton(at, ahead) or descent.proximal(at)
            if following is None:
                break
            at = following
        return Correction(replace(guess, theta=at.theta, step=descent.step), converged)


@dataclass(frozen=True, slots=True)
class _Point:
    """Weights with the loss's gradient and the objective."""

    theta: Tensor
    grad: Tensor
    merit: float


@dataclass(frozen=True, slots=True)
class _Face:
    """The weights that move, the slope of the penalty along them, and its multiplier."""

    support: Tensor
    slope: Tensor
    lam: float


@final
class _Descent:
    """One correction: the objective, what is held, and the length of a proximal step that worked."""

    def __init__(self, problem: Problem, guess: State, held: str) -> None:
        self._problem, self._guess = problem, guess
        self._keep, self._bounded = hold(held, guess), held == "penalty"
        self._lam = 0.0 if self._bounded else guess.lam
        self._kinked = problem.penalty.curvature(guess.theta, guess.theta) is None
        self.step = guess.step or FIRST_STEP

    def start(self) -> _Point:
        """The guess, brought to what is held."""
        return self._at(self._landed(self._guess.theta))

    def ahead(self, at: _Point) -> Tensor:
        """The proximal gradient step."""
        return self._keep(self._problem.penalty, at.theta - self.step * at.grad, self.step)

    def residual(self, at: _Point, ahead: Tensor) -> float:
        """How far the proximal step moves, per unit of its length."""
        return float((ahead - at.theta).norm()) / self.step

    def newton(self, at: _Point, ahead: Tensor) -> _Point | None:
        """A Newton step on a face, halved until it lowers the objective; None where there is none."""
        face = self._face(at, ahead)
        if face is None:
            return None
        direction = self._direction(at, face)
        for halving in range(HALVINGS):
            theta = self._moved(at.theta, face, direction / 2**halving)
            predicted = self._predicted(at, theta)
            if predicted < 0 and self._lower(found := self._at(theta), at.merit + SUFFICIENT * predicted):
                return found
        return None

    def proximal(self, at: _Point) -> _Point | None:
        """A proximal gradient step, halved until the objective is below its quadratic bound; None at rounding level."""
        while self.step > SHORTEST_STEP:
            theta = self.ahead(at)
            move = theta - at.theta
            bound = at.merit + self._predicted(at, theta) + float(move @ move) / (2 * self.step)
            if self._lower(found := self._at(theta), bound):
                self.step *= GROWTH
                return found
            self.step /= 2
        return None

    def _face(self, at: _Point, ahead: Tensor) -> _Face | None:
        """The support, and where zeros want to move more than it does, the zeros that want to most.

        None where a proximal step is called for: groups of a curved penalty enter and leave only by that.
        """
        alive, move = at.theta != 0, ahead - at.theta
        moving = alive
        entering = float(move[~alive].norm()) > float(move[alive].norm())
        if not self._kinked and (entering or bool((ahead[alive] == 0).any())):
            return None
        if entering:
            moving = alive | _largest(move * ~alive, max(FEWEST_ADDED, int(alive.sum()) // ADDED_SHARE))
        support = moving.nonzero()[:, 0]
        slope = self._problem.penalty.subgradient(torch.where(alive, at.theta, ahead))[support]
        return _Face(support, slope, self._multiplier(slope, at.grad[support])) if len(support) else None

    def _multiplier(self, slope: Tensor, grad: Tensor) -> float:
        if not self._bounded:
            return self._lam
        return max(0.0, -float(slope @ grad) / max(float(slope @ slope), 1e-30))

    def _direction(self, at: _Point, face: _Face) -> Tensor:
        """The Newton step on the face; weights it would carry across zero stop there, and the rest is solved again."""
        x, slope = at.theta[face.support], at.grad[face.support] + face.lam * face.slope
        tolerance = float(slope.norm()) * min(LOOSEST, math.sqrt(float(slope.norm() / at.grad.norm())))
        product = self._problem.hvp(at.theta, face.support, face.lam)
        missing = self._guess.level - float(self._problem.penalty.value(at.theta))
        direction, free = torch.zeros_like(x), torch.ones_like(x)
        for _ in range(ROUNDS):
            here = slope + product(direction) if direction.any() else slope
            plane = (free * face.slope, missing - float(face.slope @ direction))
            direction = direction + self._solved(face, _restricted(product, free), free * here, plane, tolerance)
            crossing = free * self._crosses(x + direction, face)
            if not crossing.any():
                break
            free = free - crossing
            direction = torch.where(free > 0, direction, -x)
        return direction

    def _solved(
        self, face: _Face, product: Product, slope: Tensor, plane: tuple[Tensor, float], tolerance: float
    ) -> Tensor:
        """The least of the quadratic model, on the plane of the penalty held where it binds."""
        if not (self._bounded and face.lam > 0 and plane[0].any()):
            return minimise(product, slope, tolerance, MOST_PRODUCTS).at
        rounding = 8 * torch.finfo(slope.dtype).eps * self._guess.level
        exact = plane if abs(plane[1]) > rounding else (plane[0], 0.0)
        return minimise_on(exact, product, slope, tolerance, MOST_PRODUCTS).at

    def _crosses(self, moved: Tensor, face: _Face) -> Tensor:
        """One where a weight is on the other side of the penalty's kink at zero; a curved penalty has none."""
        return (moved * face.slope < 0).to(moved.dtype) if self._kinked else torch.zeros_like(moved)

    def _moved(self, theta: Tensor, face: _Face, direction: Tensor) -> Tensor:
        """The weights moved on their face, none across zero, and brought back to what is held."""
        moved = theta[face.support] + direction
        moved = torch.where(self._crosses(moved, face) > 0, 0.0, moved)
        return self._landed(theta.index_copy(0, face.support, moved))

    def _landed(self, theta: Tensor) -> Tensor:
        return self._keep(self._problem.penalty, theta, 1.0) if self._bounded else theta

    def _at(self, theta: Tensor) -> _Point:
        value, grad = self._problem.loss.value_and_grad(theta)
        return _Point(theta, grad, float(value) + self._weighed(theta))

    def _weighed(self, theta: Tensor) -> float:
        return self._lam * float(self._problem.penalty.value(theta)) if self._lam else 0.0

    def _predicted(self, at: _Point, theta: Tensor) -> float:
        """The change of the objective with a loss that is linear."""
        return float(at.grad @ (theta - at.theta)) + self._weighed(theta) - self._weighed(at.theta)

    def _lower(self, found: _Point, bound: float) -> bool:
        """Whether the objective is below the bound, up to rounding."""
        return found.merit <= bound + 4 * torch.finfo(found.grad.dtype).eps * abs(bound)


def _restricted(product: Product, free: Tensor) -> Product:
    """The product between the directions that are free, given as ones and zeros."""

    def restricted(direction: Tensor) -> Tensor:
        return free * product(direction)

    return restricted


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of the largest magnitudes that are not zero, `count` at most."""
    places = values.abs().topk(min(count, len(values))).indices
    return torch.zeros_like(values, dtype=torch.bool).index_fill(0, places, True) & (values != 0)
