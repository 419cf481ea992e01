"""What every way to produce a front promises, and the measuring that all share."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from engine.front import Array, Layer, ParetoPoint, Trail, Waypoint
from engine.layout import Block
from engine.problem import Problem, State
from engine.threads import one_thread

MEASURING = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a trace stops at the latest.

    Parameters
    ----------
    epochs : float, optional
        Effort, in full passes over the training data.
    seconds : float, optional
        Seconds of work.
    """

    epochs: float | None = None
    seconds: float | None = None


class Tracer(ABC):
    """A way to produce a front, as an iterator of waypoints.

    Attributes
    ----------
    expected : int
        How many waypoints it will yield at most.
    ended : str
        Why the iteration ended, one sentence; empty before.
    follows : int or None
        Number of the job whose networks it needs; they are handed over by `follow` before it traces.
    cleanup : bool
        Whether it is to clean networks before it stores them.
    """

    expected: int
    ended: str = ""
    follows: int | None = None
    cleanup: bool = True

    def follow(self, source: Trail) -> None:  # noqa: B027 - most tracers follow no other job
        """Take what the job `follows` has found; then `expected` is known.

        Parameters
        ----------
        source : Trail
            Its numbers are read at once, its weights one network at a time.

        Raises
        ------
        InvalidSpec
            If there is nothing in it to go on from.
        """

    def check(self, blocks: Sequence[Block]) -> None:  # noqa: B027 - most tracers take every network
        """Refuse networks that this method cannot trace.

        Parameters
        ----------
        blocks : sequence of Block
            The network's parameter tensors.

        Raises
        ------
        InvalidSpec
            Naming what it can.
        """

    @final
    def trace(self, problem: Problem, trail: Sequence[Waypoint] = ()) -> Iterator[Waypoint]:
        """Yield waypoints in the order of their indices; on a processor, in as many threads as the work is worth.

        Parameters
        ----------
        problem : Problem
        trail : sequence of Waypoint
            What an earlier call yielded before it was stopped: go on from there, to the same bits as if never stopped.

        Raises
        ------
        Diverged
            If the loss becomes NaN or infinite.
        """
        waypoints = self._trace(problem, trail)
        while True:
            with one_thread():
                waypoint = next(waypoints, None)
            if waypoint is None:
                return
            yield waypoint

    @abstractmethod
    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        """What `trace` yields."""


class Clock:
    """Seconds and effort of a trace, stops not counted.

    Parameters
    ----------
    problem : Problem
    trail : sequence of Waypoint
        What was spent before a stop stands in its last point.
    """

    def __init__(self, problem: Problem, trail: Sequence[Waypoint]) -> None:
        self._loss = problem.loss
        self._loss.effort = trail[-1].point.effort if trail else 0.0
        self._start = time.perf_counter() - (trail[-1].point.seconds if trail else 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def allow(self, budget: Budget, share: float = 1.0) -> None:
        """Let correctors know how far they may go: to a share of what is left of the budget."""
        last = min(self._by_effort(budget), self._by_seconds(budget)) - MEASURING
        self._loss.limit = self._loss.effort + share * max(last - self._loss.effort, 0.0)

    def exhausted(self, budget: Budget) -> str:
        """Which part of the budget is used up, as a sentence; empty if none, and then correctors may use the rest."""
        self.allow(budget)
        if budget.epochs is not None and self._loss.effort >= budget.epochs:
            return f"The budget of {budget.epochs:g} epochs is used up."
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"The budget of {budget.seconds:g} seconds is used up."
        return ""

    def _by_effort(self, budget: Budget) -> float:
        return math.inf if budget.epochs is None else budget.epochs

    def _by_seconds(self, budget: Budget) -> float:
        """The effort that the seconds are enough for, as fast as it went so far."""
        known = budget.seconds is not None and self._loss.effort > 0
        return budget.seconds * self._loss.effort / self.seconds if known and budget.seconds else math.inf


def layers(blocks: Sequence[Block], theta: Tensor) -> tuple[Layer, ...]:
    """Sparsity of each parameter tensor; a unit is a row of a matrix, a filter, or an entry of a vector."""
    return tuple(_layer(block, theta[block.start : block.stop] != 0) for block in blocks)


def _layer(block: Block, alive: Tensor) -> Layer:
    units = alive.view(block.shape[0] if block.shape else 1, -1).any(dim=1)
    return Layer(block.name, block.shape, int(alive.sum()), int(units.sum()), len(units))


def measured(problem: Problem, clock: Clock, at: State, lam: float | None, known: tuple[float, Tensor]) -> Waypoint:
    """The waypoint of a state: objectives, certificate, sparsity and metrics; its index, parent and sweep are open.

    Parameters
    ----------
    lam : float or None
        The strength that was held; the multiplier of the weights if None.
    known : (float, Tensor)
        Loss and gradient there on all data.
    """
    theta, (loss, grad) = at.theta, known
    strength = problem.multiplier(theta, grad) if lam is None else lam
    metrics = {"l1": float(theta.abs().sum()), **problem.loss.metrics(theta)}
    if problem.cleanup:
        metrics["penalty_saved"] = at.saved
    point = ParetoPoint(
        index=0,
        parent=None,
        sweep=0,
        loss=loss,
        penalty=float(problem.penalty.value(theta)),
        lam=strength,
        residual=problem.residual(theta, grad, strength),
        n_nonzero=int(theta.count_nonzero()),
        n_params=theta.numel(),
        effort=problem.loss.effort,
        seconds=clock.seconds,
        metrics=metrics,
        layers=layers(problem.loss.layout, theta),
    )
    return Waypoint(point, _array(theta), {name: _array(tensor) for name, tensor in at.buffers.items()})


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy().copy()
    return array
