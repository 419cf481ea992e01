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
from engine.waiting import waits

Solver = Literal["exact", "bisection"]

OFFICIAL_BISECTIONS = 10
FULL_BISECTIONS = 60
TINY = 1e-300


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
        ahead, age = theta, torch.zeros_like(theta[0])
        for batch in self._batches(problem, seed):
            _, grad = problem.loss.value_and_grad(ahead, batch)
            new, _ = _descent(problem.penalty, ahead, grad, step, self._solver)
            if self._accelerated:
                age = torch.where(_uphill(problem.penalty, theta, ahead, new), 0.0, age + 1)
            ahead = new + (age - 1).clamp_min(0) / (age + 2) * (new - theta)
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

    y, alpha = _descent(penalty, theta, grad, step, solver)
    return y, float(alpha)


def _descent(penalty: Penalty, theta: Tensor, grad: Tensor, step: float, solver: Solver) -> tuple[Tensor, Tensor]:
    """`common_descent` with a weight, 0-d, that nobody has to wait for."""

    def move(alpha: Tensor) -> Tensor:
        return penalty.prox(theta - step * alpha * grad, step * (1 - alpha))

    before = penalty.value(theta)

    def slope(alpha: Tensor) -> Tensor:
        y = move(alpha)
        return grad @ (y - theta) - (penalty.value(y) - before)

    alpha = _best_weight(penalty, theta, grad, step, solver, slope)
    return move(alpha), alpha


def _best_weight(
    penalty: Penalty, theta: Tensor, grad: Tensor, step: float, solver: Solver, slope: Callable[[Tensor], Tensor]
) -> Tensor:
    half = torch.full((), 0.5, dtype=torch.float64, device=theta.device)
    if solver == "bisection":
        return _bisect(slope, half, OFFICIAL_BISECTIONS)
    if isinstance(penalty, L1):
        return _zero(penalty, theta, grad, step, slope(torch.zeros_like(half)).double())
    return _bisect(slope, half, FULL_BISECTIONS)


def _bisect(slope: Callable[[Tensor], Tensor], alpha: Tensor, steps: int) -> Tensor:
    """The authors' schedule: start at one half, then add or subtract 2^-(j+2)."""
    for j in range(steps):
        alpha = alpha + torch.where(slope(alpha) > 0, 2.0 ** -(j + 2), -(2.0 ** -(j + 2)))
    return alpha


def _zero(penalty: L1, theta: Tensor, grad: Tensor, step: float, at_zero: Tensor) -> Tensor:
    """The weight in [0, 1] where the slope is zero, which is piecewise linear and falls from `at_zero`, 0-d.

    With a sign s, an entry of the step that is not zero adds ``-h (g - s)^2`` to the slope's derivative; whether it is
    not zero changes at one weight, which may lie in (0, 1). So cumulative sums give all derivatives and slopes.
    """
    inside = penalty.penalised.to(theta.device)
    points, turns, first = zip(*(_side(theta, grad, step, sign, inside) for sign in (1, -1)), strict=True)
    free = torch.where(inside, 0.0, grad).square().sum()
    order = torch.cat(points).double().sort()
    at = torch.cat([order.values, order.values.new_ones(1)])
    begin = (first[0] + first[1] + free).neg().double().view(1)
    derivatives = step * torch.cat([begin, torch.cat(turns).double()[order.indices]]).cumsum(0)
    slopes = at_zero + (derivatives * at.diff(prepend=at.new_zeros(1))).cumsum(0)
    following = (slopes > 0).sum().clamp_max(len(at) - 1).view(1)
    beyond = slopes[following] / derivatives[following].clamp_max(-TINY)
    return torch.where(at_zero > 0, (at[following] - beyond).clamp(0, 1).sum(), 0.0)


def _side(theta: Tensor, grad: Tensor, step: float, sign: int, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What entries of one sign add to the derivative of the slope, in units of the step size.

    Returns
    -------
    points, turns : Tensor, shape (n,)
        Weights in (0, 1) at which an entry comes or goes, and by how much the derivative turns there; where the
        processor would wait to learn how many they are, all others are there too, with the weight 1 and no turn.
    begin : Tensor, 0-d
        What there is at weight 0, without its sign.
    """
    against = grad - sign
    point = (theta - sign * step) / (step * against)
    among = (point > 0) & (point < 1) & inside
    begin = torch.where(inside & (sign * theta > step), against, 0.0).square().sum()
    if waits(point):
        point, against = torch.where(among, point, 1.0), torch.where(among, against, 0.0)
    else:
        point, against = point[among], against[among]
    return point, sign * against * against.abs(), begin


def _uphill(penalty: Penalty, theta: Tensor, ahead: Tensor, new: Tensor) -> Tensor:
    """Whether momentum fights the step, or the step from the extrapolated point raised the penalty."""
    return ((ahead - new) @ (new - theta) > 0) | (penalty.value(new) > penalty.value(theta))
