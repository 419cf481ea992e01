"""Penalties of the groups' l2 norms: the group lasso, the group MCP and the sparse group lasso.

All three are one formula, ``sum_g level_g rho(||x_g||) + single ||x||_1`` with ``rho(r) = r - r^2 / (2 plateau)`` up to
``r = plateau`` and constant from there on; the group lasso has no plateau.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from engine.layout import Block
from engine.penalties.base import Step, smallest
from engine.penalties.group import GroupPenalty
from engine.penalties.groups import Grouping, Partition
from engine.penalties.l1 import soft
from engine.penalties.tangents import Lines, Tangents
from engine.penalties.widths import TINY, Widths


class GroupNorms(GroupPenalty):
    """The formula of this file.

    Parameters
    ----------
    groups : Partition
    plateau : float
        Norm from which on a group is charged no more.
    single : float
        Share of the l1 norm, from 0 to below 1; the rest is the groups'.
    """

    @abstractmethod
    def __init__(self, groups: Partition, plateau: float = math.inf, single: float = 0.0) -> None:
        self._plateau, self._single = plateau, single
        super().__init__(groups)

    def _divide(self, groups: Partition) -> None:
        super()._divide(groups)
        self._level = (1 - self._single) * groups.sizes.sqrt()

    def charges(self, theta: Tensor) -> Tensor:
        norms = self._norms(theta).clamp_max(self._plateau)
        charged = self._levels(theta) * (norms - norms.square() / (2 * self._plateau))
        return charged + self._single * self._groups.sums(theta.abs()) if self._single else charged

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        """See `Penalty.prox`; soft-thresholding comes before what shrinks groups, which is exact in every metric."""
        inverse = torch.as_tensor(step, dtype=theta.dtype, device=theta.device)
        if inverse.ndim == 0:
            kept = soft(theta, inverse * self._single * self._inside(theta)) if self._single else theta
            return kept * self._groups.spread(self._shrinkage(kept, inverse), 1.0)
        found = theta.clone()
        self.prox_(found, inverse.clone())
        return found

    def prox_(self, theta: Tensor, step: Tensor) -> None:
        if self._single:
            bound = (step * self._single).mul_(self._inside(theta))
            theta.sub_(torch.clamp(theta, -bound, bound, out=bound))
        self._shrink_(theta, step)

    def subgradient(self, theta: Tensor) -> Tensor:
        slope, _ = self._slopes(self._norms(theta), self._levels(theta))
        smooth = theta * self._groups.spread(slope, 0.0)
        return smooth + self._single * self._inside(theta) * theta.sign() if self._single else smooth

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        slope, along = self._slopes(self._norms(theta), self._levels(theta))
        turned = along * self._groups.sums(theta * direction)
        return direction * self._groups.spread(slope, 0.0) + theta * self._groups.spread(turned, 0.0)

    def trim(self, theta: Tensor, share: float) -> Tensor:
        """See `Penalty.trim`; with a share of the l1 norm by single weights, otherwise by groups."""
        if not self._single:
            return super().trim(theta, share)
        norms = self._norms(theta)
        per_square = torch.where(norms > 0, self._levels(theta) / norms, 0.0)
        parts = self._groups.spread(per_square, 0.0) * theta.square()
        dropped = smallest(parts + self._single * self._inside(theta) * theta.abs(), share)
        return theta.masked_fill(dropped & self.penalised.to(theta.device), 0.0)

    def _shrinkage(self, theta: Tensor, step: Tensor) -> Tensor:
        """What the prox in a metric that is a number multiplies each group by: firm thresholding of its norm.

        References
        ----------
        Gao, Bruce, "WaveShrink with firm shrinkage", Statistica Sinica 7, 1997.
        """
        norms, reach = self._norms(theta), step * self._levels(theta)
        root = (norms - reach) / (1 - reach / self._plateau)
        below = torch.where(norms > reach, root / norms, 0.0)
        kept = norms.square() > reach * self._plateau
        return torch.where(norms >= self._plateau, kept.to(theta.dtype), below)

    def _shrink_(self, theta: Tensor, step: Tensor) -> None:
        """The prox of the groups' part in place, in a metric that is a vector; `step` is used up."""
        self._tangents(theta, step).prox_(theta)

    def _tangents(self, theta: Tensor, step: Tensor) -> Tangents:
        return NormTangents(self._groups, theta, self._groups.scale_(step, self._levels(theta)))

    def _slopes(self, norms: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Of each group the subgradient per unit of x, and the factor of ``x (x' d)`` in its change along d."""
        size = norms.clamp_min(torch.finfo(norms.dtype).tiny ** 0.25)
        charged = (norms > 0) & (norms < self._plateau)
        slope = torch.where(charged, level * (1 / size - 1 / self._plateau), 0.0)
        return slope, torch.where(charged, -level / size**3, 0.0)

    def _norms(self, values: Tensor) -> Tensor:
        return self._groups.sums(values.square()).sqrt()

    def _levels(self, like: Tensor) -> Tensor:
        return self._exact_levels(like).to(like.dtype)

    def _exact_levels(self, like: Tensor) -> Tensor:
        """What a unit of each group's norm is charged, in float64 on the device of `like`, shape (n_groups,)."""
        self._level = self._level.to(like.device)
        return self._level

    def _inside(self, like: Tensor) -> Tensor:
        self.penalised = self.penalised.to(like.device)
        return self.penalised


@final
class GroupL2(GroupNorms):
    """Sum over groups of sqrt(size) times the l2 norm (group lasso): whole units become zero.

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
    Yuan, Lin, "Model selection and estimation in regression with grouped variables", JRSS B 68, 2006.
    Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021.
    """

    def __init__(self, blocks: Sequence[Block], *, groups: Grouping = "neuron", parameters: str = "weights") -> None:
        super().__init__(Partition(blocks, parameters, groups))

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        """See `Penalty.project_`."""
        return self._tangents(theta, metric).project_(theta, self._exact_levels(theta), radius, near is not None)


@final
class NormTangents(Tangents):
    """The norm of each group after the prox, r: ``1 / ||x / (r + t reach)|| = 1``, without a plateau.

    The mean of power -2 is concave and its arguments are linear in r and t, so its tangent planes go through 0.

    Parameters
    ----------
    groups : Partition
    x, reach : Tensor, shape (n_params,)
        The weights, and the inverse of the metric times their groups' levels.

    Attributes
    ----------
    widths : Widths

    References
    ----------
    Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021, for
    steps so short that the prox has a single stationary point; here any.
    """

    enough = 3

    def __init__(self, groups: Partition, x: Tensor, reach: Tensor) -> None:
        self.widths = Widths(groups, x, reach)
        self._still = math.sqrt(torch.finfo(x.dtype).eps)

    def first(self) -> Lines:
        return self.widths.norms, self.widths.mean

    def at(self, left: Tensor, multiplier: Tensor) -> Lines:
        total, slope, reached = self.widths.sums(left, multiplier.expand_as(left))
        slope.clamp_min_(TINY)
        return total * total.sqrt() / slope, reached / slope

    def leave_(self, theta: Tensor, left: Tensor, multiplier: Tensor) -> None:
        self.widths.scale_(theta, left, multiplier.expand_as(left))

    def still(self) -> float:
        return self._still
