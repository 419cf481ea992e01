"""The sum of the groups' largest magnitudes."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from engine.layout import Block
from engine.penalties.base import Step
from engine.penalties.group import GroupPenalty
from engine.penalties.groups import Grouping, Partition
from engine.penalties.tangents import Lines, Tangents
from engine.penalties.widths import TINY


@final
class GroupLinf(GroupPenalty):
    """Sum over groups of the size times the largest magnitude (l1/linf): units become zero, the others' weights equal.

    Parameters
    ----------
    blocks : sequence of Block
    groups : str
        What becomes zero together: "neuron" or "filter" (a unit's incoming weights, and its bias where penalised),
        "input" (what reads an input or channel of a layer), "feature" (what reads an input of the network; units in
        later layers), or "head" (an attention head; units elsewhere).
    parameters : str
        Which parameters are penalised: "weights" (no biases, no norm layers), "all", or comma-separated name patterns.

    References
    ----------
    Turlach, Venables, Wright, "Simultaneous variable selection", Technometrics 47, 2005.
    Duchi, Singer, "Efficient online and batch learning using forward backward splitting", JMLR 10, 2009 (the prox).
    """

    def __init__(self, blocks: Sequence[Block], *, groups: Grouping = "neuron", parameters: str = "weights") -> None:
        super().__init__(Partition(blocks, parameters, groups))

    def charges(self, theta: Tensor) -> Tensor:
        return self._sizes(theta).to(theta.dtype) * self._groups.largest(theta.abs())

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        found = theta.clone()
        self.prox_(found, torch.as_tensor(step, dtype=theta.dtype, device=theta.device).expand_as(theta).clone())
        return found

    def prox_(self, theta: Tensor, step: Tensor) -> None:
        _Bounds(self._groups, self._sizes(theta), theta, step).prox_(theta)

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        """See `Penalty.project_`."""
        size = self._sizes(theta)
        return _Bounds(self._groups, size, theta, metric).project_(theta, size, radius, near is not None)

    def subgradient(self, theta: Tensor) -> Tensor:
        """See `Penalty.subgradient`: shared evenly by the weights of the largest magnitude."""
        top = self._top(theta)
        share = self._sizes(theta).to(theta.dtype) / self._groups.sums(top).clamp_min(1.0)
        return theta.sign() * top * self._groups.spread(share, 0.0)

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        """See `Penalty.curvature`: none, but single weights have no kink at zero either."""
        return torch.zeros_like(theta)

    def _top(self, theta: Tensor) -> Tensor:
        """One where a weight has the largest magnitude of its group and is not zero."""
        most = self._groups.spread(self._groups.largest(theta.abs()), math.inf)
        return ((theta.abs() == most) & (theta != 0)).to(theta.dtype)

    def _sizes(self, like: Tensor) -> Tensor:
        self._groups.sizes = self._groups.sizes.to(like.device)
        return self._groups.sizes


@final
class _Bounds(Tangents):
    """The largest magnitude that each group keeps, T: ``sum_i d_i max(|x_i| - T, 0) = size t``, at least 0.

    The sum is convex, falling and piecewise linear in T, so the iteration is finite.

    Parameters
    ----------
    groups : Partition
    size : Tensor of float64, shape (n_groups,)
    theta, step : Tensor, shape (n_params,)
        x and the inverse of the metric d; `step` is used up.

    References
    ----------
    Michelot, "A finite algorithm for finding the projection onto the canonical simplex", JOTA 50, 1986.
    """

    enough = 6

    def __init__(self, groups: Partition, size: Tensor, theta: Tensor, step: Tensor) -> None:
        self._groups, self._size = groups, size
        self._magnitude = theta.abs()
        metric = step.clamp_min_(torch.finfo(step.dtype).tiny).reciprocal_()
        vectors = (self._magnitude, metric, torch.empty_like(theta))
        self._parts = groups.parts(*vectors)
        self._top = self._first()

    def first(self) -> Lines:
        return self._top

    def _first(self) -> Lines:
        most, metric = self._groups.largest(self._magnitude), torch.zeros_like(self._size)
        for panel, (magnitude, weight, held) in self._parts:
            torch.eq(magnitude, panel.across(most), out=held)
            panel.add_(metric, held.mul_(weight))
        return most.double(), self._size / metric.clamp_min(TINY)

    def at(self, left: Tensor, multiplier: Tensor) -> Lines:
        bound = left.to(self._magnitude.dtype)
        excess, metric = torch.zeros_like(left), torch.zeros_like(left)
        for panel, (magnitude, weight, over) in self._parts:
            torch.sub(magnitude, panel.across(bound), out=over).relu_()
            panel.add_(excess, over * weight)
            panel.add_(metric, over.sign_().mul_(weight))
        (start, fall), some = self._top, metric > 0
        return torch.where(some, bound + excess / metric, start), torch.where(some, self._size / metric, fall)

    def leave_(self, theta: Tensor, left: Tensor, multiplier: Tensor) -> None:
        bound = left.to(theta.dtype)
        for panel in self._groups.panels:
            most = panel.across(bound)
            panel.of(theta).clamp_(-most, most)

    def still(self) -> float:
        return math.pow(torch.finfo(self._magnitude.dtype).eps, 7 / 8)
