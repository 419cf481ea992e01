"""The minimax concave penalty of groups of weights."""

import math
from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor

from engine.layout import Block
from engine.penalties.groups import Grouping, Partition
from engine.penalties.searched import TINY, SearchedNorms, Trial
from engine.waiting import rounds, settled

NEWTON_STEPS, ENOUGH_STEPS = 60, 8
FEW_ROUNDINGS = 8


@final
class GroupMCP(SearchedNorms):
    """Minimax concave penalty of the groups' l2 norms: small units become zero, large ones are not shrunk.

    Sum over groups of ``sqrt(size) (r - r^2 / (2 plateau))`` for norms r up to `plateau`, constant beyond. It is not
    convex: the prox is the better of two stationary points, and its penalty may jump as the step grows. The projection
    is the prox with the least step that brings the penalty down to the radius. Where it jumps past the radius, the
    units that jump are shrunk until it is met, and the multiplier is that of the jump.

    Parameters
    ----------
    blocks : sequence of Block
    groups : str
        What becomes zero together: "neuron" or "filter" (a unit's incoming weights, and its bias where penalised),
        "input" (what reads an input or channel of a layer), "feature" (what reads an input of the network; units in
        later layers), or "head" (an attention head; units elsewhere).
    plateau : float
        Norm of a group from which on it is charged no more, and not shrunk. Groups beyond it from the start can only
        be dropped whole: choose it above the norms that they begin with, about 0.6 for units.
    parameters : str
        Which parameters are penalised: "weights" (no biases, no norm layers), "all", or comma-separated name patterns.

    References
    ----------
    Zhang, "Nearly unbiased variable selection under minimax concave penalty", Annals of Statistics 38, 2010.
    Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021: their
    gamma times lambda is `plateau`.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        groups: Grouping = "neuron",
        plateau: Annotated[float, Gt(0)] = 2.0,
        parameters: str = "weights",
    ) -> None:
        super().__init__(Partition(blocks, parameters, groups), plateau=plateau)

    def _shrink_(self, theta: Tensor, step: Tensor) -> None:
        trial = self._trial(theta, step)
        trial.at(torch.ones((), dtype=torch.float64, device=theta.device))
        theta.copy_(trial.moved())

    def _trial(self, theta: Tensor, step: Tensor) -> Trial:
        return _Firm(self._groups, self._levels(theta.double()[:1]), self._plateau, theta, step)


@final
class _Firm(Trial):
    """The norm r of each group after the prox, 0 where it vanishes and the plateau where the group is free.

    A norm is stationary where ``1 / ||x / (r + t reach (1 - r / plateau))|| = 1``. The left side is a concave function
    of r, since the mean of power -2 is concave and its arguments are affine. So Newton's iteration from below rises to
    the least root and never passes it.

    Parameters
    ----------
    groups : Partition
    level : Tensor of float64, shape (n_groups,)
    plateau : float
    theta, step : Tensor, shape (n_params,)
        x and the inverse of the metric.

    References
    ----------
    Moré, Sorensen, "Computing a trust region step", SIAM J. Sci. Stat. Comput. 4, 1983 (this form of the equation).
    """

    def __init__(self, groups: Partition, level: Tensor, plateau: float, theta: Tensor, step: Tensor) -> None:
        self._groups, self._level, self._plateau, self._x = groups, level, plateau, theta
        reach = groups.scale_(step.clone(), level.to(step.dtype))
        self._parts = groups.parts(theta, reach, torch.empty_like(theta), torch.empty_like(theta))
        self._strength = groups.sums((theta / step).square()).double().sqrt() / level
        self._norms, self._mean = self._start(theta)
        self._least = torch.where(self._norms > 0, FEW_ROUNDINGS * torch.finfo(theta.dtype).eps * self._norms, 1.0)
        self._largest = groups.largest(reach).double()

    def _start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norms, and the mean reach weighted by squares; shape (n_groups,)."""
        squares, reached = torch.zeros_like(self._level), torch.zeros_like(self._level)
        for panel, (values, reach, _, room) in self._parts:
            panel.add_(squares, torch.square(values, out=room))
            panel.add_(reached, room.mul_(reach))
        return squares.sqrt(), reached / squares.clamp_min(TINY)

    def at(self, multiplier: Tensor) -> Tensor:
        self._multiplier = t = multiplier.to(self._level)
        alive = self._strength > t
        below = (self._norms - t * self._mean).clamp(0.0, self._plateau)
        root = torch.where(alive & (t * self._largest < self._plateau), below, 0.0)
        for _ in rounds(root, NEWTON_STEPS, ENOUGH_STEPS):
            behind, ahead = root, torch.where(alive, root + self._ahead(root), 0.0).clamp_max(self._plateau)
            root = torch.maximum(ahead, behind)
            if settled(root > behind + math.sqrt(torch.finfo(self._x.dtype).eps) * self._norms):
                break
        self._root, self._free = root, self._stays(root)
        charge = root - root.square() / (2 * self._plateau)
        return (self._level * torch.where(self._free, self._plateau / 2, charge)).sum()

    def fall(self) -> Tensor:
        slope, pull = self._sums(self._root)
        ease = 1 - self._root / self._plateau
        moving = (self._root > self._least) & ~self._free
        return (self._level * torch.where(moving, ease.square() * pull / slope.clamp_min(TINY), 0.0)).sum()

    def moved(self) -> Tensor:
        found = self._x.clone()
        single, beside = (
            torch.where(self._free, kept, part) for kept, part in zip((1.0, 0.0), self._widths(self._root), strict=True)
        )
        left = torch.where((self._root > self._least) | self._free, single, 0.0)
        for panel, (_, reach, width, _) in self._parts:
            torch.addcmul(panel.across(single), reach, panel.across(beside), out=width)
            panel.of(found).mul_(torch.div(panel.across(left), width, out=width))
        return found

    def _widths(self, root: Tensor) -> tuple[Tensor, Tensor]:
        """What widths ``r + t reach (1 - r / plateau)`` consist of, in the weights' precision, shape (n_groups,)."""
        single = torch.maximum(root, self._least)
        beside = self._multiplier * (1 - root / self._plateau)
        return single.to(self._x.dtype), beside.to(self._x.dtype)

    def _sums(self, root: Tensor) -> tuple[Tensor, Tensor]:
        """``sum x^2 (1 - t reach / plateau) / width^3`` and ``sum x^2 reach / width^3``, shape (n_groups,)."""
        slope, pull = torch.zeros_like(root), torch.zeros_like(root)
        single, beside = self._widths(root)
        for panel, (x, reach, width, room) in self._parts:
            torch.addcmul(panel.across(single), reach, panel.across(beside), out=width)
            panel.add_(slope, torch.div(x, width, out=room).square_().div_(width))
            panel.add_(pull, room.mul_(reach))
        self._total = torch.maximum(root, self._least) * slope + beside * pull
        return slope - self._multiplier / self._plateau * pull, pull

    def _ahead(self, root: Tensor) -> Tensor:
        """Newton's step from `root`, shape (n_groups,); infinite where the equation's left side falls."""
        slope, _ = self._sums(root)
        return torch.where(slope > 0, self._total * (self._total.sqrt() - 1) / slope.clamp_min(TINY), math.inf)

    def _stays(self, root: Tensor) -> Tensor:
        """Which groups are best left as they are: beyond the plateau, and at no higher cost than shrunk."""
        single, beside = self._widths(root)
        shrunk = torch.zeros_like(root)
        for panel, (x, reach, width, room) in self._parts:
            torch.addcmul(panel.across(single), reach, panel.across(beside), out=width)
            panel.add_(shrunk, torch.div(x, width, out=room).square_().mul_(reach))
        shrunk *= beside.double().square() * self._level / (2 * self._multiplier.clamp_min(TINY))
        charge = self._level * (root - root.square() / (2 * self._plateau))
        return (self._norms >= self._plateau) & (self._level * self._plateau / 2 <= shrunk + charge)
