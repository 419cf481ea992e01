"""The minimax concave penalty of groups of weights."""

import math
from collections.abc import Sequence
from typing import Annotated, final

import torch
from annotated_types import Gt
from torch import Tensor

from engine.layout import Block
from engine.penalties.groups import Grouping, Partition
from engine.penalties.searched import TINY, SearchedNorms
from engine.waiting import rounds, settled

NEWTON_STEPS, ENOUGH_STEPS = 60, 8
SETTLED = 1e-8


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
        """Every group shrunk by the norm that it will have, in float64, or left as it is where that costs no more."""
        x, inverse = theta.double(), step.double()
        reach = inverse * self._groups.spread(self._levels(x), 0.0)
        root = self._roots(x, inverse, reach)
        ahead = self._groups.spread(root, 1.0)
        scale = ahead / (ahead + reach * (1 - ahead / self._plateau))
        scale = torch.where(self._groups.spread(self._stays(x, inverse, scale, root), False), 1.0, scale)
        theta.copy_(torch.where(self._inside(theta), theta * scale.to(theta.dtype), theta))

    def _roots(self, x: Tensor, step: Tensor, reach: Tensor) -> Tensor:
        """The norm of each group after the prox, shape (n_groups,); 0 where it vanishes, the plateau where it is free.

        A norm r is stationary where ``1 / ||x / (r + reach (1 - r / plateau))|| = 1``. The left side is a concave
        function of r, since the mean of power -2 is concave and its arguments are affine. So Newton's iteration from
        below rises to the least root and never passes it.

        References
        ----------
        Moré, Sorensen, "Computing a trust region step", SIAM J. Sci. Stat. Comput. 4, 1983 (this form of the equation).
        """
        alive = self._norms(x / step) > self._levels(x)
        root = torch.where(alive, self._below(x, reach), 0.0)
        width, squares = torch.ones_like(x), torch.empty_like(x)
        bend = 1 - reach / self._plateau
        for _ in rounds(x, NEWTON_STEPS, ENOUGH_STEPS):
            ahead = torch.where(alive, root + self._ahead_(root, (x, reach, bend), width, squares), 0.0)
            ahead, behind = ahead.clamp_max(self._plateau), root
            root = torch.maximum(ahead, behind)
            if settled(root > behind * (1 + SETTLED)):
                break
        return root

    def _below(self, x: Tensor, reach: Tensor) -> Tensor:
        """A norm that is no larger than the root, shape (n_groups,): that without a plateau, from its asymptote.

        A plateau makes norms larger where all of ``1 - reach / plateau`` are above 0; elsewhere it is 0.
        """
        squares = x.square()
        total = self._groups.sums(squares)
        shrunk = self._groups.sums(squares.mul_(reach)) / total.clamp_min(TINY)
        below = (total.sqrt() - shrunk).clamp_(0.0, self._plateau)
        return torch.where(self._groups.largest(reach) < self._plateau, below, 0.0)

    def _ahead_(self, root: Tensor, terms: tuple[Tensor, Tensor, Tensor], width: Tensor, squares: Tensor) -> Tensor:
        """Newton's step from `root`, shape (n_groups,); infinite where the equation's left side falls.

        Parameters
        ----------
        terms : (Tensor, Tensor, Tensor)
            x, reach and ``1 - reach / plateau``, each of shape (n_params,).
        width, squares : Tensor, shape (n_params,)
            Room to compute in.
        """
        x, reach, bend = terms
        torch.addcmul(reach, self._groups.spread_(width, root), bend, out=width)
        total = self._groups.sums(torch.div(x, width, out=squares).square_())
        slope = self._groups.sums(squares.div_(width).mul_(bend))
        return torch.where(slope > 0, total * (total.sqrt() - 1) / slope.clamp_min(TINY), math.inf)

    def _stays(self, x: Tensor, step: Tensor, scale: Tensor, root: Tensor) -> Tensor:
        """Which groups are best left as they are: beyond the plateau, and at no higher cost than shrunk."""
        shrunk = self._groups.sums((x * (1 - scale)).square() / (2 * step))
        charge = self._levels(x) * (root - root.square() / (2 * self._plateau))
        free = self._levels(x) * self._plateau / 2
        return (self._norms(x) >= self._plateau) & (free <= shrunk + charge)
