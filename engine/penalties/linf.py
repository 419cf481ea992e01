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

NEWTON_STEPS = 100
TINY = 1e-300


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
        return self._sizes(theta) * self._groups.largest(theta.abs())

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        inverse = torch.as_tensor(step, dtype=torch.float64, device=theta.device).expand_as(theta)
        bound = self._groups.spread(self._bounds(theta.double().abs(), 1 / inverse).to(theta.dtype), math.inf)
        return theta.clamp(-bound, bound)

    def subgradient(self, theta: Tensor) -> Tensor:
        """See `Penalty.subgradient`: shared evenly by the weights of the largest magnitude."""
        top = self._top(theta)
        share = self._sizes(theta) / self._groups.sums(top).clamp_min(1.0)
        return theta.sign() * top * self._groups.spread(share, 0.0)

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        """See `Penalty.curvature`: none, but single weights have no kink at zero either."""
        return torch.zeros_like(theta)

    def fall(self, moved: Tensor, multiplier: float, step: Tensor) -> Tensor:
        """See `GroupPenalty.fall`: the bound falls by the size over the metric of the weights that it holds."""
        metric = self._groups.sums(self._top(moved).double() / step.double())
        return torch.where(metric > 0, self._sizes(metric).square() / metric.clamp_min(TINY), 0.0).sum()

    def _bounds(self, magnitude: Tensor, metric: Tensor) -> Tensor:
        """The largest magnitude that each group keeps, the root of ``sum_i d_i max(|x_i| - T, 0) = size``, at least 0.

        The sum is convex, falling and piecewise linear in T, so Newton's iteration from 0 is finite.

        References
        ----------
        Michelot, "A finite algorithm for finding the projection onto the canonical simplex", JOTA 50, 1986.
        """
        size, bound = self._sizes(magnitude), torch.zeros_like(self._sizes(magnitude))
        over, held = torch.zeros_like(magnitude), torch.empty_like(magnitude)
        for _ in range(NEWTON_STEPS):
            torch.sub(magnitude, self._groups.spread_(over, bound), out=over).clamp_min_(0.0)
            slope = self._groups.sums(torch.sign(over, out=held).mul_(metric))
            excess = self._groups.sums(held.mul_(over)) - size
            following = torch.maximum(bound, bound + excess / slope.clamp_min(TINY))
            if not bool((following > bound).any()):
                break
            bound = following
        return bound

    def _top(self, theta: Tensor) -> Tensor:
        """One where a weight has the largest magnitude of its group and is not zero."""
        most = self._groups.spread(self._groups.largest(theta.abs()), math.inf)
        return ((theta.abs() == most) & (theta != 0)).to(theta.dtype)

    def _sizes(self, like: Tensor) -> Tensor:
        return self._groups.sizes.to(like)
