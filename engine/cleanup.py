"""What a network can shed without changing an answer: units that do nothing, and scale in the wrong place.

What nothing reads needs no incoming weights. A unit without incoming weights is a constant, which its readers' biases
can hold. And where the activation is positively homogeneous, a unit's incoming weights may be scaled by c > 0 and its
outgoing ones by 1 / c: of all networks that differ in such scales alone, one has the least l1 norm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from engine.front import Array
from engine.penalties import L1, Penalty
from engine.structure import Joint, joints, view

MOST_SWEEPS = 1000
SETTLED = 1e-9


@final
class Cleanup:
    """The same function by weights of a smaller penalty and fewer nonzeros, as far as the network's structure allows.

    Parameters
    ----------
    module : nn.Module
        Its hidden units are those that `engine.structure.joints` finds; there may be none.
    penalty : Penalty
        Under `L1` units are rescaled, and constant ones given to biases where that is cheaper; under others only
        weights without an effect are dropped.

    Attributes
    ----------
    n_units : int
        Hidden units it can clean.

    References
    ----------
    Stock, Graham, Gribonval, Jegou, "Equi-normalization of neural networks", ICLR 2019 (the rescaling of least norm).
    """

    def __init__(self, module: nn.Module, penalty: Penalty) -> None:
        self._module, self._penalty = module, penalty
        self._in_l1 = isinstance(penalty, L1)

    @property
    def n_units(self) -> int:
        return sum(joint.n_units for joint in self._joints)

    @cached_property
    def _joints(self) -> tuple[Joint, ...]:
        return joints(self._module)

    def __call__(self, theta: Tensor) -> Tensor:
        """Clean weights, shape (n_params,); zeros stay zero, and where nothing is gained all stay as they are."""
        cleaned = theta.clone()
        self._silence(cleaned)
        folding = True
        while folding:
            self._rescale(cleaned)
            folding = self._fold(cleaned)
        gained = bool(self._penalty.value(cleaned) <= self._penalty.value(theta))
        return cleaned if gained else theta.clone()

    def _silence(self, theta: Tensor) -> None:
        """Drop the incoming weights of units that nothing reads."""
        for joint in reversed(self._joints):
            unread = (joint.outgoing(theta) == 0).all(dim=2).all(dim=0)
            joint.incoming(theta)[unread] = 0
            if joint.bias:
                view(theta, joint.bias)[unread] = 0

    def _fold(self, theta: Tensor) -> bool:
        """Drop units without incoming weights; what is read of them goes into the next biases. Whether there were."""
        folded = [self._fold_at(theta, joint) for joint in self._joints]
        return any(folded)

    def _fold_at(self, theta: Tensor, joint: Joint) -> bool:
        outgoing, bias = joint.outgoing(theta), _biases(theta, joint)
        idle = (joint.incoming(theta) == 0).all(dim=1) & (outgoing != 0).any(dim=2).any(dim=0)
        if not bool(idle.any()):
            return False
        read = joint.activated(bias)
        chosen = idle & ((read == 0) | self._cheaper_as_bias(theta, joint, read))
        if joint.next_bias:
            view(theta, joint.next_bias).add_(outgoing.sum(dim=2) @ torch.where(chosen, read, 0.0))
        bias[chosen] = 0
        outgoing[:, chosen] = 0
        return bool(chosen.any())

    def _cheaper_as_bias(self, theta: Tensor, joint: Joint, read: Tensor) -> Tensor:
        """Which constants cost no more as part of the next biases, whatever these are, and need no new ones."""
        if not (self._in_l1 and joint.uniform and joint.next_bias):
            return torch.zeros_like(read, dtype=torch.bool)
        shift, magnitude = joint.outgoing(theta).sum(dim=2) * read, self._magnitude(theta)
        charged = view(self._penalty.penalised, joint.next_bias).to(theta)
        saved = joint.outgoing(magnitude).sum(dim=(0, 2)) + _biases(magnitude, joint)
        known = ((shift == 0) | (view(theta, joint.next_bias) != 0)[:, None]).all(dim=0)
        return known & (charged @ shift.abs() <= saved)

    def _rescale(self, theta: Tensor) -> None:
        """Scale all units to the least norm, unless that would change it by less than its rounding."""
        if not self._in_l1 or not self.n_units:
            return
        scales = torch.from_numpy(np.concatenate(balanced(self._levels(theta)))).to(theta)
        if bool((scales.log().abs() > math.sqrt(torch.finfo(theta.dtype).eps)).any()):
            self._scale(theta, scales)

    def _scale(self, theta: Tensor, scales: Tensor) -> None:
        start = 0
        for joint in self._joints:
            scale = scales[start : start + joint.n_units]
            start += joint.n_units
            joint.incoming(theta).mul_(scale[:, None])
            joint.outgoing(theta).div_(scale[:, None])
            if joint.bias:
                view(theta, joint.bias).mul_(scale)

    def _levels(self, theta: Tensor) -> "list[Level]":
        magnitude = self._magnitude(theta)
        first = [_level(magnitude, joint, None) for joint in self._joints[:1]]
        return first + [_level(magnitude, joint, before) for before, joint in pairwise(self._joints)]

    def _magnitude(self, theta: Tensor) -> Tensor:
        """What each weight adds to the l1 norm."""
        return theta.abs() * self._penalty.penalised.to(theta.device)


@final
@dataclass(frozen=True, slots=True)
class Level:
    """The weights of one joint as sizes.

    Parameters
    ----------
    incoming : array, shape (n_units, n_sources), or (n_units,)
        Their sums where the sources are not the units of the level before.
    bias : array, shape (n_units,)
    outgoing : array, shape (n_next, n_units)
    chained : bool
        Whether the sources are the units of the level before.
    homogeneous : bool
        Whether the units can be scaled.
    """

    incoming: Array
    bias: Array
    outgoing: Array
    chained: bool
    homogeneous: bool


# Of weights that are infinite the scales are no numbers, and such ones are not taken.
@np.errstate(divide="ignore", invalid="ignore")
def balanced(levels: Sequence[Level]) -> list[Array]:
    """The scales of each level's units, shape (n_units,), that make the norm least.

    The units take turns: each gets the scale that is best while the others keep theirs, sqrt(b / a) with a the norm of
    its incoming weights and b that of its outgoing ones. In the logarithms of the scales the norm is a sum of
    exponentials, so it is smooth and convex; where every unit lies on a path from an input or a bias to an output, it
    grows without bound in every direction. So the minimum is unique, and exact turns converge to it.

    References
    ----------
    Osborne, "On pre-conditioning of matrices", Journal of the ACM 7, 1960 (the same turns, for a matrix).
    Ostrovsky, Rabani, Yousefi, "Matrix balancing in Lp norms", SODA 2017 (their rate in the l1 norm).
    """
    scales = [np.ones_like(level.bias) for level in levels]
    scaled = [place for place, level in enumerate(levels) if level.homogeneous]
    for _ in range(MOST_SWEEPS):
        changes = [_turn(levels, scales, place) for place in scaled]
        if max(changes, default=0.0) <= SETTLED:
            break
    return scales


def _turn(levels: Sequence[Level], scales: list[Array], place: int) -> float:
    """Give a level's units their best scales; the largest relative change."""
    here, after = levels[place], levels[place + 1] if place + 1 < len(levels) else None
    made = here.bias + (here.incoming @ (1 / scales[place - 1]) if here.chained else here.incoming)
    read = scales[place + 1] @ here.outgoing if after and after.chained else here.outgoing.sum(axis=0)
    free = (made > 0) & (read > 0)
    before, best = scales[place][free], np.sqrt(read[free] / made[free])
    scales[place][free] = best
    return float(np.abs(np.log(best / before)).max(initial=0.0))


def _level(magnitude: Tensor, joint: Joint, before: Joint | None) -> Level:
    chained = before is not None and before.read_by == joint.made_by
    incoming = before.outgoing(magnitude).sum(dim=2) if before and chained else joint.incoming(magnitude)
    sizes = (incoming, _biases(magnitude, joint), joint.outgoing(magnitude).sum(dim=2))
    sources, bias, readers = (size.double().cpu().numpy() for size in sizes)
    return Level(sources if chained else sources.sum(axis=1), bias, readers, chained, joint.homogeneous)


def _biases(theta: Tensor, joint: Joint) -> Tensor:
    """The units' biases, a view of `theta`; zeros where the layer has none."""
    return view(theta, joint.bias) if joint.bias else torch.zeros_like(joint.incoming(theta)[:, 0])
