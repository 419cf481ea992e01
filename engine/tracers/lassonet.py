"""LassoNet: whole input features leave the network, the last user of each being its linear layer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from engine.errors import InvalidSpec
from engine.front import Waypoint
from engine.lassonet import FIRST_LAYER, SKIP
from engine.layout import Block
from engine.penalties.base import Penalty, Step
from engine.predictors import state
from engine.problem import Problem
from engine.structure import view
from engine.tracers.base import Budget, Tracer
from engine.tracers.weighted_sum import Grid, How, WeightedSum

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]

HIERARCHY = 10.0
PASSES, FIRST_PASSES = 30, 100
DOUBLINGS, BISECTIONS = 60, 50


@final
class Hierarchy(Penalty):
    """Sum over features of the norm of their weights in the linear layer, where no hidden weight exceeds M times it.

    With S_j the linear layer's weights of feature j and W_j those of the first hidden layer: the sum of ``||S_j||_2``
    subject to ``||W_j||_inf <= M ||S_j||_2``. A feature that the linear layer drops is gone. The constraint is not
    convex; the proximal operator is exact all the same, for step sizes that are the same for all weights.

    Parameters
    ----------
    blocks : sequence of Block
        Of a `engine.lassonet.LassoNetwork`.
    most : float
        M, at least 0.

    Raises
    ------
    InvalidSpec
        If the network is another.

    References
    ----------
    Lemhadri, Ruan, Abraham, Tibshirani, "LassoNet: a neural network with feature sparsity", JMLR 22, 2021, algorithm 2.
    """

    def __init__(self, blocks: Sequence[Block], most: float = HIERARCHY) -> None:
        known = {block.name: block for block in blocks}
        if SKIP not in known or FIRST_LAYER not in known:
            raise InvalidSpec(f"method 'lassonet' needs network 'lassonet'; this one has {', '.join(known)}")
        self._skip, self._first, self._most = known[SKIP], known[FIRST_LAYER], most
        self.penalised = torch.zeros(blocks[-1].stop, dtype=torch.bool)
        for block in (self._skip, self._first):
            self.penalised[block.start : block.stop] = True

    def value(self, theta: Tensor) -> Tensor:
        norms: Tensor = view(theta, self._skip).norm(dim=0)
        return norms.sum()

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        moved = theta.clone()
        skip, first = hierarchical(view(theta, self._skip), view(theta, self._first), step, self._most)
        view(moved, self._skip).copy_(skip)
        view(moved, self._first).copy_(first)
        return moved

    def subgradient(self, theta: Tensor) -> Tensor:
        slope, skip = torch.zeros_like(theta), view(theta, self._skip)
        view(slope, self._skip).copy_(_unit(skip, 0.0))
        return slope

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        """Bisection on the multiplier, whose proximal operator's penalty falls."""
        scale = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device)
        low, high = torch.zeros_like(theta[0]), theta.abs().max() + 1
        for _ in range(DOUBLINGS):
            if self.value(self.prox(theta, high * scale)) <= radius:
                break
            high = 2 * high
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            inside = self.value(self.prox(theta, middle * scale)) <= radius
            low, high = (low, middle) if inside else (middle, high)
        return self.prox(theta, high * scale), high

    def features(self, theta: Tensor) -> int:
        """Input features in use."""
        used = (view(theta, self._skip) != 0).any(dim=0) | (view(theta, self._first) != 0).any(dim=0)
        return int(used.sum())


def hierarchical(skip: Tensor, first: Tensor, lam: Step, most: float) -> tuple[Tensor, Tensor]:
    """The hierarchical proximal operator of all features at once.

    The minimisers of ``(||S - skip||^2 + ||W - first||^2) / 2 + lam sum_j ||S_j||`` subject to
    ``||W_j||_inf <= most ||S_j||``. Where a column of `skip` is zero and the answer's is not, any direction is as good;
    all its weights are then equal.

    Parameters
    ----------
    skip : Tensor, shape (n_outputs, n_features)
    first : Tensor, shape (n_units, n_features)
    lam : float or 0-d Tensor
    most : float

    Returns
    -------
    skip, first : Tensor
        In the shapes of the arguments.

    References
    ----------
    Lemhadri, Ruan, Abraham, Tibshirani, JMLR 22, 2021, proposition 1 and algorithm 2.
    """
    ordered = first.abs().sort(dim=0, descending=True).values
    none = torch.zeros_like(ordered[:1])
    sums = torch.cat([none, ordered.cumsum(dim=0)])
    count = torch.arange(len(sums), dtype=skip.dtype, device=skip.device).unsqueeze(1)
    norms = (skip.norm(dim=0) + most * sums - lam).clamp_min(0.0) / (1 + count * most**2)
    settled = (most * norms >= torch.cat([ordered, none])).int().argmax(dim=0, keepdim=True)
    norm = norms.gather(0, settled)
    return norm * _unit(skip, len(skip) ** -0.5), first.sign() * torch.minimum(first.abs(), most * norm)


def _unit(columns: Tensor, otherwise: float) -> Tensor:
    """Columns of norm one, and of the number `otherwise` where they are zero."""
    norms = columns.norm(dim=0)
    return torch.where(norms > 0, columns / norms.clamp_min(torch.finfo(norms.dtype).tiny), otherwise)


@final
class LassoNet(Tracer):
    """Train without a penalty, then minimise ``loss + lam * sum_j ||S_j||`` under the hierarchy for growing lam.

    Strength and start of the search are those of `WeightedSum`. Points have the problem's own penalty, and its
    multiplier and certificate; their metrics ``features``, ``skip_norm`` and ``strength`` are LassoNet's.

    Parameters
    ----------
    path : WeightedSum
        Its correctors take step sizes that are the same for all weights.
    most : float
        M of the hierarchy.
    """

    cleanup = False

    def __init__(self, path: WeightedSum, most: float = HIERARCHY) -> None:
        self._path, self._most = path, most
        self.expected = path.expected

    def check(self, blocks: Sequence[Block]) -> None:
        Hierarchy(blocks, self._most)

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        hierarchy = Hierarchy(problem.loss.layout, self._most)
        selecting = Problem(problem.loss, hierarchy)
        for waypoint in self._path.trace(selecting, [_selecting(w) for w in trail]):
            yield self._measured(problem, hierarchy, waypoint)
        self.ended = self._path.ended

    def _measured(self, problem: Problem, hierarchy: Hierarchy, waypoint: Waypoint) -> Waypoint:
        """With the problem's penalty in the place of the hierarchy's, which becomes metrics."""
        theta, point = state(problem, waypoint).theta, waypoint.point
        _, grad = problem.loss.value_and_grad(theta)
        lam = problem.multiplier(theta, grad)
        own = {"features": float(hierarchy.features(theta)), "skip_norm": point.penalty, "strength": point.lam or 0.0}
        measured = replace(
            point,
            penalty=float(problem.penalty.value(theta)),
            lam=lam,
            residual=problem.residual(theta, grad, lam),
            effort=problem.loss.effort,
            metrics={**point.metrics, **own},
        )
        return replace(waypoint, point=measured)


def _selecting(waypoint: Waypoint) -> Waypoint:
    """The waypoint as the search left it."""
    own = waypoint.point.metrics
    return replace(waypoint, point=replace(waypoint.point, penalty=own["skip_norm"], lam=own["strength"]))


def lassonet(  # noqa: PLR0913 - every argument is a setting of the user's
    points: int,
    seed: int,
    budget: Budget,
    *,
    hierarchy: Annotated[float, Ge(0)] = HIERARCHY,
    strongest: Positive | None = None,
    weakest: Positive | None = None,
    corrector: Literal["accelerated", "proximal_gradient"] = "proximal_gradient",
    epochs: Count | None = None,
    first_epochs: Count | None = None,
    batch: Count | None = None,
    rate: Positive | None = None,
    tolerance: Positive = 1e-6,
) -> Tracer:
    """Select input features by LassoNet's hierarchical proximal steps, at ever stronger penalties; for its network.

    Parameters
    ----------
    hierarchy : float
        How many times the norm of a feature's weights in the linear layer each of its hidden weights may be; 0 is a
        linear model.
    strongest : float
        Strongest penalty; by default about the least that leaves no feature.
    weakest : float
        Weakest penalty; a thousandth of the strongest by default.
    corrector : str
        Accelerated steps on all data, or on mini-batches, whose noise keeps features that belong at zero.
    epochs : int
        Passes over the training data per strength, 30 by default.
    first_epochs : int
        The same for the weakest penalty, 100 by default.
    batch : int
        Samples in a mini-batch; chosen from the data by default.
    rate : float
        Step size as a share of the longest safe one; 0.5 by default.
    tolerance : float
        Where steps on all data stop, relative to the gradient.
    """
    if points < 2:
        raise InvalidSpec(f"{points} points make no path; ask for 2 or more")

    solvers = How((first_epochs or FIRST_PASSES, epochs or PASSES), batch, rate, tolerance).solvers(corrector)
    grid = Grid(points, strongest=strongest, weakest=weakest)
    return LassoNet(WeightedSum(grid, solvers, solvers, seed, budget, cleanup=False), hierarchy)
