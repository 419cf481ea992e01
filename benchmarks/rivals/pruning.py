"""Gradual magnitude pruning: train densely, zero ever more of the smallest weights, train on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from benchmarks.rivals import dense
from benchmarks.rivals.adam import Adam
from benchmarks.rivals.base import Network, Rival, Task, stored
from benchmarks.rivals.grids import batches
from engine.losses import Loss

MOST_PRUNED = 0.99
ROUNDING = 1e-6
RUN_SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
PRUNED_SHARE, PRUNINGS = 0.6, 20
RATE, LAST_SHARE = 3e-3, 0.1


@final
class GradualPruning(Rival):
    """One continued run: after each of as many stages as points are wanted, a network.

    A weight once zero stays zero. The stages take the compute that is given, or `steps` each.

    Parameters
    ----------
    steps : int
        Steps per stage where no compute is given.
    most_passes : int
        Passes of the dense training at most.

    References
    ----------
    Zhu, Gupta, "To prune, or not to prune", arXiv 1710.01878, 2017, equation 1.
    """

    def __init__(self, steps: int = 120, most_passes: int = dense.MOST_PASSES) -> None:
        self._steps, self._most_passes = steps, most_passes

    def networks(self, task: Task) -> Iterator[Network]:
        theta = dense.trained(task.loss, task.seed, self._most_passes).theta
        steps = _affordable(task, task.points, self._steps)
        for i in range(task.points):
            mask = largest(theta, MOST_PRUNED * cubic((i + 1) / task.points))
            how = _Steps(task.seed * 1000 + i, steps, RATE, RATE * LAST_SHARE)
            theta = _tuned(task.loss, theta, mask, how)
            yield stored(task.loss, theta)


@final
class PruningRuns(Rival):
    """One run for each of five sparsities: in the first part of its steps it prunes, in the rest it fine-tunes.

    All start from the same dense network; they share out the compute that is given, or take `steps` each.

    Parameters
    ----------
    steps, most_passes : int
        As in `GradualPruning`; steps per run.

    References
    ----------
    Zhu, Gupta, "To prune, or not to prune", arXiv 1710.01878, 2017, equation 1.
    """

    def __init__(self, steps: int = 1000, most_passes: int = dense.MOST_PASSES) -> None:
        self._steps, self._most_passes = steps, most_passes

    def networks(self, task: Task) -> Iterator[Network]:
        start = dense.trained(task.loss, task.seed, self._most_passes).theta
        steps = _affordable(task, len(RUN_SPARSITIES), self._steps)
        for i, sparsity in enumerate(RUN_SPARSITIES):
            yield stored(task.loss, _pruned(task.loss, start, sparsity, task.seed * 1000 + i, steps))


def cubic(done: float) -> float:
    """Share of the final sparsity after this share of the stages."""
    return 1 - (1 - done) ** 3


def largest(theta: Tensor, sparsity: float) -> Tensor:
    """Mask of the weights that stay when at least this share of all is zero; those that are zero do not come back."""
    kept = max(int((1 - sparsity) * theta.numel() + ROUNDING), 1)
    mask = torch.zeros_like(theta, dtype=torch.bool)
    mask[theta.abs().topk(kept).indices] = True
    return mask & (theta != 0)


def _affordable(task: Task, parts: int, usual: int) -> int:
    """Steps of each part that the remaining compute pays for."""
    if task.passes is None:
        return usual
    first = next(batches(task.loss, 0, 1))
    return max(1, int((task.passes - task.loss.effort) / parts * task.loss.n_samples / len(first)))


def _pruned(loss: Loss, theta: Tensor, sparsity: float, seed: int, steps: int) -> Tensor:
    """Masks at regular steps of the first part, the last one for the rest."""
    length = max(1, int(PRUNED_SHARE * steps / PRUNINGS))
    for i in range(PRUNINGS):
        mask = largest(theta, sparsity * cubic((i + 1) / PRUNINGS))
        theta = _tuned(loss, theta, mask, _Steps(seed + 100 * i, length, RATE, RATE))
    rest = max(1, steps - PRUNINGS * length)
    return _tuned(loss, theta, mask, _Steps(seed + 100 * PRUNINGS, rest, RATE, RATE * LAST_SHARE))


@dataclass(frozen=True, slots=True)
class _Steps:
    seed: int
    count: int
    first_rate: float
    last_rate: float


def _tuned(loss: Loss, theta: Tensor, mask: Tensor, steps: _Steps) -> Tensor:
    """Adam on the weights of the mask, its learning rate going from the first to the last."""
    theta, adam = theta * mask, Adam(theta)
    for done, batch in enumerate(batches(loss, steps.seed, steps.count)):
        rate = steps.first_rate + (steps.last_rate - steps.first_rate) * done / steps.count
        theta = theta - adam.step(loss.value_and_grad(theta, batch)[1] * mask, rate)[0]
    return theta
