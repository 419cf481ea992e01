"""The sparse group lasso."""

from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from engine.layout import Block
from engine.penalties.groups import Grouping, Partition
from engine.penalties.norms import NormTangents
from engine.penalties.searched import SearchedNorms, Trial
from engine.penalties.widths import TINY

LEAST = 1e-60


@final
class SparseGroup(SearchedNorms):
    """A share of the l1 norm, and the rest of the group lasso: whole units become zero, and weights within units.

    Parameters
    ----------
    blocks : sequence of Block
    groups : str
        What becomes zero together: "neuron" or "filter" (a unit's incoming weights, and its bias where penalised),
        "input" (what reads an input or channel of a layer), "feature" (what reads an input of the network; units in
        later layers), or "head" (an attention head; units elsewhere).
    share : float
        Share of the l1 norm, between 0 and 1.
    parameters : str
        Which parameters are penalised: "weights" (no biases, no norm layers), "all", or comma-separated name patterns.

    References
    ----------
    Simon, Friedman, Hastie, Tibshirani, "A sparse-group lasso", J. Comput. Graph. Stat. 22, 2013.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        groups: Grouping = "neuron",
        share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        parameters: str = "weights",
    ) -> None:
        super().__init__(Partition(blocks, parameters, groups), single=share)

    def _trial(self, theta: Tensor, step: Tensor) -> Trial:
        return _Thresholded(self._groups, self._exact_levels(theta), self._single, theta, step)


@final
class _Thresholded(Trial):
    """Soft-thresholding, and then the prox of the groups' part.

    Parameters
    ----------
    groups : Partition
    level : Tensor of float64, shape (n_groups,)
    single : float
        The l1 norm's share.
    theta, step : Tensor, shape (n_params,)
        The weights and the inverse of the metric.
    """

    def __init__(self, groups: Partition, level: Tensor, single: float, theta: Tensor, step: Tensor) -> None:
        self._groups, self._level, self._single, self._theta = groups, level, single, theta
        self._reach = groups.scale_(step.clone(), level.to(step.dtype))

    def at(self, multiplier: Tensor) -> Tensor:
        self._multiplier = multiplier.to(self._level)
        self._kept, share = self._theta.abs(), (self._multiplier * self._single / self._level).to(self._theta.dtype)
        for panel, (kept, reach) in self._groups.parts(self._kept, self._reach):
            kept.addcmul_(reach, panel.across(share), value=-1).relu_()
        norms = NormTangents(self._groups, self._kept, self._reach)
        self._widths, self._root = norms.widths, norms.left(self._multiplier)
        self._quotients = torch.zeros_like(self._root)
        for panel, (kept, _, width, room) in self._widths.parts(self._root, self._multiplier.expand_as(self._root)):
            panel.add_(self._quotients, torch.div(kept, width, out=room))
        return (self._root * (self._level + self._single * self._quotients)).sum()

    def fall(self) -> Tensor:
        """See `Trial.fall`: ``s' (D + t H)^-1 s`` with the subgradient s and its derivative H on the support.

        H is diagonal plus a matrix of rank one in each group, which the Sherman-Morrison formula inverts. With
        ``y = |x| / width`` what is needed are the sums of ``step y^k / width`` for k up to 2.
        """
        powers = [torch.zeros_like(self._root) for _ in range(3)]
        for panel, (kept, reach, width, room) in self._widths.parts(self._root, self._multiplier.expand_as(self._root)):
            torch.div(kept, width, out=room)
            each = torch.div(reach, width, out=width).mul_(room.sign())
            for power in powers:
                panel.add_(power, each)
                each.mul_(room)
        none, once, twice = (power / self._level for power in powers)
        r, level, single = self._root, self._level, self._single
        squares = r * (level**2 * twice + 2 * level * single * once + single**2 * none)
        mixed, own = r**2 * (level * twice + single * once), r**3 * twice
        rank = -self._multiplier * level / r.clamp_min(LEAST) ** 3
        return (squares - rank * mixed.square() / (1 + rank * own).clamp_min(TINY)).sum()

    def moved(self) -> Tensor:
        found = torch.copysign(self._kept, self._theta)
        self._widths.scale_(found, self._root, self._multiplier.expand_as(self._root))
        return found
