"""Sums of a charge for each group of weights."""

from abc import abstractmethod
from copy import copy

import torch
from torch import Tensor

from engine.penalties.base import Penalty, Step, smallest
from engine.penalties.groups import Partition
from engine.shrinking import Parts


class GroupPenalty(Penalty):
    """A sum of what each group of weights is charged.

    Parameters
    ----------
    groups : Partition
    """

    joint = True

    def __init__(self, groups: Partition) -> None:
        self._divide(groups)

    def _divide(self, groups: Partition) -> None:
        self._groups, self.penalised = groups, groups.member

    def among(self, parts: Parts) -> Penalty:
        among = copy(self)
        among._divide(self._groups.among(parts))
        return among

    @abstractmethod
    def charges(self, theta: Tensor) -> Tensor:
        """What each group adds to the penalty at `theta`, shape (n_params,); shape (n_groups,)."""

    def value(self, theta: Tensor) -> Tensor:
        return self.charges(theta).sum()

    @abstractmethod
    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        """See `Penalty.project_`."""

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        step = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device).expand_as(theta)
        found = theta.clone()
        multiplier = self.project_(found, radius, step.clone())
        return found, multiplier

    def trim(self, theta: Tensor, share: float) -> Tensor:
        """See `Penalty.trim`; in each layer by itself, since charges of different layers do not compare."""
        layers = torch.split(self.charges(theta), self._groups.layers)
        dropped = torch.cat([smallest(charges, share) for charges in layers])
        return theta.masked_fill(self._groups.spread(dropped, False), 0.0)
