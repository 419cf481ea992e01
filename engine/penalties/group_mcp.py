"""The minimax concave penalty of groups of weights."""

import math
from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor

from engine.layout import Block
from engine.penalties.groups import Grouping, Partition
from engine.penalties.searched import SearchedNorms, Trial
from engine.penalties.widths import TINY, Widths
from engine.waiting import rounds, settled

NEWTON_STEPS, ENOUGH_STEPS = 60, 8


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
        Norm of a group from which on it is charged no more, and not shrunk. Groups beyond it can only be dropped
        whole: choose it above the norms that groups get at first, up to 5 for units of narrow networks.
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
        plateau: Annotated[float, Gt(0)] = 8.0,
        parameters: str = "weights",
    ) -> None:
        super().__init__(Partition(blocks, parameters, groups), plateau=plateau)

    def _shrink_(self, theta: Tensor, step: Tensor) -> None:
        trial = self._trial(theta, step)
        trial.at(torch.ones((), dtype=torch.float64, device=theta.device))
        theta.copy_(trial.moved())

    def _trial(self, theta: Tensor, step: Tensor) -> Trial:
        return _Firm(self._groups, self._exact_levels(theta), self._plateau, theta, step)


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
        self._level, self._plateau, self._x = level, plateau, theta
        reach = groups.scale_(step.clone(), level.to(step.dtype))
        self._widths, self._farthest = Widths(groups, theta, reach), groups.largest(reach).double()
        self._strength = groups.sums((theta / step).square()).double().sqrt() / level
        self._near = math.sqrt(torch.finfo(theta.dtype).eps) * self._widths.norms

    def at(self, multiplier: Tensor) -> Tensor:
        self._multiplier = t = multiplier.to(self._level)
        alive = self._strength > t
        below = (self._widths.norms - t * self._widths.mean).clamp(0.0, self._plateau)
        root = torch.where(alive & (t * self._farthest < self._plateau), below, 0.0)
        for _ in rounds(root, NEWTON_STEPS, ENOUGH_STEPS):
            behind, ahead = root, torch.where(alive, root + self._ahead(root), 0.0).clamp_max(self._plateau)
            root = torch.maximum(ahead, behind)
            if settled(root > behind + self._near):
                break
        self._root, self._free = root, self._stays(root)
        return torch.where(self._free, self._level * self._plateau / 2, self._charge(root)).sum()

    def fall(self) -> Tensor:
        _, slope, reached = self._sums(self._root)
        ease = 1 - self._root / self._plateau
        moving = (self._root > self._widths.least) & ~self._free
        return (self._level * torch.where(moving, ease.square() * reached / slope.clamp_min(TINY), 0.0)).sum()

    def moved(self) -> Tensor:
        found = self._x.clone()
        left = torch.where(self._free, self._widths.norms, self._root)
        self._widths.scale_(found, left, torch.where(self._free, 0.0, self._pull(self._root)))
        return found

    def _pull(self, root: Tensor) -> Tensor:
        return self._multiplier * (1 - root / self._plateau)

    def _charge(self, root: Tensor) -> Tensor:
        return self._level * (root - root.square() / (2 * self._plateau))

    def _sums(self, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Widths.sums`; the second is of ``x^2 (1 - t reach / plateau) / width^3``."""
        total, slope, reached = self._widths.sums(root, self._pull(root))
        return total, slope - self._multiplier / self._plateau * reached, reached

    def _ahead(self, root: Tensor) -> Tensor:
        """Newton's step from `root`, shape (n_groups,); infinite where the equation's left side falls."""
        total, slope, _ = self._sums(root)
        return torch.where(slope > 0, total * (total.sqrt() - 1) / slope.clamp_min(TINY), math.inf)

    def _stays(self, root: Tensor) -> Tensor:
        """Which groups are best left as they are: beyond the plateau, and at no higher cost than shrunk."""
        pull, shrunk = self._pull(root), torch.zeros_like(root)
        for panel, (x, reach, width, room) in self._widths.parts(root, pull):
            panel.add_(shrunk, torch.div(x, width, out=room).square_().mul_(reach))
        shrunk *= pull.square() * self._level / (2 * self._multiplier.clamp_min(TINY))
        free = self._level * self._plateau / 2
        return (self._widths.norms >= self._plateau) & (free <= shrunk + self._charge(root))
