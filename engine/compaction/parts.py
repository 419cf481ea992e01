"""Layers that only compacted networks have."""

from typing import final

import torch
from torch import Tensor, nn


@final
class Select(nn.Module):
    """Some units of what it reads, in a given order.

    Parameters
    ----------
    axis : int
        That of the units.
    size : int
        How many units are taken.

    Attributes
    ----------
    index : Tensor, shape (size,), int32
        Which units.
    """

    index: Tensor

    def __init__(self, axis: int, size: int) -> None:
        super().__init__()
        self.axis, self.size = axis, size
        self.register_buffer("index", torch.zeros(size, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """`x` with `size` units along the axis; whole rows, where they can be had, are taken several times faster."""
        if self.axis < x.dim() - 1:
            return x.index_select(self.axis, self.index)
        return x.transpose(0, self.axis).index_select(0, self.index).transpose(0, self.axis)


@final
class Shift(nn.Module):
    """A constant for each unit, added to what it reads: what is left of a branch that answers every sample alike.

    Parameters
    ----------
    size : int
        Units.
    places : int
        Axes behind that of the units.

    Attributes
    ----------
    value : Parameter, shape (size, 1, …)
        With one axis of length 1 for each of `places`.
    """

    def __init__(self, size: int, places: int) -> None:
        super().__init__()
        self.size, self.places = size, places
        self.value = nn.Parameter(torch.zeros(size, *[1] * places))

    def forward(self, x: Tensor) -> Tensor:
        """`x` plus the constants."""
        return x + self.value
