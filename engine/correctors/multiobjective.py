"""The multiobjective proximal gradient step: both objectives fall at once, the trade-off is the step's own choice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, final

import torch
from torch import Tensor

from engine.correctors.base import Correction, Corrector, longest_step, mini_batches
from engine.losses import Batch
from engine.penalties import L1, Penalty
from engine.problem import Problem, State

Solver = Literal["exact", "bisection"]

OFFICIAL_BISECTIONS = 10
FULL_BISECTIONS = 60


@final
class MultiobjectiveProximalGradient(Corrector):
    """Steps that lower loss and penalty together until neither can fall without the other rising.

    Parameters
    ----------
    epochs : int, optional
        Passes over the data; as many as make up `steps` if None.
    steps : int
        Steps where `epochs` is not given; more where the samples are few.
    batch : int, optional
        Samples in a mini-batch; all samples if None.
    rate : float
        Step size as a share of the longest one that the curvature allows.
    step : float, optional
        Step size h, where it is to be fixed.
    solver : str
        How the trade-off of a step is found: "exact", or "bisection" in ten steps as in the authors' code.
    accelerated : bool
        Extrapolate after Nesterov, and restart where momentum points uphill or raises the penalty.

    References
    ----------
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025, Algorithm 1.
    Tanabe, Fukuda, Yamashita, "Proximal gradient methods for multiobjective optimization and their applications",
    Computational Optimization and Applications 72, 2019.
    """

    def __init__(
        self,
        epochs: int | None = None,
        batch: int | None = None,
        rate: float = 0.5,
        step: float | None = None,
        solver: Solver = "exact",
        accelerated: bool = True,
        steps: int = 27,
    ) -> None:
        self._epochs, self._batch, self._rate, self._step = epochs, batch, rate, step
        self._solver: Solver = solver
        self._accelerated, self._steps = accelerated, steps

    def _correct(self, problem: Problem, guess: State, seed: int) -> Correction:
        problem.loss.load_buffers(guess.buffers)
        longest = guess.step
        if self._step is None:
            batch = next(self._batches(problem, seed))
            longest = longest_step(problem.loss, guess.theta, guess.step, batch)
        step = self._step or self._rate * (longest or 1.0)
        theta = self._descend(problem, guess.theta, step, seed)
        if self._batch is not None:
            problem.loss.calibrate(theta)
        return Correction(replace(guess, theta=theta, buffers=problem.loss.buffers, step=longest), fell=False)

    def _batches(self, problem: Problem, seed: int) -> Iterator[Batch | None]:
        if self._batch is None:
            yield from (None for _ in range(self._epochs or self._steps))
            return
        yield from mini_batches(problem.loss, seed, self._batch, self._epochs, self._steps)

    def _descend(self, problem: Problem, theta: Tensor, step: float, seed: int) -> Tensor:
        ahead, age = theta, 0
        for batch in self._batches(problem, seed):
            _, grad = problem.loss.value_and_grad(ahead, batch)
            new, _ = common_descent(problem.penalty, ahead, grad, step, self._solver)
            age = age + 1 if self._accelerated and not _uphill(problem.penalty, theta, ahead, new) else 0
            ahead = new + max(age - 1, 0) / (age + 2) * (new - theta)
            theta = new
        return theta


def common_descent(
    penalty: Penalty, theta: Tensor, grad: Tensor, step: float, solver: Solver = "exact"
) -> tuple[Tensor, float]:
    """One multiobjective proximal gradient step.

    Maximises the concave dual over the weight alpha of the loss, whose derivative is the difference of the two
    model changes: ``w1 - w2`` at ``y(alpha) = prox(theta - h alpha grad, h (1 - alpha))``.

    Parameters
    ----------
    penalty : Penalty
        For the "exact" solver's breakpoints an l1 norm; others are solved by a full bisection.
    theta, grad : Tensor, shape (n_params,)
    step : float
        Step size h.
    solver : str
        "exact", or "bisection" for the ten steps of the authors' code.

    Returns
    -------
    y : Tensor, shape (n_params,)
    alpha : float
        Weight of the loss; ``(1 - alpha) / alpha`` is the strength.

    References
    ----------
    Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025, Algorithm 1 (dual problem and bisection).
    """

    def move(alpha: float) -> Tensor:
        return penalty.prox(theta - step * alpha * grad, step * (1 - alpha))

    before = penalty.value(theta)

    def slope(alpha: float) -> float:
        y = move(alpha)
        return float(grad @ (y - theta) - (penalty.value(y) - before))

    alpha = _best_weight(penalty, theta, grad, step, solver, slope)
    return move(alpha), alpha


def _best_weight(
    penalty: Penalty, theta: Tensor, grad: Tensor, step: float, solver: Solver, slope: Callable[[float], float]
) -> float:
    if solver == "bisection":
        return _bisect(slope, OFFICIAL_BISECTIONS)
    if isinstance(penalty, L1):
        return _between_breakpoints(_breakpoints(penalty, theta, grad, step), slope)
    return _bisect(slope, FULL_BISECTIONS)


def _bisect(slope: Callable[[float], float], steps: int) -> float:
    """The authors' schedule: start at one half, then add or subtract 2^-(j+2)."""
    alpha = 0.5
    for j in range(steps):
        alpha += 2.0 ** -(j + 2) if slope(alpha) > 0 else -(2.0 ** -(j + 2))
    return alpha


def _breakpoints(penalty: L1, theta: Tensor, grad: Tensor, step: float) -> list[float]:
    """Weights in (0, 1) where an entry of the step becomes zero or stops being zero, sorted, with both ends."""
    inside = penalty.penalised.to(theta.device)
    theta, grad = theta[inside].double(), grad[inside].double()
    leaving = (theta - step) / (step * (grad - 1))
    entering = (theta + step) / (step * (grad + 1))
    points = torch.cat([leaving, entering])
    points = points[(points > 0) & (points < 1)].sort().values
    return [0.0, *points.tolist(), 1.0]


def _between_breakpoints(points: list[float], slope: Callable[[float], float]) -> float:
    """The zero of the nonincreasing, piecewise linear `slope`."""
    low, high = 0, len(points) - 1
    if (at_low := slope(0.0)) <= 0:
        return 0.0
    if (at_high := slope(1.0)) >= 0:
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        value = slope(points[middle])
        low, high, at_low, at_high = (middle, high, value, at_high) if value > 0 else (low, middle, at_low, value)
    share = at_low / (at_low - at_high) if at_low > at_high else 0.5
    return points[low] + share * (points[high] - points[low])


def _uphill(penalty: Penalty, theta: Tensor, ahead: Tensor, new: Tensor) -> bool:
    """Whether momentum fights the step, or the step from the extrapolated point raised the penalty."""
    return bool((ahead - new) @ (new - theta) > 0) or bool(penalty.value(new) > penalty.value(theta))
