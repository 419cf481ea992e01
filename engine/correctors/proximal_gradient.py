"""Accelerated proximal gradient steps on all data: the most exact corrector, for small data and for certificates."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

from torch import Tensor

from engine.correctors.base import Correction, Corrector, Hold, hold
from engine.problem import Problem, State

FIRST_STEP = 1.0


@dataclass
class _Iterate:
    """The running state of the iteration: the point, the extrapolated point and what is known there."""

    theta: Tensor
    ahead: Tensor
    value: Tensor
    grad: Tensor
    step: float
    age: int = 0


@final
class ProximalGradient(Corrector):
    """FISTA on all data with backtracking and restarts when momentum points uphill.

    Parameters
    ----------
    held : str
        "strength" or "penalty".
    passes : float
        Most gradient evaluations, each a full pass.
    tolerance : float
        Stop when the residual ``||theta - prox(theta - grad)||`` is at most this share of the gradient's norm.

    References
    ----------
    Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sciences 2, 2009.
    O'Donoghue, Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.
    """

    def __init__(
        self, held: Literal["strength", "penalty"] = "strength", passes: float = 100.0, tolerance: float = 1e-6
    ) -> None:
        self._held, self._passes, self._tolerance = held, passes, tolerance

    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        keep = hold(self._held, guess)
        start = keep(problem.penalty, guess.theta, 1.0) if self._held == "penalty" else guess.theta
        value, grad = problem.loss.value_and_grad(start)
        iterate = _Iterate(start, start, value, grad, guess.step or FIRST_STEP)
        stop = min(problem.loss.effort + self._passes, problem.loss.limit) - 1
        converged = False
        while problem.loss.effort < stop and not converged and math.isfinite(value):
            converged = self._advance(problem, keep, iterate)
        return Correction(replace(guess, theta=iterate.theta, step=iterate.step), converged)

    def _advance(self, problem: Problem, keep: Hold, it: _Iterate) -> bool:
        """One step with backtracking from the extrapolated point; True when it moved no further than the tolerance."""
        new = keep(problem.penalty, it.ahead - it.step * it.grad, it.step)
        move = new - it.ahead
        value, grad = problem.loss.value_and_grad(new)
        if not _descends(it, move, value, grad):
            it.step /= 2
            return it.step < 1e-15
        still = float(move.norm()) / it.step <= self._tolerance * float(it.grad.norm().clamp_min(1e-30))
        self._extrapolate(problem, it, new, (value, grad))
        return still

    def _extrapolate(self, problem: Problem, it: _Iterate, new: Tensor, known: tuple[Tensor, Tensor]) -> None:
        it.age = 0 if float((it.ahead - new) @ (new - it.theta)) > 0 else it.age + 1
        weight = (it.age - 1) / (it.age + 2) if it.age else 0.0
        it.ahead = new + weight * (new - it.theta) if weight > 0 else new
        it.value, it.grad = problem.loss.value_and_grad(it.ahead) if weight > 0 else known
        it.theta = new
        it.step *= 1.02


def _descends(it: _Iterate, move: Tensor, value: Tensor, grad: Tensor) -> bool:
    """Whether the step is no longer than the inverse of the curvature met along `move`.

    The value test loses its digits near a solution; there the gradients' own difference decides.
    """
    bound = it.value + it.grad @ move + move @ move / (2 * it.step)
    if value <= bound:
        return True
    return bool(((grad - it.grad) @ move).abs() <= move @ move / it.step) and bool(
        (value - bound).abs() <= 1e3 * value.abs() * _eps(value)
    )


def _eps(tensor: Tensor) -> float:
    return float(2.0**-52 if tensor.dtype.itemsize == 8 else 2.0**-23)
