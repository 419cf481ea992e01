"""Penalties of the groups' l2 norms: the group lasso, the group MCP and the sparse group lasso.

All three are one formula, ``sum_g level_g rho(||x_g||) + single ||x||_1`` with ``rho(r) = r - r^2 / (2 plateau)`` up to
``r = plateau`` and constant from there on; the group lasso has no plateau.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from engine.layout import Block
from engine.penalties.base import Step, smallest
from engine.penalties.group import GroupPenalty
from engine.penalties.groups import Grouping, Partition
from engine.penalties.l1 import soft

NEWTON_STEPS = 60
SETTLED = 1e-8
TINY = 1e-300


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
        kept = soft(theta, inverse * self._single * self._inside(theta)) if self._single else theta
        if inverse.ndim == 0:
            return kept * self._groups.spread(self._shrinkage(kept, inverse), 1.0)
        return self._weighted_prox(kept, inverse)

    def subgradient(self, theta: Tensor) -> Tensor:
        slope, _ = self._slopes(self._norms(theta), self._levels(theta))
        smooth = theta * self._groups.spread(slope, 0.0)
        return smooth + self._single * self._inside(theta) * theta.sign() if self._single else smooth

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        slope, along = self._slopes(self._norms(theta), self._levels(theta))
        turned = along * self._groups.sums(theta * direction)
        return direction * self._groups.spread(slope, 0.0) + theta * self._groups.spread(turned, 0.0)

    def fall(self, moved: Tensor, multiplier: float, step: Tensor) -> Tensor:
        """See `GroupPenalty.fall`: ``s' (D + t H)^-1 s`` with the subgradient s and its derivative H on the support.

        H is diagonal plus a matrix of rank one in each group, which the Sherman-Morrison formula inverts.
        """
        z, s = moved.double(), self.subgradient(moved).double()
        slope, along = self._slopes(self._norms(z), self._levels(z))
        inverse = 1 / (1 / step.double() + multiplier * self._groups.spread(slope, 0.0))
        squares, mixed, own = (self._groups.sums(a * b * inverse) for a, b in ((s, s), (z, s), (z, z)))
        rank = multiplier * along
        return (squares - rank * mixed.square() / (1 + rank * own).clamp_min(TINY)).sum()

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

    def _weighted_prox(self, theta: Tensor, inverse: Tensor) -> Tensor:
        """Every group shrunk by the norm that it will have, in float64.

        References
        ----------
        Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021,
        for steps so short that the prox has a single stationary point; here any.
        """
        x, step = theta.double(), inverse.double()
        reach = step * self._groups.spread(self._levels(x), 0.0)
        root = self._roots(x, step, reach)
        ahead = self._groups.spread(root, 1.0)
        scale = ahead / (ahead + reach * (1 - ahead / self._plateau))
        if self._plateau < math.inf:
            scale = torch.where(self._groups.spread(self._stays(x, step, scale, root), False), 1.0, scale)
        return torch.where(self._inside(theta), theta * scale.to(theta.dtype), theta)

    def _roots(self, x: Tensor, step: Tensor, reach: Tensor) -> Tensor:
        """The norm of each group after the prox, shape (n_groups,); 0 where it vanishes, the plateau where it is free.

        A norm r is stationary where ``1 / ||x / (r + reach (1 - r / plateau))|| = 1``. The left side is a concave
        function of r, since the mean of power -2 is concave and its arguments are affine. So Newton's iteration from
        below rises to the least root and never passes it; without a plateau the function's asymptote gives a start.

        References
        ----------
        Moré, Sorensen, "Computing a trust region step", SIAM J. Sci. Stat. Comput. 4, 1983 (this form of the equation).
        """
        alive = self._norms(x / step) > self._levels(x)
        root = torch.where(alive, self._below(x, reach), 0.0)
        width, squares = torch.ones_like(x), torch.empty_like(x)
        bend = 1 - reach / self._plateau if self._plateau < math.inf else None
        for _ in range(NEWTON_STEPS):
            ahead = torch.where(alive, root + self._ahead_(root, (x, reach, bend), width, squares), 0.0)
            ahead, behind = ahead.clamp_max(self._plateau), root
            root = torch.maximum(ahead, behind)
            if not bool((root > behind * (1 + SETTLED)).any()):
                break
        return root

    def _below(self, x: Tensor, reach: Tensor) -> Tensor:
        """A norm that is no larger than the root, shape (n_groups,): where the asymptote of its equation is 1."""
        if self._plateau < math.inf:
            return torch.zeros_like(self._levels(x))
        squares = x.square()
        total = self._groups.sums(squares)
        shrunk = self._groups.sums(squares.mul_(reach)) / total.clamp_min(TINY)
        return (total.sqrt() - shrunk).clamp_min_(0.0)

    def _ahead_(
        self, root: Tensor, terms: tuple[Tensor, Tensor, Tensor | None], width: Tensor, squares: Tensor
    ) -> Tensor:
        """Newton's step from `root`, shape (n_groups,); infinite where the equation's left side falls.

        Parameters
        ----------
        terms : (Tensor, Tensor, Tensor or None)
            x, reach and ``1 - reach / plateau``, where there is a plateau; each of shape (n_params,).
        width, squares : Tensor, shape (n_params,)
            Room to compute in.
        """
        x, reach, bend = terms
        self._groups.spread_(width, root)
        torch.addcmul(reach, width, bend, out=width) if bend is not None else width.add_(reach)
        total = self._groups.sums(torch.div(x, width, out=squares).square_())
        squares.div_(width)
        slope = self._groups.sums(squares if bend is None else squares.mul_(bend))
        return torch.where(slope > 0, total * (total.sqrt() - 1) / slope.clamp_min(TINY), math.inf)

    def _stays(self, x: Tensor, step: Tensor, scale: Tensor, root: Tensor) -> Tensor:
        """Which groups are best left as they are: beyond the plateau, and at no higher cost than shrunk."""
        shrunk = self._groups.sums((x * (1 - scale)).square() / (2 * step))
        charge = self._levels(x) * (root - root.square() / (2 * self._plateau))
        free = self._levels(x) * self._plateau / 2
        return (self._norms(x) >= self._plateau) & (free <= shrunk + charge)

    def _slopes(self, norms: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Of each group the subgradient per unit of x, and the factor of ``x (x' d)`` in its change along d."""
        size = norms.clamp_min(torch.finfo(norms.dtype).tiny ** 0.25)
        charged = (norms > 0) & (norms < self._plateau)
        slope = torch.where(charged, level * (1 / size - 1 / self._plateau), 0.0)
        return slope, torch.where(charged, -level / size**3, 0.0)

    def _norms(self, values: Tensor) -> Tensor:
        return self._groups.sums(values.square()).sqrt()

    def _levels(self, like: Tensor) -> Tensor:
        self._level = self._level.to(like.device)
        return self._level.to(like.dtype)

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


@final
class GroupMCP(GroupNorms):
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


@final
class SparseGroup(GroupNorms):
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
