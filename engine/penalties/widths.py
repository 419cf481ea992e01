"""Quotients of the weights and widths: what norms of groups after a prox follow from."""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from engine.penalties.groups import Panel, Partition

FEW_ROUNDINGS = 8
TINY = 1e-300


@final
class Widths:
    """Widths ``w = r + pull reach`` of weights x, where every group has an r and a pull.

    Parameters
    ----------
    groups : Partition
    x, reach : Tensor, shape (n_params,)

    Attributes
    ----------
    norms, mean : Tensor of float64, shape (n_groups,)
        The norm of x, and the mean of the reach weighted by x's squares.
    least : Tensor of float64, shape (n_groups,)
        A hardly positive r, which widths have at least, so that powers of quotients are finite.
    """

    def __init__(self, groups: Partition, x: Tensor, reach: Tensor) -> None:
        self._dtype = x.dtype
        self._parts = groups.parts(x, reach, torch.empty_like(x), torch.empty_like(x))
        squares = torch.zeros(len(groups), dtype=torch.float64, device=x.device)
        reached = torch.zeros_like(squares)
        for panel, (values, far, _, room) in self._parts:
            panel.add_(squares, torch.square(values, out=room))
            panel.add_(reached, room.mul_(far))
        self.norms, self.mean = squares.sqrt(), reached / squares.clamp_min(TINY)
        self.least = torch.where(squares > 0, FEW_ROUNDINGS * torch.finfo(x.dtype).eps * self.norms, 1.0)

    def parts(self, r: Tensor, pull: Tensor) -> Iterator[tuple[Panel, tuple[Tensor, ...]]]:
        """Every panel with its parts of x, of the reach, of the widths, and of some room to compute in.

        Parameters
        ----------
        r, pull : Tensor of float64, shape (n_groups,)
        """
        single, beside = torch.maximum(r, self.least).to(self._dtype), pull.to(self._dtype)
        for panel, parts in self._parts:
            torch.addcmul(panel.across(single), parts[1], panel.across(beside), out=parts[2])
            yield panel, parts

    def sums(self, r: Tensor, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``sum x^2 / w^2``, ``sum x^2 / w^3`` and ``sum reach x^2 / w^3`` of every group, shape (n_groups,)."""
        slope, reached = torch.zeros_like(r), torch.zeros_like(r)
        for panel, (x, reach, width, room) in self.parts(r, pull):
            panel.add_(slope, torch.div(x, width, out=room).square_().div_(width))
            panel.add_(reached, room.mul_(reach))
        return torch.maximum(r, self.least) * slope + pull * reached, slope, reached

    def scale_(self, theta: Tensor, r: Tensor, pull: Tensor) -> None:
        """Multiply `theta`, shape (n_params,), in place by ``r / w``; groups with hardly any r become zero."""
        left = torch.where(r > self.least, r, 0.0).to(theta.dtype)
        for panel, (_, _, width, _) in self.parts(r, pull):
            panel.of(theta).mul_(torch.div(panel.across(left), width, out=width))
