"""Sums over groups of weights: whole neurons, filters or input channels become zero together."""

from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from engine.errors import InvalidSpec
from engine.losses import Block
from engine.penalties.base import Penalty, Step, selection, smallest

Groups = Literal["neuron", "filter", "input"]

NEWTON_STEPS = 14
FALSE_POSITION_STEPS = 40


@final
class GroupL2(Penalty):
    """Sum over groups of sqrt(size) times the l2 norm (group lasso): whole units become zero.

    Parameters
    ----------
    blocks : sequence of Block
    groups : str
        What becomes zero together: "neuron" or "filter" (a unit's incoming weights, and its bias where penalised),
        or "input" (an input channel: a column of a weight matrix).
    parameters : str
        Which parameters are penalised: "weights" (no biases, no norm layers), "all", or comma-separated name patterns.

    References
    ----------
    Yuan, Lin, "Model selection and estimation in regression with grouped variables", JRSS B 68, 2006.
    Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021.
    """

    def __init__(self, blocks: Sequence[Block], *, groups: Groups = "neuron", parameters: str = "weights") -> None:
        mask = selection(blocks, parameters)
        self._group = _group_ids(blocks, mask, groups)
        self.penalised = self._group >= 0
        if not bool(self.penalised.any()):
            raise InvalidSpec(f"no weight matrix among parameters {parameters!r} to group by {groups!r}")
        sizes = torch.bincount(self._group[self.penalised])
        self._root_size = sizes.to(torch.float64).sqrt()
        self._group = torch.where(self.penalised, self._group, len(sizes))

    def value(self, theta: Tensor) -> Tensor:
        return (self._norms(theta) * self._sqrt_size(theta)).sum()

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        inverse = torch.as_tensor(step, dtype=theta.dtype, device=theta.device)
        if inverse.ndim == 0:
            return theta * self._spread(self._shrinkage(theta, inverse))
        return self._weighted_prox(theta, inverse)

    def subgradient(self, theta: Tensor) -> Tensor:
        norms = self._norms(theta)
        slope = torch.where(norms > 0, self._sqrt_size(theta) / norms.clamp_min(1e-30), 0.0)
        return theta * self._spread(slope, rest=0.0)

    def curvature(self, theta: Tensor, direction: Tensor) -> Tensor | None:
        norms = self._norms(theta)
        slope = torch.where(norms > 0, self._sqrt_size(theta) / norms.clamp_min(1e-30), 0.0)
        along = self._sums(theta * direction) / norms.square().clamp_min(1e-30)
        return (direction - theta * self._spread(along, rest=0.0)) * self._spread(slope, rest=0.0)

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        multiplier = self._crossing(theta, radius, metric)
        inside = multiplier == 0
        moved = self.prox(theta, multiplier.clamp_min(1e-30) * torch.as_tensor(metric, device=theta.device))
        return torch.where(inside, theta, moved), multiplier

    def trim(self, theta: Tensor, share: float) -> Tensor:
        dropped = smallest(self._sqrt_size(theta) * self._norms(theta), share)
        return torch.where(self._spread(dropped.to(theta), rest=0.0) > 0, 0.0, theta)

    def _crossing(self, theta: Tensor, radius: float, metric: Step) -> Tensor:
        """The least multiplier that brings the penalty to `radius`: false position in a bracket found by doubling.

        References
        ----------
        Dowell, Jarratt, "A modified regula falsi method", BIT 11, 1971 (the Illinois rule).
        """
        scale = torch.as_tensor(metric, dtype=theta.dtype, device=theta.device)

        def excess(multiplier: Tensor) -> float:
            return float(self.value(self.prox(theta, multiplier * scale))) - radius

        low = torch.zeros((), dtype=theta.dtype, device=theta.device)
        if (above := float(self.value(theta)) - radius) <= 0:
            return low
        high = theta.abs().max() / scale.max()
        while (below := excess(high)) > 0:
            low, above, high = high, below, 2 * high
        return _false_position(excess, (low, above), (high, below), 4 * torch.finfo(theta.dtype).eps * radius)

    def _shrinkage(self, theta: Tensor, step: Tensor) -> Tensor:
        norms = self._norms(theta)
        return (1 - step * self._sqrt_size(theta) / norms.clamp_min(1e-30)).clamp_min(0.0)

    def _weighted_prox(self, theta: Tensor, inverse: Tensor) -> Tensor:
        """Safeguarded Newton on each group's norm, all groups at once (Deleu, Bengio 2021, proposition 1)."""
        x, metric = theta.double(), 1 / inverse.double()
        level = self._root_size.to(x.device)
        root = self._root(x, metric, level)
        ratio = metric * self._spread(root)
        scale = ratio / (ratio + self._spread(level, rest=0.0)).clamp_min(1e-300)
        return torch.where(self._member(theta), theta * scale.to(theta.dtype), theta)

    def _root(self, x: Tensor, metric: Tensor, level: Tensor) -> Tensor:
        """Norm of each group after the prox, 0 where the group vanishes."""
        pull = self._norms(metric * x)
        largest = torch.zeros_like(level).scatter_reduce(0, self._ids(x), metric[self._member(x)], "amax")
        alive = pull > level
        root = torch.where(alive, (pull - level) / largest, 1.0)
        for _ in range(NEWTON_STEPS):
            width = self._spread(root) + self._spread(level) / metric
            excess = self._sums((x / width).square()) - 1
            slope = self._sums(x.square() / width**3)
            root = torch.where(alive, root + (excess / (2 * slope.clamp_min(1e-300))).clamp_min(0.0), root)
        return torch.where(alive, root, 0.0)

    def _norms(self, values: Tensor) -> Tensor:
        return self._sums(values.square()).sqrt()

    def _sums(self, values: Tensor) -> Tensor:
        total = torch.zeros(len(self._root_size) + 1, dtype=values.dtype, device=values.device)
        return total.index_add(0, self._on(values), values)[:-1]

    def _spread(self, per_group: Tensor, rest: float = 1.0) -> Tensor:
        """Each weight's group's value; `rest` where the weight is in none."""
        padded = torch.cat([per_group, per_group.new_full((1,), rest)])
        return padded[self._on(per_group)]

    def _sqrt_size(self, like: Tensor) -> Tensor:
        return self._root_size.to(device=like.device, dtype=like.dtype)

    def _member(self, like: Tensor) -> Tensor:
        return self.penalised.to(like.device)

    def _ids(self, like: Tensor) -> Tensor:
        return self._on(like)[self._member(like)]

    def _on(self, like: Tensor) -> Tensor:
        self._group = self._group.to(like.device)
        return self._group


def _group_ids(blocks: Sequence[Block], mask: Tensor, groups: Groups) -> Tensor:
    """Group number of each weight, -1 for weights in none."""
    ids = torch.full((blocks[-1].stop,), -1)
    count = 0
    for block in blocks:
        if len(block.shape) >= 2 and bool(mask[block.start]):
            dim = 1 if groups == "input" else 0
            numbers = torch.arange(block.shape[dim]) + count
            shape = [1] * len(block.shape)
            shape[dim] = -1
            ids[block.start : block.stop] = numbers.view(shape).expand(block.shape).reshape(-1)
            _join_bias(ids, blocks, mask, block, numbers if dim == 0 else None)
            count += block.shape[dim]
    return ids


def _join_bias(ids: Tensor, blocks: Sequence[Block], mask: Tensor, block: Block, numbers: Tensor | None) -> None:
    bias = block.name.removesuffix("weight") + "bias"
    for other in blocks:
        if numbers is not None and other.name == bias and bool(mask[other.start]):
            ids[other.start : other.stop] = numbers


def _false_position(
    excess: Callable[[Tensor], float], left: tuple[Tensor, float], right: tuple[Tensor, float], tolerance: float
) -> Tensor:
    """Where the decreasing `excess` crosses zero, from the side where it is not positive."""
    (low, above), (high, below) = left, right
    kept = high
    for _ in range(FALSE_POSITION_STEPS):
        if above - below <= tolerance or -tolerance <= below:
            break
        middle = high - (high - low) * (below / (below - above))
        value = excess(middle)
        if value > 0:
            low, above, below = middle, value, below / 2
        else:
            high, below, above, kept = middle, value, above / 2, middle
    return kept
