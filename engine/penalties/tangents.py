"""Prox and projection for sums of what is left of each group: all groups, and the multiplier, in one iteration."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from engine.penalties.widths import TINY
from engine.waiting import rounds, settled

Lines = tuple[Tensor, Tensor]

MOST_TURNS = 60
NEAR = 1e-3


class Tangents(ABC):
    """Lower bounds of what a prox leaves of each group, as the multiplier t of the penalty grows.

    The weights z that a group has after the prox are in closed form where what is left of it, a norm of z, is known;
    that is the least number r from 0 on with ``f(r, t) >= 1``, for a concave function f that grows with both. Where it
    is above 0, every tangent plane of f gives a line ``start - fall t`` that r is nowhere below. So lines through the
    last guess lead to the next, from below: Newton's iteration on all groups and the multiplier at once, which is
    monotone in the multiplier and ends as fast as Newton's does.

    References
    ----------
    Moré, Sorensen, "Computing a trust region step", SIAM J. Sci. Stat. Comput. 4, 1983 (one l2 norm, t held).

    Attributes
    ----------
    enough : int
        Turns after which rounding is all that is left to do in training; there are more where asking costs no waiting.
    """

    enough: ClassVar[int]

    @abstractmethod
    def first(self) -> Lines:
        """The lines that touch where the multiplier is 0.

        Returns
        -------
        start, fall : Tensor of float64, shape (n_groups,)
        """

    @abstractmethod
    def at(self, left: Tensor, multiplier: Tensor) -> Lines:
        """The lines by the tangent planes at what is `left`, shape (n_groups,), with a multiplier, 0-d."""

    @abstractmethod
    def leave_(self, theta: Tensor, left: Tensor, multiplier: Tensor) -> None:
        """Make of `theta`, in place, what the prox makes of it where that is `left`, shape (n_groups,)."""

    @abstractmethod
    def still(self) -> float:
        """Share of a line's start that the last turn but one may miss, so that rounding is all that the last does."""

    @final
    def prox_(self, theta: Tensor) -> None:
        """The prox with the multiplier 1, in place."""
        one = theta.new_ones((), dtype=torch.float64)
        self.leave_(theta, self.left(one), one)

    @final
    def left(self, multiplier: Tensor) -> Tensor:
        """What the prox with a multiplier, 0-d, leaves of each group, shape (n_groups,)."""
        return self._settled(lambda lines, behind: multiplier, self.still())[0]

    @final
    def project_(self, theta: Tensor, charge: Tensor, radius: float, roughly: bool) -> Tensor:
        """The projection to where ``charge @ left`` is `radius`, in place, and the multiplier; 0 where it is less.

        Parameters
        ----------
        charge : Tensor of float64, shape (n_groups,)
        roughly : bool
            Whether a thousandth may be missing.
        """
        further = partial(_crossing, charge=charge, radius=radius)
        left, multiplier = self._settled(further, NEAR if roughly else self.still())
        self.leave_(theta, left, multiplier)
        return multiplier.to(theta.dtype)

    def _settled(self, further: Callable[[Lines, Tensor], Tensor], still: float) -> tuple[Tensor, Tensor]:
        lines = self.first()
        multiplier = further(lines, lines[0].new_zeros(()))
        left = _left(lines, multiplier)
        for _ in rounds(left, MOST_TURNS, self.enough):
            lines = self.at(left, multiplier)
            missed = (_left(lines, multiplier) - left).abs()
            multiplier = further(lines, multiplier)
            left = _left(lines, multiplier)
            if settled(missed > still * lines[0]):
                break
        return left, multiplier


def _left(lines: Lines, multiplier: Tensor) -> Tensor:
    start, fall = lines
    return torch.addcmul(start, fall, multiplier, value=-1).relu_()


def _crossing(lines: Lines, multiplier: Tensor, charge: Tensor, radius: float) -> Tensor:
    """Where the lines have fallen to `radius` in all; never before `multiplier`, since they are lower bounds.

    What they add up to is the largest of the sums over any of them, so the last of the multipliers where one of those
    is `radius` is looked for, among lines in the order in which they end.
    """
    start, fall = lines
    last = (start / fall.clamp_min(TINY)).argsort(descending=True)
    starts, falls = ((charge * part)[last].cumsum(0) for part in (start, fall))
    return torch.maximum(multiplier, ((starts - radius) / falls.clamp_min_(TINY)).max())
