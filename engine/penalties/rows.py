"""A penalty of many weight vectors at once, one per row."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from engine.penalties.base import Penalty
from engine.penalties.l1 import L1, soft

NEWTON_STEPS, WARM_NEWTON_STEPS = 60, 2


class Rows(ABC):
    """What a penalty does to single vectors, done to each row."""

    @abstractmethod
    def value(self, thetas: Tensor) -> Tensor:
        """The penalty of each row, shape (n_rows,)."""

    @abstractmethod
    def prox(self, thetas: Tensor, step: Tensor) -> Tensor:
        """``Penalty.prox`` of each row; `thetas` and `step` have shape (n_rows, n_params)."""

    @abstractmethod
    def project(
        self, thetas: Tensor, radii: Tensor, metric: Tensor, near: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``Penalty.project`` of each row onto its own ball, and the multipliers, shape (n_rows, 1).

        Parameters
        ----------
        thetas, metric : Tensor, shape (n_rows, n_params)
        radii : Tensor, shape (n_rows, 1)
        near : Tensor, shape (n_rows, 1), optional
            Multipliers of a projection of about the same rows. It saves time, and rows may end a little outside.
        """


def rows(penalty: Penalty) -> Rows:
    """The fastest way to apply this penalty to many rows."""
    return L1Rows(penalty) if isinstance(penalty, L1) else EachRow(penalty)


@final
class L1Rows(Rows):
    """The l1 norm of all rows by the same elementwise operations, without waiting for the device.

    Parameters
    ----------
    penalty : L1
    """

    def __init__(self, penalty: L1) -> None:
        self._mask = penalty.penalised
        self._all = bool(penalty.penalised.all())

    def value(self, thetas: Tensor) -> Tensor:
        return self._weigh(thetas.abs()).sum(dim=1)

    def prox(self, thetas: Tensor, step: Tensor) -> Tensor:
        return soft(thetas, self._weigh(step))

    def project(
        self, thetas: Tensor, radii: Tensor, metric: Tensor, near: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Newton's iteration on the multipliers, from any start: the excess is convex and falls.

        References
        ----------
        Michelot, "A finite algorithm for finding the projection onto the canonical simplex", JOTA 50, 1986.
        """
        magnitude, inverse = self._weigh(thetas.abs()), self._weigh(metric)
        multipliers = torch.zeros_like(radii) if near is None else near
        for _ in range(NEWTON_STEPS if near is None else WARM_NEWTON_STEPS):
            left = torch.addcmul(magnitude, inverse, multipliers, value=-1).clamp_min_(0.0)
            slope = torch.where(left > 0, inverse, 0.0).sum(dim=1, keepdim=True)
            excess = left.sum(dim=1, keepdim=True) - radii
            multipliers = (multipliers + excess / slope.clamp_min(1e-30)).clamp_min_(0.0)
        return soft(thetas, multipliers * inverse), multipliers

    def _weigh(self, values: Tensor) -> Tensor:
        if self._all:
            return values
        self._mask = self._mask.to(values.device)
        return values * self._mask


@final
class EachRow(Rows):
    """Row after row, for every penalty.

    Parameters
    ----------
    penalty : Penalty
    """

    def __init__(self, penalty: Penalty) -> None:
        self._penalty = penalty

    def value(self, thetas: Tensor) -> Tensor:
        return torch.stack([self._penalty.value(theta) for theta in thetas])

    def prox(self, thetas: Tensor, step: Tensor) -> Tensor:
        return torch.stack([self._penalty.prox(*row) for row in zip(thetas, step, strict=True)])

    def project(
        self, thetas: Tensor, radii: Tensor, metric: Tensor, near: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        balls = radii.flatten().tolist()
        found = [self._penalty.project(*row) for row in zip(thetas, balls, metric, strict=True)]
        return torch.stack([theta for theta, _ in found]), torch.stack([m for _, m in found]).view(-1, 1)
