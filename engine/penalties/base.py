"""What every penalty promises, and the choice of the parameters it acts on."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from engine.errors import InvalidSpec
from engine.layout import Block
from engine.shrinking import Parts
from engine.stretches import stretches

Step = float | Tensor

HALVINGS = 32


class Penalty(ABC):
    """A penalty of the flat weight vector, 0 at zero; convex unless the class says otherwise.

    Attributes
    ----------
    penalised : Tensor of bool, shape (n_params,)
        The weights it acts on; the others pass through `prox` unchanged.
    joint : bool
        Whether weights become zero in groups: then the mean of two networks has all units of both.
    """

    penalised: Tensor
    joint: bool = False

    @abstractmethod
    def value(self, theta: Tensor) -> Tensor:
        """The penalty at `theta`, shape (n_params,); 0-d."""

    @abstractmethod
    def prox(self, theta: Tensor, step: Step) -> Tensor:
        """``argmin_z sum_i (z_i - theta_i)^2 / (2 step_i) + value(z)``, a new tensor of shape (n_params,).

        Parameters
        ----------
        theta : Tensor, shape (n_params,)
        step : float, 0-d Tensor or Tensor of shape (n_params,)
            Positive; a vector is the inverse of a diagonal metric.
        """

    @abstractmethod
    def subgradient(self, theta: Tensor) -> Tensor:
        """The subgradient of least norm among those that are 0 where `theta` is 0, shape (n_params,)."""

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        """How `subgradient` changes along `direction`, per unit of it, shape (n_params,); None if never, as for l1."""
        return None

    @abstractmethod
    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        """The nearest weights with a penalty of at most `radius`, and the multiplier.

        Returns
        -------
        projection : Tensor, shape (n_params,)
            ``prox(theta, multiplier * metric)``.
        multiplier : Tensor, 0-d
            0 where `theta` is inside already.
        """

    def among(self, parts: Parts) -> "Penalty | None":
        """This penalty of some of the weights where the others are zero; None if it has no such form."""
        return None

    def trim(self, theta: Tensor, share: float) -> Tensor:
        """Without the smallest of what the penalty counts, as long as that is no more than `share` of it in all.

        Parameters
        ----------
        theta : Tensor, shape (n_params,)
        share : float
            Of the penalty, in [0, 1].

        Returns
        -------
        Tensor, shape (n_params,)
            Of its own.
        """
        return theta.clone()

    def prox_(self, theta: Tensor, step: Tensor) -> None:
        """`prox` in place; `step`, shape (n_params,), is used up."""
        theta.copy_(self.prox(theta, step))

    def project_(self, theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
        """`project` in place, and the multiplier; `metric`, shape (n_params,), is used up.

        Parameters
        ----------
        near : Tensor, 0-d, optional
            A multiplier nearby: the penalty may then miss `radius` by a thousandth, or by an error of second order in
            the distance to it.
        """
        projection, multiplier = self.project(theta, radius, metric)
        theta.copy_(projection)
        return multiplier


def smallest(sizes: Tensor, share: float) -> Tensor:
    """Mask of the smallest entries that add up to at most `share` of the sum; `sizes` are not negative.

    A bound is halved into place, since sorting takes five copies of the weights and the time of many passes over them.
    Entries that differ by less than a billionth of the largest stand or fall together.
    """
    if share >= 1:
        return torch.ones_like(sizes, dtype=torch.bool)
    least, low, high = (1 - share) * float(sizes.sum()), 0.0, float(sizes.max()) if len(sizes) else 0.0
    for _ in range(HALVINGS if share else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _above(sizes, middle) >= least else (low, middle)
    return sizes <= low


def _above(sizes: Tensor, bound: float) -> float:
    """Sum of the entries beyond a bound."""
    return float(sum(torch.hardshrink(part, bound).sum() for (part,) in stretches(sizes)))


def selection(blocks: Sequence[Block], parameters: str | Sequence[str]) -> Tensor:
    """Mask of the parameters that a choice names.

    Parameters
    ----------
    parameters : str or sequence of str
        ``all``; ``weights`` (no biases, no norm layers); or patterns of parameter names such as ``"fc*.weight"``.

    Raises
    ------
    InvalidSpec
        If a pattern matches nothing.
    """
    mask = torch.zeros(blocks[-1].stop, dtype=torch.bool)
    for block in _chosen(blocks, parameters):
        mask[block.start : block.stop] = True
    return mask


def _chosen(blocks: Sequence[Block], parameters: str | Sequence[str]) -> Iterable[Block]:
    if parameters == "all":
        return blocks
    if parameters == "weights":
        return [b for b in blocks if b.kind == "weight"]
    patterns = parameters.split(",") if isinstance(parameters, str) else parameters
    for pattern in patterns:
        if not any(fnmatchcase(b.name, pattern) for b in blocks):
            names = ", ".join(b.name for b in blocks)
            raise InvalidSpec(f"no parameter matches {pattern!r}; use 'all', 'weights' or patterns of: {names}")
    return [b for b in blocks if any(fnmatchcase(b.name, p) for p in patterns)]
