"""Refit: train the remaining weights of another job's networks without the penalty, while the zeros stay zero.

A penalty shrinks what it does not remove; refitting takes that bias away and leaves the sparsity.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from engine.correctors import Corrector
from engine.errors import InvalidSpec
from engine.front import Front, ParetoPoint, Trail, Waypoint
from engine.penalties.base import Penalty, Step
from engine.predictors import state
from engine.problem import Problem, State
from engine.tracers.base import Budget, Clock, Tracer, measured

OBJECTIVES = ("n_nonzero", "loss")
SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which networks of a job are refitted.

    Parameters
    ----------
    job : int
        Number of the job.
    limit : int
        So many at most, at least 2; of more, evenly spread ones from the sparsest to the densest.
    dominated : bool
        Also those that another beats in both nonzero weights and training loss.
    """

    job: int
    limit: int
    dominated: bool = False

    def of(self, points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
        """The chosen points, from sparse to dense."""
        kept = points if self.dominated else Front(tuple(points)).non_dominated(OBJECTIVES).points
        ordered = sorted(kept, key=lambda p: (p.n_nonzero, p.loss, p.index))
        if len(ordered) <= self.limit:
            return ordered
        return [ordered[round(i * (len(ordered) - 1) / (self.limit - 1))] for i in range(self.limit)]


@final
class Refit(Tracer):
    """Minimise the loss over the weights that are not zero, starting from where they are, network by network.

    A network whose training loss would rise keeps its weights. Points have no strength and no certificate; their metric
    ``source`` is the index of the network they were made from.

    Parameters
    ----------
    selection : Selection
    corrector : Corrector
        Holds the strength; it minimises over the support because its penalty is the support's indicator.
    seed : int
    budget : Budget, optional
    cleanup : bool
        Whether refitted networks are cleaned before they are stored.

    References
    ----------
    Meinshausen, "Relaxed lasso", Computational Statistics & Data Analysis 52, 2007 (phi = 0).
    Belloni, Chernozhukov, "Least squares after model selection in high-dimensional sparse models", Bernoulli 19, 2013.
    """

    def __init__(
        self,
        selection: Selection,
        corrector: Corrector,
        seed: int = 0,
        budget: Budget | None = None,
        cleanup: bool = True,
    ) -> None:
        self._selection, self._corrector, self.cleanup = selection, corrector, cleanup
        self._seed, self._budget = seed, budget or Budget()
        self._source: Sequence[Waypoint] = ()
        self._chosen: list[ParetoPoint] = []
        self.follows = selection.job
        self.expected = selection.limit

    def follow(self, source: Trail) -> None:
        if not source.points:
            raise InvalidSpec(f"job {self.follows} has no points to refit")
        self._source, self._chosen = source, self._selection.of(source.points)
        self.expected = len(self._chosen)

    def trace(self, problem: Problem, trail: Sequence[Waypoint] = ()) -> Iterator[Waypoint]:
        clock = Clock(problem, trail)
        done = [int(waypoint.point.metrics[SOURCE]) for waypoint in trail]
        for source in (p.index for p in self._chosen if p.index not in done):
            if reason := clock.exhausted(self._budget):
                self.ended = reason
                return
            yield self._waypoint(problem, clock, source, len(done))
            done.append(source)
        self.ended = f"The {len(done)} networks of job {self.follows} were refitted, their zeros kept."

    def _waypoint(self, problem: Problem, clock: Clock, source: int, index: int) -> Waypoint:
        at, known = self._refitted(problem, state(problem, self._source[source]), self._draw(source))
        problem.loss.load_buffers(at.buffers)
        found = measured(problem, clock, at, 0.0, known)
        metrics = {**found.point.metrics, SOURCE: float(source)}
        return replace(found, point=replace(found.point, index=index, lam=None, residual=None, metrics=metrics))

    def _refitted(self, problem: Problem, start: State, draw: int) -> tuple[State, tuple[float, Tensor]]:
        """The better of the network as it was and as refitted, with its loss and gradient on all data."""
        on_support = replace(problem, penalty=Support(start.theta != 0))
        refitted = self._corrector.correct(on_support, replace(start, step=None), draw).state
        both = [(at, _known(problem, at)) for at in (start, problem.cleaned(refitted))]
        return min(both, key=lambda found: found[1][0])

    def _draw(self, source: int) -> int:
        """A seed of its own for every network."""
        digest = hashlib.sha256(f"{self._seed}/refit/{source}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@final
class Support(Penalty):
    """The indicator of a support: nothing on it, infinite off it; so the proximal operator is the projection on it.

    Parameters
    ----------
    mask : Tensor of bool, shape (n_params,)
    """

    def __init__(self, mask: Tensor) -> None:
        self.penalised = mask

    def value(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta[0])

    def prox(self, theta: Tensor, step: Step) -> Tensor:
        return torch.where(self.penalised, theta, 0.0)

    def subgradient(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def project(self, theta: Tensor, radius: float, metric: Step = 1.0) -> tuple[Tensor, Tensor]:
        return self.prox(theta, metric), torch.zeros_like(theta[0])


def _known(problem: Problem, at: State) -> tuple[float, Tensor]:
    problem.loss.load_buffers(at.buffers)
    value, grad = problem.loss.value_and_grad(at.theta)
    return float(value), grad
